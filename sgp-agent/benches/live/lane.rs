//! One configuration: a pod, the other side, and whoever is between.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use sgp_agent::domain::enforcement::Shortcuts;

use crate::course::BURST;
use crate::ground::returned;
use crate::measure::Measure;
use crate::primary::NODE;
use crate::processors::Processors;
use crate::sockets;
use crate::stand::Stand;
use crate::traffic::{Came, Ends, Load, Memory, Sender, Traffic};

/// Where the other side is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Far {
    /// In the VPC, behind the branch.
    Vpc,
    /// Outside of it, behind the primary interface; under the node's address where somebody translates.
    Beyond,
}

/// Plain forwarding, which all others are held against, is the first stand.
pub(crate) const PLAIN: usize = 0;

/// See the module.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    /// Index of its stand.
    pub(crate) stand: usize,
    /// Index of its pod.
    pub(crate) pod: usize,
    pub(crate) far: Far,
    /// Which packets go past the host stack.
    pub(crate) shortcuts: Shortcuts,
}

impl Lane {
    /// Whether a measure says anything here that it does not say elsewhere: where first packets go past the stack, only what
    /// has many of them.
    pub(crate) fn is_worth(&self, measure: Measure) -> bool {
        self.shortcuts != Shortcuts::All || matches!(measure, Measure::New | Measure::Connections)
    }
}

/// How many flows are opened before the endpoint's count is set back.
const OPENED_AT_ONCE: u32 = 1 << 15;
/// How many packets a value is the mean of: some milliseconds, to fit between what else runs.
const PACKETS: u32 = 1 << 13;
/// How many such values a figure is the median of.
const SLICES: usize = 12;
/// How many flows there can be, if each packet is to open one that never was.
const ANY: u32 = 1 << 25;

/// What figures are taken with.
pub(crate) struct Bench {
    pub(crate) stands: Vec<Stand>,
    pub(crate) traffic: Traffic,
    pub(crate) processors: Processors,
    /// How many values of what is done by sockets a figure is the median of.
    pub(crate) turns: usize,
    /// Number of the next flow that never was.
    pub(crate) fresh: u32,
}

impl Bench {
    /// Values of a lane and of another one, taken in turns so that noise is theirs together: the medians.
    pub(crate) fn pair(&mut self, lanes: [&Lane; 2], measure: Measure, round: usize) -> Result<[f64; 2]> {
        lanes.iter().try_for_each(|lane| self.prepare(lane, measure))?;
        let turns = if measure.is_by_sockets() { self.turns } else { SLICES };
        let mut values = [Vec::new(), Vec::new()];
        for turn in 0..turns {
            let first = (round + turn) % 2;
            for which in [first, 1 - first] {
                values[which].push(self.take(lanes[which], measure, turn)?);
            }
        }
        Ok(values.map(median))
    }

    /// Opens what is to stand. A packet of each flow follows, so that no value is that of a flow's second packet, which may
    /// go another way than later ones.
    fn prepare(&mut self, lane: &Lane, measure: Measure) -> Result<()> {
        self.stands[lane.stand].shorten(lane.shortcuts);
        self.stands[lane.stand].forget()?;
        let (Measure::Out(flows) | Measure::In(flows)) = measure else { return Ok(()) };
        let sender = measure.sender(lane.far);
        // What is translated is never asked, only answered.
        let opener = if sender == Sender::Answering { Sender::Pod } else { sender };
        self.open(lane, opener, flows)?;
        // Whoever opened them sends it, also where only answers are counted.
        for sender in [opener, sender] {
            self.send(lane, |load| Load { sender, flows, packets: flows, ..load })?;
        }
        Ok(())
    }

    /// Takes one value.
    fn take(&mut self, lane: &Lane, measure: Measure, turn: usize) -> Result<f64> {
        match measure {
            Measure::Out(flows) | Measure::In(flows) => self.rate(lane, measure.sender(lane.far), flows, turn),
            Measure::New => self.new_flows(lane, turn),
            Measure::Tcp(streams) => self.ends(lane).throughput(streams),
            Measure::Connections => self.ends(lane).connections(),
            Measure::Requests => self.ends(lane).requests(),
        }
    }

    fn ends(&self, lane: &Lane) -> sockets::Ends<'_> {
        let ground = &self.stands[lane.stand].ground;
        let (pod, outside) = (&ground.pods[lane.pod].space, &ground.outside);
        sockets::Ends { pod, outside, remote: lane.remote(), processors: self.processors }
    }

    /// Sends packets on a lane.
    fn send(&mut self, lane: &Lane, order: impl FnOnce(Load<'_>) -> Load<'_>) -> Result<Came> {
        let ground = &self.stands[lane.stand].ground;
        let seat = &ground.pods[lane.pod];
        let branch = seat.beyond();
        let load = order(Load {
            seat,
            outside: &ground.outside,
            beyond: &branch,
            sender: Sender::Pod,
            macs: seat.sent(),
            remote: lane.remote(),
            flows: 1,
            packets: BURST,
            first: 0,
            ends: Ends::Swallow,
            memory: lane.memory(),
        });
        let is_translated = self.stands[lane.stand].enforces() && lane.far == Far::Beyond;
        let load = match load.sender {
            Sender::Pod => load,
            // Without translation answers come by the branch.
            Sender::Answering if is_translated => Load { beyond: "inet0", macs: returned(), ..load },
            Sender::Answering | Sender::Outside => Load { macs: seat.delivered(), ..load },
        };
        let processors = self.processors;
        let traffic = &mut self.traffic;
        processors.on_first(|| traffic.send(&load))
    }

    /// Opens flows: a packet of each passes, and its answer.
    fn open(&mut self, lane: &Lane, sender: Sender, flows: u32) -> Result<()> {
        let at_once = flows.min(OPENED_AT_ONCE);
        for first in (0..flows).step_by(at_once as usize) {
            self.stands[lane.stand].uncount()?;
            let came =
                self.send(lane, |load| Load { sender, flows, packets: at_once, first, ends: Ends::Answer, ..load })?;
            let both = [came.pod, came.outside];
            ensure!(both == [u64::from(at_once); 2], "of {at_once} flows {both:?} packets came to the pod and outside");
        }
        let stand = &self.stands[lane.stand];
        if let Some(standing) = stand.flows() {
            ensure!(standing == flows as usize, "{standing} flows stand, not {flows}");
        }
        if sender == Sender::Pod {
            let is_translated = stand.enforces() && lane.far == Far::Beyond;
            let own = stand.ground.pods[lane.pod].address();
            let expected = if is_translated { Ipv4Addr::from(NODE) } else { own };
            let seen = self.traffic.seen(lane.memory())?;
            ensure!(seen == expected, "the pod is seen as {seen} instead of {expected}");
        }
        Ok(())
    }

    /// Packets a second that come through.
    fn rate(&mut self, lane: &Lane, sender: Sender, flows: u32, turn: usize) -> Result<f64> {
        let first = turn as u32 * PACKETS;
        let came = self.send(lane, |load| Load { sender, flows, packets: PACKETS, first, ..load })?;
        came.rate(sender)
    }

    /// Packets a second that come through, if each opens a flow.
    fn new_flows(&mut self, lane: &Lane, turn: usize) -> Result<f64> {
        if (turn as u32 * PACKETS).is_multiple_of(OPENED_AT_ONCE) {
            self.stands[lane.stand].forget()?;
        }
        let first = self.fresh;
        self.fresh = first.wrapping_add(PACKETS);
        let came = self.send(lane, |load| Load { flows: ANY, packets: PACKETS, first, ..load })?;
        came.rate(Sender::Pod)
    }

    /// Sees to it that what is measured is what it is called: who enforces stops what no rule allows, and nobody else does.
    pub(crate) fn try_out(&mut self, lane: &Lane) -> Result<()> {
        self.stands[lane.stand].forget()?;
        let came = self.send(lane, |load| Load { remote: lane.stranger(), ..load })?;
        let expected = if self.stands[lane.stand].enforces() { 0 } else { u64::from(BURST) };
        ensure!(came.outside == expected, "{} of {BURST} packets to a stranger passed, not {expected}", came.outside);
        self.open(lane, Sender::Pod, 1 << 10).context("what rules allow")
    }
}

impl Came {
    /// Packets a second where they were to come; fails where so many were lost that it says nothing.
    fn rate(&self, sender: Sender) -> Result<f64> {
        let came = if sender == Sender::Pod { self.outside } else { self.pod };
        ensure!(came * 10 >= u64::from(PACKETS) * 9, "{came} of {PACKETS} packets came");
        Ok(came as f64 / self.took.as_secs_f64())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

impl Lane {
    fn memory(&self) -> Memory {
        if self.stand == PLAIN { Memory::Plain } else { Memory::Other }
    }

    /// The other side's first address, of a network that rules allow.
    fn remote(&self) -> Ipv4Addr {
        match self.far {
            Far::Vpc => Ipv4Addr::new(10, 200, 128, 0),
            Far::Beyond => Ipv4Addr::new(198, 18, 0, 0),
        }
    }

    /// One that no rule speaks of.
    fn stranger(&self) -> Ipv4Addr {
        match self.far {
            Far::Vpc => Ipv4Addr::new(10, 200, 64, 0),
            Far::Beyond => Ipv4Addr::new(203, 0, 113, 0),
        }
    }
}
