//! Who is a member of what, published by a controller and enforced by agents.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::controller::{leading, with_controllers};
use super::stage::{Role, START, Stage};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;
use crate::process::finish;

/// EC2's word passes a controller to agents: whoever comes is let in, whoever goes is not, and while no controller lives all
/// stays as it was.
pub(super) fn published(stage: &Stage) -> Result<()> {
    with_controllers(stage, shown)
}

fn shown(stage: &Stage, pids: &mut Vec<u32>) -> Result<()> {
    stage.namespace()?;
    let (group, outsider) = (stage.group("published")?, stage.group("outsider")?);
    stage.open_80(&group, &group)?;
    stage.open_80(&group, &outsider)?;
    stage.policy("published", &group)?;
    let [one, two] = &stage.world.nodes[..] else { bail!("these cases want two nodes") };
    let address = stage.start(&Role { name: "server", role: "published", node: &one.name, image: "nginx" })?;
    let friend = |name| stage.start(&Role { name, role: "published", node: &two.name, image: "busybox" }).map(drop);
    friend("early")?;
    stage.comes_to_reach("early", &address)?;
    pids.push(leading(stage, "members-first", 9445)?);
    for node in [one, two] {
        until(START, || ensure_slices(node))?;
    }
    friend("published")?;
    stage.comes_to_reach("published", &address)?;
    stage.comes_to_reach("early", &address)?;
    comes_and_goes(stage, one, &outsider)?;
    let first = pids.first().context("no controller was started")?.to_string();
    finish(Command::new("kill").args(["-9", &first]))?;
    std::thread::sleep(Duration::from_secs(1));
    friend("late")?;
    // Two looks of the agents at EC2.
    std::thread::sleep(Duration::from_secs(4));
    let seen =
        (stage.reaches("early", &address)?, stage.reaches("published", &address)?, stage.reaches("late", &address)?);
    ensure!(seen == (true, true, false), "without a controller old friends and a new one see {seen:?}");
    let before = slices(stage)?;
    pids.push(leading(stage, "members-second", 9446)?);
    stage.comes_to_reach("late", &address)?;
    let after = slices(stage)?;
    ensure!(before == after, "the second controller made other slices: {before:?}, then {after:?}");
    Ok(())
}

/// The agent's own word for it.
fn ensure_slices(node: &Node) -> Result<()> {
    let path = format!("{}/status.json", node.run_dir);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let state: Value = serde_json::from_str(&text).with_context(|| format!("reading {path}"))?;
    ensure!(state["membershipAgeS"].is_u64(), "the agent of {} takes no slices: {state}", node.name);
    Ok(())
}

fn slices(stage: &Stage) -> Result<Vec<String>> {
    let names = stage.hands.kubectl(&["get", "securitygroupmemberships", "-o", "name"])?.ok()?;
    Ok(names.lines().map(str::to_owned).collect())
}

/// An interface that is no pod's gets into the peers of a node with its own slice, and out with it.
fn comes_and_goes(stage: &Stage, node: &Node, group: &str) -> Result<()> {
    let vpc = format!("Name=vpc-id,Values={}", stage.world.vpc);
    let subnet = stage.hands.ec2(&["describe-subnets", "--filters", &vpc, "--query", "Subnets[0].SubnetId"])?;
    let args = ["create-network-interface", "--subnet-id", &subnet, "--groups", group];
    let query = ["--query", "NetworkInterface.NetworkInterfaceId"];
    let peers = || members_known(stage, node);
    let before = peers()?;
    let interface = stage.hands.ec2(&[&args[..], &query].concat())?;
    let label = format!("groups.sgp.dev/{group}");
    let addresses = || {
        let path = "jsonpath={.items[*].spec.addresses[*]}";
        stage.hands.kubectl(&["get", "securitygroupmemberships", "-l", &label, "-o", path])?.ok()
    };
    let seen = until(START, || {
        let seen = addresses()?;
        ensure!(!seen.is_empty(), "no slice has {interface}");
        Ok(seen)
    })?;
    let with = until(START, || {
        let known = peers()?;
        ensure!(known > before, "the agent of {} has {known} peers, as before", node.name);
        Ok(known)
    })?;
    stage.hands.ec2(&["delete-network-interface", "--network-interface-id", &interface])?;
    until(START, || {
        let left = addresses()?;
        ensure!(left.is_empty(), "the slice of {seen} still has {left}");
        let known = peers()?;
        ensure!(known < with, "the agent of {} has {known} peers, as before", node.name);
        Ok(())
    })
}

/// Entries of the node's map of peers.
fn members_known(stage: &Stage, node: &Node) -> Result<u64> {
    let args = ["--bpf-dir", &node.bpf_dir, "--runtime-dir", &node.run_dir, "-o", "json"];
    let mut status = Command::new(&stage.hands.agent);
    let said = stage.hands.finish(status.arg("status").args(args))?.words();
    let state: Value = serde_json::from_str(&said).with_context(|| format!("status says {said}"))?;
    let limits = state["limits"].as_array().context("status without limits")?;
    let peers = limits.iter().find(|limit| limit["what"] == "peers");
    peers.and_then(|limit| limit["used"].as_u64()).context("status without PEERS")
}
