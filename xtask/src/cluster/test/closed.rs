//! Doors that must be shut: annotations that lie, and branches that are down.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::input::waits;
use super::stage::{NAMESPACE, Role, Stage};
use crate::demo::tutorial::Node;
use crate::place::INTERNET;

/// A pod that brings a neighbour's annotation along is refused, and the neighbour's wiring stays.
pub(super) fn forged_annotation(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("forged")?;
    stage.open_80(&group, &group)?;
    stage.policy("victim", &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let address = stage.start(&Role { name: "victim", role: "victim", node: &node.name, image: "nginx" })?;
    stage.start(&Role { name: "friend", role: "victim", node: "", image: "busybox" })?;
    let path = "jsonpath={.metadata.annotations.vpc\\.amazonaws\\.com/pod-eni}";
    let stolen = stage.hands.kubectl(&["get", "pod", "victim", "-n", NAMESPACE, "-o", path])?.ok()?;
    ensure!(stolen.contains("eniId"), "the victim's annotation is {stolen:?}");
    let thief = Role { name: "thief", role: "victim", node: &node.name, image: "busybox" };
    stage.ask_for(&thief, &format!("vpc.amazonaws.com/pod-eni: '{stolen}'"))?;
    waits(stage, "thief", &["cases/thief", "contradicts what EC2 says"])?;
    ensure!(stage.reaches("friend", &address)?, "the victim does not answer any more");
    Ok(())
}

/// With the branch down, the pod's packets go nowhere: not out by the node's own interface.
pub(super) fn branch_down(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    stage.policy("lonely", &stage.group("lonely")?)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let address = stage.start(&Role { name: "lonely", role: "lonely", node: &node.name, image: "busybox" })?;
    let (host, branch) = interfaces(stage, node, &address)?;
    let route = || on_node(stage, node, &["route", "get", INTERNET, "from", &address, "iif", &host]);
    let before = route()?.ok()?;
    ensure!(before.contains(&branch), "with the branch up the way out is {before}");
    on_node(stage, node, &["link", "set", &branch, "down"])?.ok()?;
    let after = route()?;
    on_node(stage, node, &["link", "set", &branch, "up"])?.ok()?;
    ensure!(after.status != 0 && !after.words().contains("eth0"), "with the branch down it is {}", after.words());
    Ok(())
}

fn on_node(stage: &Stage, node: &Node, words: &[&str]) -> Result<crate::demo::hands::Outcome> {
    let mut ip = Command::new("nsenter");
    ip.arg(format!("--net=/run/netns/{}", node.netns)).arg("ip").args(words);
    stage.hands.finish(&mut ip)
}

/// Names of a pod's host veth and branch interface.
fn interfaces(stage: &Stage, node: &Node, address: &str) -> Result<(String, String)> {
    let text = on_node(stage, node, &["-j", "route", "show", address])?.ok()?;
    let routes: Value = serde_json::from_str(&text).context("ip -j route show")?;
    let host = routes[0]["dev"].as_str().context("no route leads to the pod")?.to_owned();
    let text = stage.hands.agent(&["endpoints", "--json", "--bpf-dir", &node.bpf_dir])?.ok()?;
    let endpoints: Vec<Value> = serde_json::from_str(&text).context("sgp-agent endpoints --json")?;
    let found = endpoints.iter().find(|one| one["addresses"][0] == address);
    let vlan = &found.context("the pod is no endpoint")?["vlanId"];
    Ok((host, format!("vlan.eth.{vlan}")))
}
