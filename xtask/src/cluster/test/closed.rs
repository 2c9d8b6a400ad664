//! Doors that must be shut: annotations that lie, and branches that are down.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::input::waits;
use super::stage::{NAMESPACE, Role, Stage, Wired};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;

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
    stage.comes_to_reach("friend", &address).context("the victim does not answer any more")?;
    Ok(())
}

/// With the branch down, the pod's packets go nowhere: not out by the node's own interface. Once it is up again they take
/// the way they took.
pub(super) fn branch_down(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    stage.policy("lonely", &stage.group("lonely")?)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    stage.start(&Role { name: "lonely", role: "lonely", node: &node.name, image: "busybox" })?;
    let Wired { address, host, branch, .. } = stage.wired("lonely")?;
    let outside = stage.place.internet();
    let route = || on_node(stage, node, &["route", "get", outside, "from", &address, "iif", &host]);
    let before = route()?.ok()?;
    ensure!(before.contains(&branch), "with the branch up the way out is {before}");
    on_node(stage, node, &["link", "set", &branch, "down"])?.ok()?;
    let after = route()?;
    on_node(stage, node, &["link", "set", &branch, "up"])?.ok()?;
    ensure!(after.status != 0 && !after.words().contains("eth0"), "with the branch down it is {}", after.words());
    until(Duration::from_secs(10), || {
        let again = route()?;
        ensure!(
            again.status == 0 && again.words().contains(&branch),
            "with the branch up again it is {}",
            again.words()
        );
        Ok(())
    })
}

fn on_node(stage: &Stage, node: &Node, words: &[&str]) -> Result<crate::demo::hands::Outcome> {
    let mut ip = Command::new("nsenter");
    ip.arg(format!("--net=/run/netns/{}", node.netns)).arg("ip").args(words);
    stage.hands.finish(&mut ip)
}
