//! What an operator may choose of provisioning: who makes branches, what becomes of pods that get none, and whether running
//! pods follow their policies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::agents::restart_with;
use super::stage::{NAMESPACE, Role, START, Stage};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;

/// How long a change may take until the data path has it.
const ENFORCED: Duration = Duration::from_secs(15);

/// A pod that no webhook saw, on a node where somebody else makes branches, and makes it none.
pub(super) fn unmatched(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    stage.policy("unseen", &stage.group("unseen")?)?;
    let node = stage.world.nodes.last().context("the cluster has no node")?;
    let result = refused_then_warned(stage, node);
    restart_with(stage, node, "")?;
    result
}

fn refused_then_warned(stage: &Stage, node: &Node) -> Result<()> {
    restart_with(stage, node, "SGP_PROVISION=observe\n")?;
    stage.ask_for(&Role { name: "refused", role: "unseen", node: &node.name, image: "busybox" }, "")?;
    until(START, || {
        let words = stage.describe("refused")?;
        ensure!(words.contains("AdmittedWithoutBranch") && words.contains("it is not started"), "{words}");
        Ok(())
    })?;
    let phase = stage.hands.kubectl(&["get", "pod", "refused", "-n", NAMESPACE, "-o", "jsonpath={.status.phase}"])?;
    ensure!(phase.ok()? == "Pending", "a pod was started with the node's groups");
    restart_with(stage, node, "SGP_PROVISION=observe\nSGP_UNMATCHED=warn\n")?;
    stage.running("refused")?;
    let words = stage.describe("refused")?;
    ensure!(words.contains("it is started with the node's groups"), "{words}");
    // An agent that makes branches would make it one now.
    stage.hands.kubectl(&["delete", "pod", "refused", "-n", NAMESPACE])?.ok().map(drop)
}

/// A policy gets another group: on AWS that is for new pods; with `--live-groups` the running pod has it too.
pub(super) fn live_groups(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let (open, closed) = (stage.group("live-open")?, stage.group("live-closed")?);
    let friends = stage.group("live-friends")?;
    stage.open_80(&open, &friends)?;
    stage.policy("live", &open)?;
    stage.policy("live-friend", &friends)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let server = stage.start(&Role { name: "server", role: "live", node: &node.name, image: "nginx" })?;
    stage.start(&Role { name: "friend", role: "live-friend", node: "", image: "busybox" })?;
    stage.comes_to_reach("friend", &server)?;
    stage.policy("live", &closed)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(stage.reaches("friend", &server)?, "a running pod has followed its policy, which nobody asked for");
    let result = followed(stage, node, &server, (&open, &closed));
    restart_with(stage, node, "")?;
    result
}

fn followed(stage: &Stage, node: &Node, server: &str, (open, closed): (&str, &str)) -> Result<()> {
    restart_with(stage, node, "SGP_LIVE_GROUPS=true\n")?;
    until(ENFORCED, || {
        ensure!(!stage.reaches("friend", server)?, "the running pod has not followed its policy");
        Ok(())
    })?;
    ensure!(groups(stage)? == closed, "its branch has {}", groups(stage)?);
    stage.policy("live", open)?;
    stage.comes_to_reach("friend", server)?;
    ensure!(groups(stage)? == open, "its branch has {}", groups(stage)?);
    Ok(())
}

fn groups(stage: &Stage) -> Result<String> {
    let of = format!("Name=tag:sgp.dev/pod,Values={NAMESPACE}/server");
    let query = "NetworkInterfaces[].Groups[].GroupId";
    stage.hands.ec2(&["describe-network-interfaces", "--filters", &of, "--query", query])
}
