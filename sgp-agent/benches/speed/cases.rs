//! What is measured, and against which floor.

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use sgp_common::Direction;
use sgp_common::pins::program;

use crate::driver::{Driver, Load};
use crate::early::{self, Seen};
use crate::node::At;
use crate::place::{Dropped, PREFIXED, Place, RULES};
use crate::primary::NODE;
use crate::rules::{ASKED, SERVED};
use crate::talk::{Talk, outside, remote, stranger};

/// What the node's pods are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// All leaves by the branch.
    Strict,
    /// What leaves the VPC is translated.
    Standard,
}

/// One figure.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Name of the case it is held against.
    pub(crate) floor: Option<String>,
    what: What,
    flows: u32,
    v6: bool,
}

#[derive(Clone)]
enum What {
    /// A floor that remembers nothing.
    Floor(&'static str),
    /// Lookups in the floors' table.
    Found,
    /// Lookups in it that find nothing.
    Missed,
    /// Insertions into it.
    Inserted,
    /// Packets of flows that stand.
    Established(Direction),
    /// Packets at the pod's veth.
    Veth(Direction),
    /// Packets that each open a flow of this pod.
    New(usize),
    /// Packets that no rule of this pod allows.
    Denied(usize),
    /// Frames that no rule of the first pod allows, as a driver has them.
    Frames(Seen),
    /// Packets of translated flows that stand.
    Translated(Direction),
    /// Packets that each open a translated flow.
    NewTranslated,
}

/// tc's answers: go on, drop, redirect.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;
/// Numbers of flows.
const FLOWS: [u32; 4] = [1, 1 << 12, 1 << 16, 1 << 18];
/// How many flows are opened before the endpoint's count is set back.
const OPENED_AT_ONCE: u32 = 1 << 15;
/// How many packets a figure is the mean of.
const PACKETS: u32 = 1 << 17;

/// The cases of a kind of node whose name contains `only`, each behind its floor.
pub(crate) fn of(kind: Kind, only: &str) -> Vec<Case> {
    let all = match kind {
        Kind::Strict => strict(),
        Kind::Standard => standard(),
    };
    let asked = |case: &&Case| case.name.contains(only);
    let floors: Vec<String> = all.iter().filter(asked).filter_map(|case| case.floor.clone()).collect();
    all.into_iter().filter(|case| case.name.contains(only) || floors.contains(&case.name)).collect()
}

fn case(name: &str, floor: &str, what: What, flows: u32) -> Case {
    let floor = (!floor.is_empty()).then(|| floor.to_owned());
    Case { name: name.into(), floor, what, flows, v6: name.contains("IPv6") }
}

/// `1 rule`, `60 rules`.
fn many(count: impl Into<u32>, what: &str) -> String {
    match count.into() {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

fn strict() -> Vec<Case> {
    let mut cases: Vec<Case> =
        ["parse", "clock", "tick"].map(|name| case(&format!("floor: {name}"), "", What::Floor(name), 1)).into();
    cases.extend(FLOWS.into_iter().flat_map(|flows| established(flows, "")));
    cases.extend([FLOWS[0], FLOWS[2]].into_iter().flat_map(|flows| established(flows, ", IPv6")));
    let from_pod = case("at the veth, from the pod", "", What::Veth(Direction::Outbound), 1 << 12);
    let to_pod = case("at the veth, to the pod", "", What::Veth(Direction::Inbound), 1 << 12);
    cases.extend([from_pod, to_pod]);
    let floor = "floor: miss and insert";
    cases.push(case(floor, "", What::Inserted, OPENED_AT_ONCE));
    cases.extend(RULES.iter().enumerate().map(|(pod, rules)| {
        case(&format!("new flow, {}", many(*rules, "rule")), floor, What::New(pod), OPENED_AT_ONCE)
    }));
    cases.push(case("new flow, 10000 prefixes", floor, What::New(PREFIXED), OPENED_AT_ONCE));
    cases.push(case("new flow, 60 rules, IPv6", floor, What::New(1), OPENED_AT_ONCE));
    cases.extend([1, 1 << 16].into_iter().flat_map(denied));
    let floor = "from the driver: skb, then denied by tc";
    cases.push(case(floor, "", What::Frames(Seen::Late), 1));
    cases.push(case("from the driver: denied by XDP, no skb", floor, What::Frames(Seen::Early), 1));
    cases
}

fn denied(senders: u32) -> [Case; 3] {
    let count = many(senders, "sender");
    let floor = format!("floor: miss, {count}");
    let of_pod = |pod: usize| {
        case(&format!("denied, {}, {count}", many(RULES[pod], "rule")), &floor, What::Denied(pod), senders)
    };
    [case(&floor, "", What::Missed, senders), of_pod(0), of_pod(RULES.len() - 1)]
}

fn established(flows: u32, family: &str) -> [Case; 3] {
    let count = many(flows, "flow");
    let floor = format!("floor: lookup and store, {count}{family}");
    let standing = |name: &str, direction| {
        case(&format!("established, {count}, {name}{family}"), &floor, What::Established(direction), flows)
    };
    [case(&floor, "", What::Found, flows), standing("in", Direction::Inbound), standing("out", Direction::Outbound)]
}

fn standard() -> Vec<Case> {
    let mut cases = Vec::new();
    for flows in [1, 1 << 16] {
        let floor = format!("floor: lookup and store, {}, standard mode", many(flows, "flow"));
        cases.push(case(&floor, "", What::Found, flows));
        for (way, direction) in [("out", Direction::Outbound), ("back", Direction::Inbound)] {
            let name = format!("translated, {}, {way}", many(flows, "flow"));
            cases.push(case(&name, &floor, What::Translated(direction), flows));
        }
    }
    let floor = "floor: miss and insert, standard mode";
    cases.push(case(floor, "", What::Inserted, OPENED_AT_ONCE));
    cases.push(case("new translated flow", floor, What::NewTranslated, OPENED_AT_ONCE));
    cases
}

impl Case {
    /// Measures it once: nanoseconds a packet, net.
    pub(crate) fn run(&self, place: &mut Place, driver: &mut Driver) -> Result<f64> {
        match self.what {
            What::Floor(name) => {
                let floor = driver.floor(name)?;
                let (frame, load) = self.load(place, Direction::Inbound, 0);
                driver.net(&floor, &Load { frame: &frame, answer: None, ..load })
            }
            What::Found => {
                driver.forget()?;
                let (frame, load) = self.load(place, Direction::Inbound, 0);
                let load = Load { frame: &frame, answer: Some(0), ..load };
                driver.run(&driver.floor("insert")?, &Load { packets: self.flows, ..load })?;
                driver.net(&driver.floor("lookup")?, &load)
            }
            What::Missed => {
                driver.forget()?;
                let (frame, load) = self.load(place, Direction::Inbound, 0);
                driver.net(&driver.floor("lookup")?, &Load { frame: &frame, answer: None, ..load })
            }
            What::Inserted => {
                driver.forget()?;
                let (frame, load) = self.load(place, Direction::Inbound, 0);
                driver.net(
                    &driver.floor("insert")?,
                    &Load { frame: &frame, answer: Some(0), packets: self.flows, ..load },
                )
            }
            What::Established(direction) => {
                self.open(place, driver, &[direction, direction.opposite()])?;
                self.judged(place, driver, direction, 0)
            }
            What::Veth(direction) => self.at_veth(place, driver, direction),
            What::New(pod) => {
                place.tables.forget()?;
                self.judged(place, driver, Direction::Inbound, pod)
            }
            What::Denied(pod) => {
                place.tables.forget()?;
                self.judged(place, driver, Direction::Inbound, pod)
            }
            What::Frames(seen) => early::measure(&self.talk(place, Direction::Inbound, 0), seen, place, PACKETS),
            What::Translated(direction) => {
                self.open(place, driver, &[Direction::Outbound, Direction::Inbound])?;
                self.judged(place, driver, direction, 0)
            }
            What::NewTranslated => {
                place.tables.forget()?;
                self.judged(place, driver, Direction::Outbound, 0)
            }
        }
    }

    fn is_translated(&self) -> bool {
        matches!(self.what, What::Translated(_) | What::NewTranslated)
    }

    /// Who speaks to whom. What is asked of a pod is opened from outside, and what a pod asks by itself.
    fn talk(&self, place: &Place, direction: Direction, pod: usize) -> Talk {
        let opened = if self.is_translated() { Direction::Outbound } else { self.opened() };
        let pod = &place.node.pods[pod];
        let replies = self.is_translated() && direction == Direction::Inbound;
        let own = if self.v6 { pod.ipv6 } else { pod.ipv4 };
        let remote = match self.what {
            What::Denied(_) | What::Frames(_) => stranger(self.v6),
            _ if self.is_translated() => outside(),
            _ => remote(self.v6),
        };
        let service = if opened == Direction::Inbound { SERVED } else { ASKED };
        Talk { local: if replies { NODE.into() } else { own }, remote, service, opened, mac: pod.mac }
    }

    fn opened(&self) -> Direction {
        match self.what {
            What::Established(direction) | What::Veth(direction) => direction,
            _ => Direction::Inbound,
        }
    }

    /// Packets of this case, without their frame, which is returned beside them.
    fn load(&self, place: &Place, direction: Direction, pod: usize) -> (Vec<u8>, Load<'static>) {
        let talk = self.talk(place, direction, pod);
        let at = self.at(place, direction, pod);
        let new = matches!(self.what, What::New(_) | What::NewTranslated);
        let packets = if new { self.flows } else { PACKETS };
        let answer = match (&self.what, direction) {
            (What::Denied(_), _) => SHOT,
            (What::Translated(_) | What::NewTranslated, Direction::Outbound) => REDIRECT,
            _ => UNSPEC,
        };
        let load =
            Load { frame: &[], words: talk.words(direction), flows: self.flows, packets, at, answer: Some(answer) };
        (talk.frame(direction), load)
    }

    fn at(&self, place: &Place, direction: Direction, pod: usize) -> At {
        let pod = &place.node.pods[pod];
        match (&self.what, direction) {
            (What::Veth(_), Direction::Outbound) => pod.sends(),
            (What::Veth(_), Direction::Inbound) => pod.given(pod.branch),
            (_, Direction::Inbound) if self.is_translated() => {
                At { program: program::FROM_PRIMARY, ifindex: place.primary, ingress: place.primary, mark: 0 }
            }
            (_, Direction::Inbound) => pod.receives(),
            (_, Direction::Outbound) => pod.leaves(),
        }
    }

    /// Opens every flow of the case anew, and has each direction pass once.
    fn open(&self, place: &mut Place, driver: &mut Driver, directions: &[Direction]) -> Result<()> {
        place.tables.forget()?;
        for direction in directions {
            let (frame, load) = self.load(place, *direction, 0);
            let program = place.program(load.at.program)?;
            let at_once = self.flows.min(OPENED_AT_ONCE);
            for begun in (0..self.flows).step_by(at_once as usize) {
                place.tables.uncount()?;
                driver.run_from(begun, &program, &Load { frame: &frame, packets: at_once, ..load })?;
            }
        }
        ensure!(
            place.tables.flows() == self.flows as usize,
            "{} flows stand, not {}",
            place.tables.flows(),
            self.flows
        );
        Ok(())
    }

    /// Measures the program that judges, and sees to it that it says the same of every packet.
    fn judged(&self, place: &mut Place, driver: &mut Driver, direction: Direction, pod: usize) -> Result<f64> {
        let (frame, load) = self.load(place, direction, pod);
        let program: ProgramFd = place.program(load.at.program)?;
        let dropped = if load.answer == Some(SHOT) { Dropped::Yes } else { Dropped::No };
        let before = place.counted(pod, dropped);
        let ns = driver.net(&program, &Load { frame: &frame, ..load })?;
        let counted = place.counted(pod, dropped) - before;
        ensure!(counted == u64::from(load.packets), "{counted} of {} packets were judged as they should", load.packets);
        Ok(ns)
    }

    fn at_veth(&self, place: &mut Place, driver: &mut Driver, direction: Direction) -> Result<f64> {
        let (frame, load) = self.load(place, direction, 0);
        driver.net(&place.program(load.at.program)?, &Load { frame: &frame, ..load })
    }
}
