//! Rows of facts 4.1: which interfaces a connection passes, and under which source, as the wire shows it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::agents::restart_with;
use super::cast::{Cast, space};
use super::stage::{Role, Stage, Wired};
use super::talk::{Protocol, Question, Server};
use super::wire::Turn;
use crate::demo::hands::until;
use crate::demo::tutorial::Node;
use crate::place::{Family, Mode};
use crate::process::within;

/// Where a node's own servers listen: kubelet's port.
const KUBELET: u16 = 10_250;
/// NodePort of P.
const NODE_PORT: u16 = 30_080;
/// From which both pods of R17 ask.
const OWN_PORT: u16 = 50_017;
/// NodeLocal DNS.
const NODE_LOCAL: &str = "169.254.20.10";
/// In the VPC's second CIDR.
const SECOND: &str = "100.64.3.3";

const THERE: &[Turn] = &[Turn::Asks];
const THERE_AND_BACK: &[Turn] = &[Turn::Asks, Turn::Answers];

/// A packet and the way it should take.
struct Row {
    name: &'static str,
    packet: String,
    question: Question,
    turns: &'static [Turn],
    expected: &'static str,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    P,
    Q,
    Node,
    Outside,
}

/// Pods P and Q on one node.
struct Scene<'a> {
    stage: &'a Stage,
    node: &'a Node,
    cast: Cast,
    p: Wired,
    q: Wired,
    service: String,
}

pub(super) fn rows(stage: &Stage) -> Result<()> {
    let scene = scene(stage)?;
    let _servers = serve(&scene)?;
    let mut wrong = scene.run(&mode_rows(&scene, stage.place.mode)?)?;
    let changed = settings_rows(&scene).and_then(|all| {
        for (settings, rows) in all {
            restart_with(stage, scene.node, &format!("{settings}\n"))?;
            wrong.extend(scene.run(&rows)?);
        }
        Ok(())
    });
    restart_with(stage, scene.node, "")?;
    changed?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn mode_rows(scene: &Scene<'_>, mode: Mode) -> Result<Vec<Row>> {
    let place = &scene.stage.place;
    let (node, outside) = (place.internal_ip(1), place.internet());
    let in_vpc = place.address_of(place.family, 9, 9);
    let (p, q, service) = (scene.p.address.as_str(), scene.q.address.as_str(), scene.service.as_str());
    let row = |name, what, from, to, expected| scene.row(name, what, from, to, expected);
    // IPv6 is never translated.
    let as_node = match place.family {
        Family::V4 => "in veth-P, out eth0 as node marked 0x80, answered",
        Family::V6 => "in veth-P, out branch-P as P, answered",
    };
    let by_vpc = "in veth-P, out branch-P as P, in branch-Q, out veth-Q as P, answered";
    let inbound = "in branch-P, out veth-P as outside, in veth-P, out branch-P as P, answered";
    let rows = match mode {
        Mode::Strict => vec![
            row("R1", "outside", From::P, (outside, 80), "in veth-P, out branch-P as P, answered"),
            row("R9", "own node", From::P, (&node, KUBELET), "in veth-P, out branch-P as P, in eth0, answered"),
            row("R11", "Q, same node", From::P, (q, 80), by_vpc),
            row("R13", "NodeLocal DNS", From::P, (NODE_LOCAL, KUBELET), "in veth-P, out branch-P as P, lost"),
            row("R21", "Q", From::Node, (q, 80), "out eth0 as node, in branch-Q, out veth-Q as node, answered"),
            row("R11s", "ClusterIP of Q", From::P, (service, 80), by_vpc),
            row("R18", "P", From::Outside, (p, 80), inbound),
        ],
        Mode::Standard => vec![
            row("R3", "outside", From::P, (outside, 80), as_node),
            row("R6", "VPC", From::P, (&in_vpc, 80), "in veth-P, out branch-P as P, answered"),
            row("R8", "own node", From::P, (&node, KUBELET), "in veth-P, answered"),
            row("R10", "Q, same node", From::P, (q, 80), "in veth-P, out veth-Q as P, answered"),
            row("R12", "NodeLocal DNS", From::P, (NODE_LOCAL, KUBELET), "in veth-P, answered"),
            row("R14", "NodePort of P", From::Outside, (&node, NODE_PORT), BY_NODE_PORT),
            row("R18", "P", From::Outside, (p, 80), inbound),
            row("R19", "outside, an echo", From::P, (outside, 0), as_node),
            row("R21", "Q", From::Node, (q, 80), "out veth-Q as node, answered"),
            row("R22", "ClusterIP of Q", From::P, (service, 80), "in veth-P, out veth-Q as P, answered"),
        ],
    };
    // NodeLocal DNS has its address in IPv4 only.
    rows.into_iter().filter(|row| place.family == Family::V4 || !row.as_ref().is_ok_and(Row::is_v4)).collect()
}

/// There and back; the answers of P go the way that the connection came.
const BY_NODE_PORT: &str = "in eth0, out veth-P as outside, in veth-P, out eth0 as node marked 0x80, answered";

/// Rows with settings of their own. An agent learns of a new CIDR of the VPC when it starts.
fn settings_rows(scene: &Scene<'_>) -> Result<Vec<(&'static str, Vec<Row>)>> {
    let place = &scene.stage.place;
    let (node, outside) = (place.internal_ip(1), place.internet());
    let by_branch = "in veth-P, out branch-P as P, answered";
    let out = |name, from, to, expected| scene.row(name, "outside", from, (to, 80), expected);
    let node_port = |name, expected| scene.row(name, "NodePort of P", From::Outside, (&node, NODE_PORT), expected);
    let external = "AWS_VPC_K8S_CNI_EXTERNALSNAT=true";
    let other_mark = "AWS_VPC_K8S_CNI_CONNMARK=0x100";
    let answer_marked = "in eth0, out veth-P as outside, in veth-P, out eth0 as node marked 0x100, answered";
    Ok(match (place.mode, place.family) {
        (Mode::Strict, _) => vec![(external, vec![out("R2", From::P, outside, by_branch)?])],
        (Mode::Standard, Family::V6) => vec![
            (external, vec![out("R4", From::P, outside, by_branch)?, node_port("R15", BY_NODE_PORT)?]),
            (other_mark, vec![node_port("R20", answer_marked)?]),
        ],
        (Mode::Standard, Family::V4) => vec![
            (external, vec![out("R4", From::P, outside, by_branch)?, node_port("R15", BY_NODE_PORT)?]),
            ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=203.0.113.0/24", vec![out("R5", From::P, outside, by_branch)?]),
            ("", vec![out("R7", From::P, SECOND, by_branch)?]),
            ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=0.0.0.0/0", vec![out("R16", From::P, outside, by_branch)?]),
            (
                "AWS_VPC_K8S_CNI_RANDOMIZESNAT=none",
                vec![
                    out("R17", From::P, outside, "in veth-P, out eth0 as node:kept marked 0x80, answered")?
                        .asking_from_own_port(),
                    out("R17", From::Q, outside, "in veth-Q, out eth0 as node:another marked 0x80, answered")?
                        .asking_from_own_port(),
                ],
            ),
            (
                other_mark,
                vec![
                    out("R20", From::P, outside, "in veth-P, out eth0 as node marked 0x100, answered")?,
                    node_port("R20", answer_marked)?,
                ],
            ),
        ],
    })
}

impl Row {
    fn is_v4(&self) -> bool {
        self.question.to.is_ipv4()
    }

    fn asking_from_own_port(mut self) -> Self {
        self.question.from_port = OWN_PORT;
        self
    }
}

impl Scene<'_> {
    /// A row by TCP, or an echo where the port is 0. What comes from outside is followed there and back.
    fn row(
        &self,
        name: &'static str,
        what: &str,
        from: From,
        (to, port): (&str, u16),
        expected: &'static str,
    ) -> Result<Row> {
        let protocol = if port == 0 { Protocol::Icmp } else { Protocol::Tcp };
        let to = std::net::SocketAddr::new(to.parse().with_context(|| format!("{what} is {to:?}"))?, port);
        Ok(Row {
            name,
            packet: format!("{from:?} -> {what} {to}"),
            question: Question { space: self.space(from), protocol, to, from_port: 0 },
            turns: if from == From::Outside { THERE_AND_BACK } else { THERE },
            expected,
        })
    }

    fn space(&self, from: From) -> PathBuf {
        match from {
            From::P => self.p.netns.clone().into(),
            From::Q => self.q.netns.clone().into(),
            From::Node => space(&self.node.netns),
            From::Outside => space(&self.stage.place.netns("inet")),
        }
    }

    /// Sends each row's packet and prints what was seen; gives the rows that differ.
    fn run(&self, rows: &[Row]) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for row in rows {
            // A setting or a route of a moment ago may not be in force yet.
            let seen = until(Duration::from_secs(5), || {
                let seen = self.cast.ask(&row.question, row.turns, &[row.question.to.port(), 80])?;
                ensure!(seen == row.expected, "{seen}");
                Ok(seen)
            });
            let (mark, seen) = match &seen {
                Ok(seen) => ("ok", seen.clone()),
                Err(error) => ("DIFFERS", error.root_cause().to_string()),
            };
            println!("  {:<4} {:<48} expected {:<60} seen {seen} {mark}", row.name, row.packet, row.expected);
            if mark != "ok" {
                wrong.push(format!("{}: {seen} instead of {}", row.name, row.expected));
            }
        }
        Ok(wrong)
    }
}

fn scene(stage: &Stage) -> Result<Scene<'_>> {
    stage.namespace()?;
    let group = stage.group("rows")?;
    stage.open_80(&group, &group)?;
    stage.open_all(&group, &[&stage.world.cluster_group])?;
    stage.policy("rows", &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    for name in ["p", "q"] {
        stage.start(&Role { name, role: "rows", node: &node.name, image: "nginx" })?;
    }
    let service = stage.service("q", "q", "ports: [{port: 80}]")?;
    let local = format!("type: NodePort, externalTrafficPolicy: Local, ports: [{{port: 80, nodePort: {NODE_PORT}}}]");
    stage.service("p", "p", &local)?;
    let (p, q) = (stage.wired("p")?, stage.wired("q")?);
    Ok(Scene { stage, node, cast: Cast::new(stage, &[("P", &p), ("Q", &q)])?, p, q, service })
}

/// Somebody to answer: outside, in both CIDRs of the VPC, and on the node.
fn serve(scene: &Scene<'_>) -> Result<Vec<Server>> {
    let place = &scene.stage.place;
    let in_vpc = place.address_of(place.family, 9, 9);
    add(scene, "cp", &in_vpc)?;
    let node = scene.node.netns.clone();
    let mut at = vec![
        (place.netns("inet"), place.internet().to_owned(), 80),
        (place.netns("cp"), in_vpc, 80),
        (node.clone(), place.internal_ip(1), KUBELET),
    ];
    if place.family == Family::V4 {
        let args = ["associate-vpc-cidr-block", "--vpc-id", &scene.stage.world.vpc, "--cidr-block", "100.64.0.0/16"];
        scene.stage.hands.ec2(&args)?;
        add(scene, "cp", SECOND)?;
        scene.stage.node_local(NODE_LOCAL)?;
        at.extend([(place.netns("cp"), SECOND.to_owned(), 80), (node, NODE_LOCAL.to_owned(), KUBELET)]);
    }
    let start = |(netns, address, port): (String, String, u16)| {
        Server::start(&space(&netns), std::net::SocketAddr::new(address.parse()?, port))
    };
    at.into_iter().map(start).collect()
}

/// Gives a host of the VPC one more address.
fn add(scene: &Scene<'_>, what: &str, address: &str) -> Result<()> {
    let place = &scene.stage.place;
    let (length, via) = if address.contains(':') {
        // On a busy machine the kernel takes its time to see that nobody else has it.
        ("128 nodad", place.address_v6(250, 10))
    } else {
        ("32", place.control_plane())
    };
    for (space, words) in [
        (what, format!("addr replace {address}/{length} dev lo")),
        ("router", format!("route replace {address} via {via} dev {what}")),
    ] {
        scene.stage.hands.finish(within(&place.netns(space), "ip").args(words.split(' ')))?.ok()?;
    }
    Ok(())
}
