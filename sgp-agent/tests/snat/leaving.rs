//! A standard-mode pod on a node that translates.

use std::net::IpAddr;

use sgp_agent::domain::enforcement::{Enforcement, SnatJudges};
use sgp_agent::domain::observed::{Attachment, NetworkInterface, Observed};
use sgp_agent::domain::settings::{Settings, Snat, SnatPorts};
use sgp_common::DropReason;
use sgp_common::pins::program;

use crate::frames::{Frame, ip};
use crate::node::rules::{ec2, set};
use crate::node::{At, Node};
use crate::wire::{Seen, summed};

pub(crate) const NODE: &str = "10.200.0.5";
pub(crate) const OUTSIDE: &str = "203.0.113.9";
pub(crate) const NODE_MAC: &str = "02:00:00:00:05:05";

/// A node with a standard-mode pod whose groups allow nothing, behind a primary interface of these rules.
pub(crate) struct Leaving {
    pub(crate) node: Node,
    observed: Observed,
    primary: u32,
}

pub(crate) fn leaving(ports: SnatPorts, judges: SnatJudges, rules: &[&str]) -> Option<Leaving> {
    let node = Node::start(1)?;
    let primary = node.link("primary0");
    Some(leaving_by(node, primary, ports, judges, rules))
}

/// Likewise, of a node whose interfaces stand; each of its pods has these groups.
pub(crate) fn leaving_by(node: Node, primary: u32, ports: SnatPorts, judges: SnatJudges, rules: &[&str]) -> Leaving {
    let snat = Snat::Node { exclude: vec!["198.51.100.0/24".parse().expect("a CIDR")], ports };
    let settings = Settings { snat, ..Settings::default() };
    let enforcement = Enforcement { snat_policy: judges, ..Enforcement::default() };
    let cloud = ec2(&[("sg-node", rules), ("sg-pod", &["out tcp 22 0.0.0.0/0", "in tcp 80 0.0.0.0/0"])]);
    let groups = vec![set(&["sg-pod"]); node.pods.len()];
    let mut observed = Observed { settings, enforcement, ..node.observed(&cloud, &groups) };
    let cloud = observed.cloud.as_mut().expect("EC2");
    cloud.instance.id = "i-1".into();
    cloud.interfaces.insert("eni-primary".into(), interface());
    observed.links.as_mut().expect("links").push(node.described_link("primary0", primary, [2, 0, 0, 0, 5, 5]));
    let mut leaving = Leaving { node, observed, primary };
    leaving.apply();
    leaving
}

fn interface() -> NetworkInterface {
    let here = Attachment { instance_id: "i-1".into(), status: "attached".into(), ..Attachment::default() };
    NetworkInterface {
        id: "eni-primary".into(),
        mac: NODE_MAC.into(),
        addresses: vec![ip(NODE)],
        groups: set(&["sg-node"]),
        attachment: Some(here),
        ..NetworkInterface::default()
    }
}

impl Leaving {
    /// Brings the node to what is observed.
    pub(crate) fn apply(&mut self) {
        let observed = self.observed.clone();
        self.node.apply(&observed);
    }

    /// Interface index of the node's primary interface.
    pub(crate) fn primary(&self) -> u32 {
        self.primary
    }

    pub(crate) fn pod(&self) -> IpAddr {
        self.node.pods[0].ipv4
    }

    /// What the pod sends: as it leaves, if it leaves by the primary interface; else why it does not.
    pub(crate) fn out(&mut self, frame: &Frame) -> Result<Seen, Option<DropReason>> {
        let at = self.node.pods[0].leaves();
        let (ran, bytes) = self.node.rewritten(at, &summed(frame));
        if ran.redirected {
            return Ok(Seen::of(&bytes));
        }
        let told = self.node.run(at, &frame.bytes()).events;
        Err(if ran.passed { None } else { told.first().and_then(|event| DropReason::from_code(event.reason)) })
    }

    /// What comes in by the primary interface: as it goes up, and whether it is marked as judged.
    pub(crate) fn back(&self, frame: &Frame) -> (bool, u32, Vec<u8>) {
        self.back_bytes(&summed(frame))
    }

    pub(crate) fn back_bytes(&self, frame: &[u8]) -> (bool, u32, Vec<u8>) {
        let at = At { program: program::FROM_PRIMARY, ifindex: self.primary, ingress: self.primary, mark: 0 };
        let (ran, bytes) = self.node.rewritten(at, frame);
        (ran.passed, ran.mark, bytes)
    }

    pub(crate) fn entries(&self) -> usize {
        self.node.maps.snat.keys().count()
    }
}
