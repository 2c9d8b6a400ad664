//! The trunk's program: what it drops, tc would drop for the same reason, and everything else is tc's to judge.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use aya::programs::Xdp;
use frames::{Frame, arp, ip, tagged};
use node::Node;
use node::rules::{ec2, set};
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};
use sgp_agent::domain::desired::Desired;
use sgp_agent::domain::enforcement::{Early, Untold};
use sgp_agent::domain::observed::{Attachment, LinkFacts, NetworkInterface, Observed, Vlan};
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Kernel, trial};
use sgp_common::flow::{ACK, SYN};
use sgp_common::pins::program;
use sgp_common::{Direction, DropReason};

const A: &str = "10.0.2.20";
const MAC: [u8; 6] = [2, 0, 0, 0, 7, 7];
/// VLAN ids: of the first pod, of somebody else's interface, of nobody.
const OWN: u16 = 1;
const STRANGER: u16 = 40;
const NOBODY: u16 = 41;

struct Trunk {
    node: Node,
    program: Xdp,
    observed: Observed,
}

impl Trunk {
    fn start(rules: &[&str], untold: Untold) -> Option<Self> {
        let mut node = Node::start(1)?;
        let trunk = node.link("trunk0");
        let mut observed = node.observed(&ec2(&[("sg-1", rules)]), &[set(&["sg-1"])]);
        let eni = NetworkInterface {
            id: "eni-trunk".into(),
            mac: "02:00:00:00:07:07".into(),
            interface_type: "trunk".into(),
            attachment: Some(Attachment { status: "attached".into(), ..Attachment::default() }),
            ..NetworkInterface::default()
        };
        observed.cloud.as_mut().expect("told").interfaces.insert(eni.id.clone(), eni);
        let stranger = Some(Vlan { parent: trunk, id: STRANGER });
        let links = observed.links.as_mut().expect("told");
        // As the kernel makes it: under its parent's MAC address.
        links.push(LinkFacts { vlan: stranger, ..node.described_link("other", 9_999, MAC) });
        links.push(node.described_link("trunk0", trunk, MAC));
        observed.enforcement.early = Early::Generic;
        observed.enforcement.untold = untold;
        node.apply(&observed);
        let program = trial::early(&PinDirs::new(&node.dir)).expect("a pinned program");
        Some(Self { node, program, observed })
    }

    /// The reason for which a frame is dropped early, by what was told of it; `None` where it goes on.
    fn early(&mut self, frame: &[u8]) -> Option<DropReason> {
        self.node.sample();
        self.node.drain();
        let passed = trial::run_early(&self.program, frame).expect("BPF_PROG_TEST_RUN");
        let events = self.node.events();
        assert_eq!(passed, events.is_empty(), "a drop is told, and nothing else is: {events:?}");
        events.first().map(|event| {
            assert_eq!(event.direction, Direction::Inbound);
            DropReason::from_code(event.reason).expect("a reason")
        })
    }

    /// The same for tc, of the frame whose tag the kernel took off.
    fn late(&mut self, frame: &[u8]) -> Option<DropReason> {
        let at = self.node.pods[0].receives();
        let ran = self.node.run(at, frame);
        if ran.passed { None } else { DropReason::from_code(ran.events[0].reason) }
    }

    fn pod(&self, port: u16) -> (IpAddr, u16) {
        (self.node.pods[0].ipv4, port)
    }
}

fn syn(to: (IpAddr, u16)) -> Frame {
    Frame::tcp((ip(A), 40000), to, SYN)
}

fn own(frame: &Frame) -> Vec<u8> {
    tagged(frame.bytes(), OWN)
}

#[test]
fn what_no_rule_and_no_flow_can_let_pass_goes_and_what_one_may_stays() {
    let Some(mut trunk) = Trunk::start(&["in tcp 443 10.0.0.0/8", "out all * 0.0.0.0/0"], Untold::Drops) else {
        return;
    };
    let (allowed, refused) = (syn(trunk.pod(443)), syn(trunk.pod(80)));
    assert_eq!(trunk.early(&own(&allowed)), None);
    assert_eq!(trunk.node.maps.flows.keys().count(), 0, "nothing is remembered before tc has judged");
    assert_eq!(trunk.early(&own(&refused)), Some(DropReason::NoMatchingRule));
    let elsewhere = syn((ip("10.9.9.99"), 443));
    assert_eq!(trunk.early(&own(&elsewhere)), Some(DropReason::UnknownEndpoint), "not this pod's address");
    let answer = Frame::tcp((ip(A), 40000), trunk.pod(80), SYN | ACK);
    assert_eq!(trunk.early(&own(&answer)), Some(DropReason::NoMatchingRule));
    let at = trunk.node.pods[0].leaves();
    assert!(trunk.node.run(at, &Frame::tcp(trunk.pod(80), (ip(A), 40000), SYN).bytes()).passed);
    assert_eq!(trunk.early(&own(&answer)), None, "by the flow that the pod opened");
    let flow = trunk.node.maps.flows.iter().flatten().next().expect("a flow").1;
    assert_eq!(flow.packets_in, 0, "tc counts it into its flow");
}

#[test]
fn frames_of_a_vlan_that_nobody_has_go_and_those_of_strangers_stay() {
    for (untold, expected) in [(Untold::Drops, Some(DropReason::UnknownEndpoint)), (Untold::Passes, None)] {
        let Some(mut trunk) = Trunk::start(&[], untold) else { return };
        let frame = syn(trunk.pod(80)).bytes();
        assert_eq!(trunk.early(&tagged(frame.clone(), NOBODY)), expected, "{untold:?}");
        for id in [STRANGER, 0] {
            assert_eq!(trunk.early(&tagged(frame.clone(), id)), None, "VLAN {id}");
        }
    }
}

#[test]
fn the_trunks_own_frames_arp_fragments_and_icmp_errors_are_not_judged_here() {
    let Some(mut trunk) = Trunk::start(&[], Untold::Drops) else { return };
    let to = trunk.pod(80);
    let own_frame = syn(to).bytes();
    assert_eq!(trunk.early(&own_frame), None, "no tag");
    let mut service = own_frame.clone();
    service.splice(12..12, [0x88, 0xa8, 0, 1]);
    assert_eq!(trunk.early(&service), None, "another kind of tag");
    assert_eq!(trunk.early(&tagged(arp(), OWN)), None);
    assert_eq!(trunk.early(&own(&Frame::icmp(ip(A), to.0, 3, 4, 0))), None);
    let mut fragment = own_frame.clone();
    (fragment[20], fragment[21]) = (0x20, 0);
    assert_eq!(trunk.early(&tagged(fragment.clone(), OWN)), None, "a first fragment");
    (fragment[20], fragment[21]) = (0, 9);
    assert_eq!(trunk.early(&tagged(fragment, OWN)), None, "a later one");
    assert_eq!(trunk.early(&tagged(tagged(own_frame.clone(), OWN), OWN)), Some(DropReason::UnsupportedProtocol));
    assert_eq!(trunk.early(&tagged(own_frame, OWN)[..40]), Some(DropReason::Malformed), "cut off");
}

#[test]
fn a_frame_in_several_pieces_is_read_whole() {
    let Some(mut trunk) = Trunk::start(&["in tcp 443 10.0.0.0/8"], Untold::Drops) else { return };
    for (port, expected) in [(443, None), (80, Some(DropReason::NoMatchingRule))] {
        let mut jumbo = syn(trunk.pod(port));
        jumbo.payload.resize(8_000, 7);
        assert_eq!(trunk.early(&own(&jumbo)), expected, "port {port}");
        let bytes = own(&jumbo);
        assert_eq!(trunk.early(&bytes[..bytes.len() - 100]), Some(DropReason::Malformed), "shorter than it says");
    }
}

#[test]
fn whatever_is_dropped_early_tc_would_drop_for_the_same_reason() {
    let rules = ["in tcp 443 10.0.0.0/8", "in udp 53 0.0.0.0/0", "in icmp 8 10.0.0.0/8", "out udp * 0.0.0.0/0"];
    let Some(trunk) = Trunk::start(&rules, Untold::Drops) else { return };
    let (trunk, early, late) = (RefCell::new(trunk), Cell::new(0), Cell::new(0));
    let shape = (0..4_usize, 0..4_usize, any::<[(u8, u8); 2]>(), 0..80_usize, 0..3_u8);
    let mut runner = TestRunner::new(Config { cases: 20_000, failure_persistence: None, ..Config::default() });
    let run = runner.run(&shape, |(kind, port, changes, cut, changed)| {
        let mut trunk = trunk.borrow_mut();
        let to = trunk.pod([443, 53, 80, 8080][port]);
        let from = ([ip(A), ip("192.0.2.7")][port % 2], 40000);
        let frame = match kind {
            0 => Frame::tcp(from, to, SYN),
            1 => Frame::tcp(from, to, ACK),
            2 => Frame::udp(from, to),
            _ => Frame::icmp(from.0, to.0, 8, 0, 7),
        };
        let mut bytes = frame.bytes();
        for (place, value) in changes.into_iter().take(usize::from(changed)) {
            let place = 12 + usize::from(place) % (bytes.len() - 12);
            bytes[place] = value;
        }
        // Now and then the frame ends early; the kernel runs none in tc that has less than an IP header.
        if cut < 20 {
            bytes.truncate((bytes.len() - cut).max(34));
        }
        let first = trunk.early(&tagged(bytes.clone(), OWN));
        let then = trunk.late(&bytes);
        early.set(early.get() + u32::from(first.is_some()));
        late.set(late.get() + u32::from(then.is_some()));
        if first.is_some() {
            proptest::prop_assert_eq!(first, then);
        }
        Ok(())
    });
    run.expect("no difference");
    let (early, late) = (early.get(), late.get());
    assert!(early > 1_000 && early <= late, "{early} of {late} drops came early");
    println!("{early} of {late} drops came early");
}

#[test]
fn it_is_attached_taken_off_by_the_switch_and_goes_before_nobody_elses() {
    let Some(mut trunk) = Trunk::start(&[], Untold::Drops) else { return };
    let on_trunk = |trunk: &Trunk| {
        let links = trunk.node.kernel.installed().expect("what is installed").links;
        links.iter().filter(|link| link.program == program::FROM_TRUNK).count()
    };
    assert_eq!(on_trunk(&trunk), 1);
    trunk.node.reopen();
    assert_eq!((on_trunk(&trunk), trunk.node.plan(&trunk.observed)), (1, vec![]), "a restarted agent finds it");
    let mut off = trunk.observed.clone();
    off.enforcement.early = Early::Off;
    trunk.node.apply(&off);
    assert_eq!(on_trunk(&trunk), 0);
    let mut taken = trunk.observed.clone();
    taken.links.iter_mut().flatten().filter(|link| link.name == "trunk0").for_each(|link| link.others_xdp = Some(5));
    let desired = Desired::from(&taken);
    assert_eq!(desired.refused.len(), 1, "{:?}", desired.refused);
    assert!(desired.early.is_none());
    trunk.observed.enforcement.early = Early::Auto;
    let observed = trunk.observed.clone();
    trunk.node.apply(&observed);
    assert_eq!(on_trunk(&trunk), 1, "a veth takes it natively");
}
