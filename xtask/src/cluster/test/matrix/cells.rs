//! The cells: who asks whom, and what facts and semantics say becomes of it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::super::cast::space;
use super::super::talk::{Protocol, Question};
use super::{NODE_LOCAL, NODE_PORTS, PORT, Scene};
use crate::place::{Family, Mode};

/// Nothing came back: by whichever interface it went, the groups do not allow it.
pub(super) const DENIED: &str = "denied";

/// One protocol from one place to another.
pub(super) struct Cell {
    pub(super) to: &'static str,
    pub(super) question: Question,
    /// Expected with a rule that allows it.
    pub(super) allowed: String,
    /// Expected without any rule.
    pub(super) unasked: String,
}

/// Whom a place serves: Services and NodePorts are TCP's and UDP's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    All,
    Ports,
}

/// A place to ask, whatever the protocol.
struct Place {
    to: &'static str,
    speaks: Speaks,
    space: PathBuf,
    address: String,
    port: u16,
    allowed: &'static str,
    unasked: &'static str,
}

impl Cell {
    /// As the table says it.
    pub(super) fn protocol(&self) -> &'static str {
        match self.question.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Icmp => "ICMP",
        }
    }

    /// What comes by a branch is given to the pod past its veth.
    pub(super) fn go_straight(&mut self) {
        for words in [&mut self.allowed, &mut self.unasked] {
            let all: Vec<&str> = words.split(", ").collect();
            let given = |place: usize| place > 0 && all[place - 1].starts_with("in branch-");
            let seen = |(place, word): &(usize, &&str)| !(given(*place) && word.starts_with("out veth-"));
            *words = all.iter().enumerate().filter(seen).map(|(_, word)| *word).collect::<Vec<_>>().join(", ");
        }
    }
}

/// All cells of a cluster's mode and family.
///
/// # Errors
/// Where an address is none.
pub(super) fn cells(scene: &Scene<'_>) -> Result<Vec<Cell>> {
    let mut places = from_pod(scene);
    places.extend(by_service(scene));
    places.extend(to_pod(scene));
    let cell = |place: &Place, protocol| {
        let port = if protocol == Protocol::Icmp { 0 } else { place.port };
        let address = place.address.parse().with_context(|| format!("{} is {:?}", place.to, place.address))?;
        let question =
            Question { space: place.space.clone(), protocol, to: SocketAddr::new(address, port), from_port: 0 };
        Ok(Cell { to: place.to, question, allowed: place.allowed.into(), unasked: place.unasked.into() })
    };
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp];
    let spoken = |place: &&Place, protocol| place.speaks == Speaks::All || protocol != Protocol::Icmp;
    all.iter()
        .flat_map(|protocol| {
            places
                .iter()
                .filter(|place| spoken(place, *protocol))
                .map(|place| cell(place, *protocol))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// By the VPC from P, whichever pod it is for.
const BY_BRANCH: &str = "in veth-P, out branch-P as P, answered";
/// By the VPC and back to the same node: strict mode.
const BY_VPC: &str = "in veth-P, out branch-P as P, in branch-Q, out veth-Q as P, answered";

/// From P to addresses.
fn from_pod(scene: &Scene<'_>) -> Vec<Place> {
    let cluster = &scene.stage.place;
    let is_strict = cluster.mode == Mode::Strict;
    let place = |to, address: &str, (allowed, unasked)| Place {
        to,
        speaks: Speaks::All,
        space: scene.p.netns.clone().into(),
        address: address.to_owned(),
        port: PORT,
        allowed,
        unasked,
    };
    let near = if is_strict { BY_VPC } else { "in veth-P, out veth-Q as P, answered" };
    // Under the node's address it is the node's groups that judge, and they let everything out (facts 3.3). IPv6 is never
    // translated (facts 3.5).
    let as_node = "in veth-P, out eth0 as node marked 0x80, answered";
    let outside = if !is_strict && cluster.family == Family::V4 { (as_node, as_node) } else { (BY_BRANCH, DENIED) };
    let mut places = vec![
        place("same node", &scene.q.address, (near, DENIED)),
        place("other node", &scene.f.address, (BY_BRANCH, DENIED)),
        place("outside", cluster.internet(), outside),
    ];
    if cluster.family == Family::V4 {
        // On the node in standard mode, where no group judges; in strict mode it leaves by the branch and is lost.
        let lost = "in veth-P, out branch-P as P, lost";
        let local = "in veth-P, answered";
        places.push(place("NodeLocal DNS", NODE_LOCAL, if is_strict { (lost, DENIED) } else { (local, local) }));
    }
    places
}

/// From P to Services. What a pod says to itself by one is nobody's business.
fn by_service(scene: &Scene<'_>) -> Vec<Place> {
    let place = |to, address: &str, allowed, unasked| Place {
        to,
        speaks: Speaks::Ports,
        space: scene.p.netns.clone().into(),
        address: address.to_owned(),
        port: PORT,
        allowed,
        unasked,
    };
    let near = match scene.stage.place.mode {
        Mode::Strict => BY_VPC,
        Mode::Standard => "in veth-P, out veth-Q as P, answered",
    };
    let itself = "in veth-P, out veth-P as node, answered";
    let services = &scene.services;
    vec![
        place("ClusterIP, same node", &services.q, near, DENIED),
        place("ClusterIP, other node", &services.f, BY_BRANCH, DENIED),
        place("ClusterIP of itself", &services.p, itself, itself),
    ]
}

/// From outside by NodePorts of the first node, and from that node.
fn to_pod(scene: &Scene<'_>) -> Vec<Place> {
    let cluster = &scene.stage.place;
    let [_, q_port, f_port, local_port] = NODE_PORTS;
    let (node, outside) = (space(&cluster.netns("n1")), space(&cluster.netns("inet")));
    let by_port = |to, port, (allowed, unasked)| Place {
        to,
        speaks: Speaks::Ports,
        space: outside.clone(),
        address: cluster.internal_ip(1),
        port,
        allowed,
        unasked,
    };
    let elsewhere = ("in eth0, out eth0 as node, answered", DENIED);
    let (near, local, probe) = match cluster.mode {
        // Not supported with Local: the pod's answer leaves by its branch under the node's address (facts 3.3).
        Mode::Strict => (
            ("in eth0, out eth0 as node, in branch-Q, out veth-Q as node, answered", DENIED),
            ("in eth0, out eth0 as outside, in branch-Q, out veth-Q as outside, lost", DENIED),
            ("out eth0 as node, in branch-Q, out veth-Q as node, answered", DENIED),
        ),
        // On AWS no group of the pod judges what comes by the node; here its own do. The node itself may always.
        Mode::Standard => (
            ("in eth0, out veth-Q as node, answered", DENIED),
            ("in eth0, out veth-Q as outside, answered", DENIED),
            ("out veth-Q as node, answered", "out veth-Q as node, answered"),
        ),
    };
    let (allowed, unasked) = probe;
    let probe = Place {
        to: "kubelet probe",
        speaks: Speaks::All,
        space: node,
        address: scene.q.address.clone(),
        port: PORT,
        allowed,
        unasked,
    };
    vec![
        by_port("NodePort Cluster, same node", q_port, near),
        by_port("NodePort Cluster, other node", f_port, elsewhere),
        by_port("NodePort Local", local_port, local),
        probe,
    ]
}
