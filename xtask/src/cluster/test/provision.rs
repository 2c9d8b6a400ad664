//! Trunk and branches, seen from EC2: warm ones, events, orphans.

use anyhow::{Context, Result, ensure};

use super::stage::{NAMESPACE, Role, START, Stage};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;

const FREE: &str = "Name=tag:sgp.dev/pod-uid,Values=";

/// The pod's branch stood before the pod did, and another takes its place.
pub(super) fn warm(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    stage.policy("warm", &stage.group("warm")?)?;
    let before = until(START, || two_free(stage, node))?;
    stage.start(&Role { name: "warm", role: "warm", node: &node.name, image: "busybox" })?;
    let query = "NetworkInterfaces[].NetworkInterfaceId";
    let filter = format!("Name=tag:sgp.dev/pod,Values={NAMESPACE}/warm");
    let taken = stage.hands.ec2(&["describe-network-interfaces", "--filters", &filter, "--query", query])?;
    ensure!(before.contains(&taken), "the pod has {taken:?}, free were {before:?}");
    let words = stage.describe("warm")?;
    ensure!(words.contains("ResourceAllocated") && words.contains("SecurityGroupRequested"), "{words}");
    until(START, || two_free(stage, node)).map(drop)
}

/// The free branches of a node, once there are as many as the agent keeps by default.
fn two_free(stage: &Stage, node: &Node) -> Result<Vec<String>> {
    let path = "jsonpath={.spec.providerID}";
    let provider = stage.hands.kubectl(&["get", "node", &node.name, "-o", path])?.ok()?;
    let instance = provider.rsplit('/').next().unwrap_or_default();
    let here = format!("Name=tag:node.k8s.amazonaws.com/instance_id,Values={instance}");
    let query = "NetworkInterfaces[?Status=='in-use'].NetworkInterfaceId";
    let seen = stage.hands.ec2(&["describe-network-interfaces", "--filters", FREE, &here, "--query", query])?;
    let free: Vec<String> = seen.split_whitespace().map(str::to_owned).collect();
    ensure!(free.len() == 2, "free branches of {}: {free:?}", node.name);
    Ok(free)
}

/// The Node says what it carries, and CNINode that it does.
pub(super) fn node_says(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let get = |kind: &str, path: &str| stage.hands.kubectl(&["get", kind, &node.name, "-o", path])?.ok();
    let label = get("node", "jsonpath={.metadata.labels.vpc\\.amazonaws\\.com/has-trunk-attached}")?;
    ensure!(label == "true", "the label is {label:?}");
    let features = get("cninodes.vpcresources.k8s.aws", "jsonpath={.spec.features[*].name}")?;
    ensure!(features.contains("SecurityGroupsForPods"), "the features are {features:?}");
    let events = stage.hands.kubectl(&["describe", "node", &node.name])?.ok()?;
    ensure!(events.contains("NodeTrunkInitiated"), "{events}");
    Ok(())
}

/// An interface of a node that is gone is deleted; one that only looks like it is not.
pub(super) fn orphans(stage: &Stage) -> Result<()> {
    let vpc = format!("Name=vpc-id,Values={}", stage.world.vpc);
    let subnet = stage.hands.ec2(&["describe-subnets", "--filters", &vpc, "--query", "Subnets[0].SubnetId"])?;
    let make = |owner: &str| {
        let tags = format!(
            "ResourceType=network-interface,Tags=[{{Key=eks:eni:owner,Value={owner}}},\
             {{Key=kubernetes.io/cluster/lost,Value=owned}},\
             {{Key=node.k8s.amazonaws.com/instance_id,Value=i-0badc0ffee0ddf00d}},{{Key=sgp.dev/pod-uid,Value=u}}]"
        );
        let args = ["create-network-interface", "--subnet-id", &subnet, "--tag-specifications", &tags];
        stage.hands.ec2(&[&args[..], &["--query", "NetworkInterface.NetworkInterfaceId"]].concat())
    };
    let (ours, others) = (make("sgp-agent")?, make("amazon-vpc-cni")?);
    let ask = |more: &[&str]| {
        let outcome = stage.hands.agent(&[&["orphans", "--cluster-name", "lost", "--json"], more].concat())?;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&outcome.ok()?).context("sgp-agent orphans --json")?;
        anyhow::Ok(rows.iter().map(|row| (row["interface"].clone(), row["outcome"].clone())).collect::<Vec<_>>())
    };
    ensure!(ask(&[])? == [(ours.clone().into(), "left".into())], "found {:?}", ask(&[])?);
    let deleted = ask(&["--delete", "--apart", "1"])?;
    ensure!(deleted == [(ours.clone().into(), "deleted".into())], "deleted {deleted:?}");
    let left = stage.hands.ec2(&[
        "describe-network-interfaces",
        "--filters",
        "Name=tag:kubernetes.io/cluster/lost,Values=owned",
        "--query",
        "NetworkInterfaces[].NetworkInterfaceId",
    ])?;
    ensure!(left == others, "EC2 has {left}, expected {others}");
    stage.hands.ec2(&["delete-network-interface", "--network-interface-id", &others]).map(drop)
}

/// EC2 (here the emulator's copy of AWS's own answer) knows the types of the table.
pub(super) fn instance_types(stage: &Stage) -> Result<()> {
    let table = stage.hands.agent(&["instance-types", "--refresh"])?;
    ensure!(table.status == 0, "{}", table.words());
    let m5_large = table.stdout.lines().find(|line| line.starts_with("m5.large,")).unwrap_or_default();
    ensure!(m5_large == "m5.large,true,9,3,10,false,nitro,1,0,3", "m5.large is {m5_large:?}");
    ensure!(table.stdout.lines().count() > 1164, "{} lines", table.stdout.lines().count());
    Ok(())
}
