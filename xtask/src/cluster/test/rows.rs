//! Rows of facts 4.1: which interfaces a connection's first packet passes, and under which source, as the wire
//! shows it.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::agents::restart_with;
use super::stage::{NAMESPACE, Role, Stage, Wired, bracketed};
use super::wire::{Seen, Way, Wire};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;
use crate::place::{Family, Mode, Place};
use crate::process::within;

/// Where a node's own servers listen: kubelet's port.
const KUBELET: u16 = 10_250;
/// NodeLocal DNS.
const NODE_LOCAL: &str = "169.254.20.10";
/// In the VPC's second CIDR.
const SECOND: &str = "100.64.3.3";

/// A packet and the way it should take.
struct Row {
    name: &'static str,
    packet: String,
    from: From,
    to: String,
    port: u16,
    expected: &'static str,
}

/// Who opens the connection.
#[derive(Clone, Copy)]
enum From {
    P,
    Node,
}

/// Servers outside the pods; they end with the scene.
struct Servers(Vec<Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            // One that has ended by itself has been missed by the rows already.
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// Client `p` and server `q` on one node.
struct Scene<'a> {
    stage: &'a Stage,
    node: &'a Node,
    p: Wired,
    q: Wired,
    service: String,
}

pub(super) fn rows(stage: &Stage) -> Result<()> {
    let scene = scene(stage)?;
    let _servers = serve(&scene)?;
    let mut wrong = scene.run(&mode_rows(&scene, stage.place.mode, stage.place.family))?;
    for (settings, row) in settings_rows(&stage.place) {
        restart_with(stage, scene.node, &format!("{settings}\n"))?;
        let differs = scene.run(&[row]);
        restart_with(stage, scene.node, "")?;
        wrong.extend(differs?);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn mode_rows(scene: &Scene<'_>, mode: Mode, family: Family) -> Vec<Row> {
    let place = &scene.stage.place;
    let (node, outside) = (place.internal_ip(1), place.internet().to_owned());
    let in_vpc = place.address_of(family, 9, 9);
    let row = |name, packet: &str, to: &str, port, expected| Row {
        name,
        packet: format!("P -> {packet} {to}"),
        from: From::P,
        to: to.to_owned(),
        port,
        expected,
    };
    let probe = |expected| Row {
        name: "R21",
        packet: format!("kubelet -> {}", scene.q.address),
        from: From::Node,
        to: scene.q.address.clone(),
        port: 80,
        expected,
    };
    // IPv6 is never translated.
    let outside_as_node = match family {
        Family::V4 => "in veth-P, out eth0 as node, answered",
        Family::V6 => "in veth-P, out branch-P as P, answered",
    };
    let (q, service) = (&scene.q.address, &scene.service);
    let mut rows = match mode {
        Mode::Strict => vec![
            row("R1", "outside", &outside, 80, "in veth-P, out branch-P as P, answered"),
            row("R9", "own node", &node, KUBELET, "in veth-P, out branch-P as P, in eth0, answered"),
            row("R11", "Q, same node", q, 80, "in veth-P, out branch-P as P, in branch-Q, out veth-Q as P, answered"),
            row("R13", "NodeLocal DNS", NODE_LOCAL, KUBELET, "in veth-P, out branch-P as P, lost"),
            probe("out eth0 as node, in branch-Q, out veth-Q as node, answered"),
            row(
                "R11s",
                "ClusterIP of Q",
                service,
                80,
                "in veth-P, out branch-P as P, in branch-Q, out veth-Q as P, answered",
            ),
        ],
        Mode::Standard => vec![
            row("R3", "outside", &outside, 80, outside_as_node),
            row("R6", "VPC", &in_vpc, 80, "in veth-P, out branch-P as P, answered"),
            row("R8", "own node", &node, KUBELET, "in veth-P, answered"),
            row("R10", "Q, same node", q, 80, "in veth-P, out veth-Q as P, answered"),
            row("R12", "NodeLocal DNS", NODE_LOCAL, KUBELET, "in veth-P, answered"),
            probe("out veth-Q as node, answered"),
            row("R22", "ClusterIP of Q", service, 80, "in veth-P, out veth-Q as P, answered"),
        ],
    };
    // NodeLocal DNS has its address in IPv4 only.
    rows.retain(|row| family == Family::V4 || !row.to.contains('.'));
    rows
}

/// Rows about a packet that might be translated, with the settings by which it is not. An agent learns of a new CIDR
/// of the VPC when it starts.
fn settings_rows(place: &Place) -> Vec<(&'static str, Row)> {
    let to = |name, to: &str, settings: &'static str| {
        let packet = format!("P -> {to} {}", settings.trim_start_matches("AWS_VPC_K8S_CNI_"));
        let expected = "in veth-P, out branch-P as P, answered";
        (settings, Row { name, packet, from: From::P, to: to.to_owned(), port: 80, expected })
    };
    let by_branch = |name, settings| to(name, place.internet(), settings);
    let external = "AWS_VPC_K8S_CNI_EXTERNALSNAT=true";
    match (place.mode, place.family) {
        (Mode::Strict, _) => vec![by_branch("R2", external)],
        (Mode::Standard, Family::V6) => vec![by_branch("R4", external)],
        (Mode::Standard, Family::V4) => vec![
            by_branch("R4", external),
            by_branch("R5", "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=203.0.113.0/24"),
            to("R7", SECOND, ""),
            by_branch("R16", "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=0.0.0.0/0"),
        ],
    }
}

impl Scene<'_> {
    /// Sends each row's packet and prints what was seen; gives the rows that differ.
    fn run(&self, rows: &[Row]) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for row in rows {
            // A setting or a route of a moment ago may not be in force yet.
            let seen = until(Duration::from_secs(5), || {
                let seen = self.send(row)?;
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

    fn send(&self, row: &Row) -> Result<String> {
        let wire = Wire::listen(&self.node.netns)?;
        let url = format!("http://{}:{}/", bracketed(&row.to), row.port);
        let curl = ["curl", "-sS", "-o", "/dev/null", "-m", "1", &url];
        let outcome = match row.from {
            From::P => self.stage.hands.exec(NAMESPACE, "p", &curl),
            From::Node => self.stage.hands.finish(within(&self.node.netns, "curl").args(&curl[1..])),
        };
        let mut steps = Vec::new();
        for step in wire.end()?.iter().filter_map(|seen| self.step(row, seen)) {
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        steps.push(if outcome?.status == 0 { "answered" } else { "lost" }.to_owned());
        Ok(steps.join(", "))
    }

    /// A packet of the row's connection, in words.
    fn step(&self, row: &Row, seen: &Seen) -> Option<String> {
        let (to, q) = (row.to.parse().ok()?, self.q.address.parse().ok()?);
        if seen.port != row.port || ![to, q].contains(&seen.destination) {
            return None;
        }
        let source = seen.source.to_string();
        let source = match source.as_str() {
            text if text == self.p.address => "P",
            text if text == self.stage.place.internal_ip(1) => "node",
            text => text,
        };
        let names = [
            (&self.p.host, "veth-P"),
            (&self.q.host, "veth-Q"),
            (&self.p.branch, "branch-P"),
            (&self.q.branch, "branch-Q"),
        ];
        let known = names.iter().find(|(name, _)| **name == seen.interface);
        let interface = known.map_or(seen.interface.as_str(), |(_, word)| word);
        Some(match seen.way {
            Way::In => format!("in {interface}"),
            Way::Out => format!("out {interface} as {source}"),
        })
    }
}

fn scene(stage: &Stage) -> Result<Scene<'_>> {
    stage.namespace()?;
    let group = stage.group("rows")?;
    stage.open_80(&group, &group)?;
    let from_nodes = ["authorize-security-group-ingress", "--group-id", &group, "--protocol", "-1"];
    stage.hands.ec2(&[&from_nodes[..], &["--source-group", &stage.world.cluster_group]].concat())?;
    stage.policy("rows", &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    stage.start(&Role { name: "q", role: "rows", node: &node.name, image: "nginx" })?;
    stage.start(&Role { name: "p", role: "rows", node: &node.name, image: "busybox" })?;
    stage.hands.kubectl(&["expose", "pod", "q", "-n", NAMESPACE, "--port", "80"])?.ok()?;
    let path = "jsonpath={.spec.clusterIP}";
    let service = stage.hands.kubectl(&["get", "service", "q", "-n", NAMESPACE, "-o", path])?.ok()?;
    Ok(Scene { stage, node, p: stage.wired("p")?, q: stage.wired("q")?, service })
}

/// Somebody to answer: outside, in both CIDRs of the VPC, and on the node.
fn serve(scene: &Scene<'_>) -> Result<Servers> {
    let place = &scene.stage.place;
    if place.family == Family::V4 {
        let args = ["associate-vpc-cidr-block", "--vpc-id", &scene.stage.world.vpc, "--cidr-block", "100.64.0.0/16"];
        scene.stage.hands.ec2(&args)?;
        add(scene, "cp", SECOND)?;
        // Of scope host: the node itself never sends from it.
        let own = format!("addr replace {NODE_LOCAL}/32 dev lo scope host");
        scene.stage.hands.finish(within(&scene.node.netns, "ip").args(own.split(' ')))?.ok()?;
    }
    add(scene, "cp", &place.address_of(place.family, 9, 9))?;
    let spaces = [(place.netns("inet"), 80), (place.netns("cp"), 80), (scene.node.netns.clone(), KUBELET)];
    spaces.iter().map(|(space, port)| server(scene, space, *port)).collect::<Result<_>>().map(Servers)
}

/// Gives a host of the VPC one more address.
fn add(scene: &Scene<'_>, what: &str, address: &str) -> Result<()> {
    let place = &scene.stage.place;
    let (length, via) =
        if address.contains(':') { (128, place.address_v6(250, 10)) } else { (32, place.control_plane()) };
    for (space, words) in [
        (what, format!("addr replace {address}/{length} dev lo")),
        ("router", format!("route replace {address}/{length} via {via} dev {what}")),
    ] {
        scene.stage.hands.finish(within(&place.netns(space), "ip").args(words.split(' ')))?.ok()?;
    }
    Ok(())
}

fn server(scene: &Scene<'_>, space: &str, port: u16) -> Result<Child> {
    let mut command = within(space, scene.stage.hands.venv.join("bin/python"));
    command.args(["-m", "http.server", "--bind", "::", "--directory", "/usr/share/nginx/html", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = command.spawn().context("starting a server")?;
    until(Duration::from_secs(10), || {
        let mut ask = within(space, "curl");
        let url = format!("http://[::1]:{port}/");
        scene.stage.hands.finish(ask.args(["-sS", "-o", "/dev/null", "-m", "1", &url]))?.ok()
    })?;
    Ok(server)
}
