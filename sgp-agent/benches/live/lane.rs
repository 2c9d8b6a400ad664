//! One configuration: a pod, the other side, and whoever is between.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::course::BURST;
use crate::ground::returned;
use crate::measure::Measure;
use crate::primary::NODE;
use crate::processors::Processors;
use crate::sockets;
use crate::stand::Stand;
use crate::traffic::{Came, Ends, Load, Sender, Traffic};

/// Where the other side is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Far {
    /// In the VPC, behind the branch.
    Vpc,
    /// Outside of it, behind the primary interface; under the node's address where somebody translates.
    Beyond,
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) name: &'static str,
    /// Index of its stand.
    pub(crate) stand: usize,
    /// Index of its pod.
    pub(crate) pod: usize,
    pub(crate) far: Far,
}

/// How many flows are opened before the endpoint's count is set back.
const OPENED_AT_ONCE: u32 = 1 << 15;
/// How many packets a figure is the mean of.
const PACKETS: u32 = 1 << 17;
/// How many flows there can be, if each packet is to open one that never was.
const ANY: u32 = 1 << 25;

/// What figures are taken with.
pub(crate) struct Bench {
    pub(crate) stands: Vec<Stand>,
    pub(crate) traffic: Traffic,
    pub(crate) processors: Processors,
    /// Number of the next flow that never was.
    pub(crate) fresh: u32,
}

impl Bench {
    /// Takes one figure.
    pub(crate) fn take(&mut self, lane: &Lane, measure: Measure) -> Result<f64> {
        self.stands[lane.stand].forget()?;
        match measure {
            Measure::Out(flows) => {
                self.open(lane, Sender::Pod, flows)?;
                self.rate(lane, Sender::Pod, flows)
            }
            Measure::In(flows) => {
                // What is translated is never asked, only answered.
                let (opener, sender) = match lane.far {
                    Far::Vpc => (Sender::Outside, Sender::Outside),
                    Far::Beyond => (Sender::Pod, Sender::Answering),
                };
                self.open(lane, opener, flows)?;
                self.rate(lane, sender, flows)
            }
            Measure::New => self.new_flows(lane),
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
            let seen = self.traffic.seen()?;
            ensure!(seen == expected, "the pod is seen as {seen} instead of {expected}");
        }
        Ok(())
    }

    /// Packets a second that come through.
    fn rate(&mut self, lane: &Lane, sender: Sender, flows: u32) -> Result<f64> {
        let came = self.send(lane, |load| Load { sender, flows, packets: PACKETS, ..load })?;
        came.rate(sender, PACKETS)
    }

    /// Packets a second that come through, if each opens a flow.
    fn new_flows(&mut self, lane: &Lane) -> Result<f64> {
        let mut rates = Vec::new();
        for _ in 0..PACKETS / OPENED_AT_ONCE {
            self.stands[lane.stand].forget()?;
            let first = self.fresh;
            self.fresh = first.wrapping_add(OPENED_AT_ONCE);
            let came = self.send(lane, |load| Load { flows: ANY, packets: OPENED_AT_ONCE, first, ..load })?;
            rates.push(came.rate(Sender::Pod, OPENED_AT_ONCE)?);
        }
        Ok(rates.len() as f64 / rates.iter().map(|rate| 1.0 / rate).sum::<f64>())
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
    fn rate(&self, sender: Sender, sent: u32) -> Result<f64> {
        let came = if sender == Sender::Pod { self.outside } else { self.pod };
        ensure!(came * 10 >= u64::from(sent) * 9, "{came} of {sent} packets came");
        Ok(came as f64 / self.took.as_secs_f64())
    }
}

impl Lane {
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
