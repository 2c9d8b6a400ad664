//! Trunk and branches, seen from EC2: warm ones, events, orphans.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::stage::{NAMESPACE, Role, START, Stage};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;

const FREE: &str = "Name=tag:sgp.dev/pod-uid,Values=";

/// What an agent asks of EC2 in a life with pods that come and go.
const CALLS: [&str; 15] = [
    "DescribeInstances",
    "DescribeSubnets",
    "DescribeVpcs",
    "DescribeNetworkInterfaces",
    "DescribeTrunkInterfaceAssociations",
    "DescribeSecurityGroups",
    "DescribeSecurityGroupRules",
    "CreateNetworkInterface",
    "AttachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "AssociateTrunkInterface",
    "CreateTags",
    "DisassociateTrunkInterface",
    "DeleteNetworkInterface",
    "DescribeInstanceTypes",
];

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
    let instance = instance_of(stage, node)?;
    let here = format!("Name=tag:node.k8s.amazonaws.com/instance_id,Values={instance}");
    let query = "NetworkInterfaces[?Status=='in-use'].NetworkInterfaceId";
    let seen = stage.hands.ec2(&["describe-network-interfaces", "--filters", FREE, &here, "--query", query])?;
    let free: Vec<String> = seen.split_whitespace().map(str::to_owned).collect();
    ensure!(free.len() == 2, "free branches of {}: {free:?}", node.name);
    Ok(free)
}

fn instance_of(stage: &Stage, node: &Node) -> Result<String> {
    let path = "jsonpath={.spec.providerID}";
    let provider = stage.hands.kubectl(&["get", "node", &node.name, "-o", path])?.ok()?;
    Ok(provider.rsplit('/').next().unwrap_or_default().to_owned())
}

/// The Node says what it carries, and CNINode that it does.
pub(super) fn node_says(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let get = |kind: &str, path: &str| stage.hands.kubectl(&["get", kind, &node.name, "-o", path])?.ok();
    let label = get("node", "jsonpath={.metadata.labels.vpc\\.amazonaws\\.com/has-trunk-attached}")?;
    ensure!(label == "true", "the label is {label:?}");
    let capacity = get("node", "jsonpath={.status.capacity.vpc\\.amazonaws\\.com/pod-eni}")?;
    ensure!(capacity == stage.place.machine.branches().to_string(), "the capacity is {capacity:?}");
    let features = get("cninodes.vpcresources.k8s.aws", "jsonpath={.spec.features[*].name}")?;
    ensure!(features.contains("SecurityGroupsForPods"), "the features are {features:?}");
    let events = stage.hands.kubectl(&["describe", "node", &node.name])?.ok()?;
    ensure!(events.contains("NodeTrunkInitiated"), "{events}");
    Ok(())
}

/// Trunk and branches as AWS's controller makes them (facts 2.3 to 2.5).
pub(super) fn as_awss(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let here = format!("Name=tag:node.k8s.amazonaws.com/instance_id,Values={}", instance_of(stage, node)?);
    let owned = format!("Name=tag:kubernetes.io/cluster/{},Values=owned", stage.place.name);
    let ask = |description: &str, query: &str| {
        let of = format!("Name=description,Values={description}");
        stage.hands.ec2(&["describe-network-interfaces", "--filters", &of, &here, &owned, "--query", query])
    };
    // m5.xlarge has four device indexes, and VPC CNI fills from the lowest.
    let query = "NetworkInterfaces[].[InterfaceType,Attachment.DeviceIndex,Attachment.DeleteOnTermination]";
    let trunk = ask("aws-k8s-trunk-eni", query)?;
    ensure!(trunk.split_whitespace().eq(["trunk", "3", "True"]), "the trunk is {trunk:?}");
    let query = "NetworkInterfaces[?Status=='in-use'].TagSet[] | [?Key=='vpcresources.k8s.aws/vlan-id'].Value";
    let vlans = ask("aws-k8s-branch-eni", query)?;
    let ids: Vec<u16> = vlans.split_whitespace().flat_map(str::parse).collect();
    ensure!(!ids.is_empty() && ids.iter().all(|id| (1..=120).contains(id)), "the VLAN ids are {vlans:?}");
    Ok(())
}

/// The emulator refuses what the AWS SDK's model of EC2 does not know, as EC2 does; all calls of an agent's life pass.
pub(super) fn shapes(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    stage.policy("short", &stage.group("short")?)?;
    stage.start(&Role { name: "short", role: "short", node: &node.name, image: "busybox" })?;
    // Its branch rests, and is one more than are kept.
    stage.hands.kubectl(&["delete", "pod", "short", "-n", NAMESPACE])?.ok()?;
    stage.hands.agent(&["instance-types", "--refresh"])?.ok()?;
    let log = stage.place.dir().join("logs/ec2.log");
    until(START, || {
        let seen = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        let held = |action: &&str| seen.lines().any(|line| line == format!("requests like the model's: {action}"));
        let missing: Vec<_> = CALLS.iter().filter(|action| !held(action)).collect();
        ensure!(missing.is_empty(), "no request was held against the model: {missing:?}");
        Ok(())
    })?;
    for (wrong, code) in [("SubnetId=s&Nonsense=1", "UnknownParameter"), ("Description=d", "MissingParameter")] {
        let signed = "Authorization: AWS4-HMAC-SHA256 Credential=k/20260101/us-west-2/ec2/aws4_request, Signature=0";
        let body = format!("Action=CreateNetworkInterface&Version=2016-11-15&{wrong}");
        let url = format!("http://{}:5000/", stage.place.control_plane());
        let answer = stage.hands.finish(Command::new("curl").args(["-s", "-d", &body, "-H", signed, &url]))?.ok()?;
        ensure!(answer.contains(code), "to {wrong} EC2 says {answer}");
    }
    Ok(())
}

/// What an operator changes while an agent runs: another CIDR of the VPC, other groups of the node.
pub(super) fn changed(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let (vpc, excluded) = (stage.world.vpc.as_str(), "100.72.0.0/16");
    let args = ["associate-vpc-cidr-block", "--vpc-id", vpc, "--cidr-block", excluded];
    let association = stage.hands.ec2(&[&args[..], &["--query", "CidrBlockAssociation.AssociationId"]].concat())?;
    let snat = || stage.hands.agent(&["snat", "--json", "--bpf-dir", &node.bpf_dir])?.ok();
    until(START, || {
        ensure!(snat()?.contains(excluded), "pods' packets to {excluded} are still translated");
        Ok(())
    })?;
    stage.hands.ec2(&["disassociate-vpc-cidr-block", "--association-id", &association])?;
    until(START, || {
        ensure!(!snat()?.contains(excluded), "{excluded} is of the VPC no more, and still excluded");
        Ok(())
    })?;
    // Free branches have the node's groups.
    stage.namespace()?;
    stage.policy("changed", &stage.group("changed")?)?;
    until(START, || two_free(stage, node))?;
    let (instance, also) = (instance_of(stage, node)?, stage.group("nodes-too")?);
    let node_has = |groups: &[&str]| {
        let primary = format!("Name=attachment.instance-id,Values={instance}");
        let query = "NetworkInterfaces[?Attachment.DeviceIndex==`0`].NetworkInterfaceId";
        let primary = stage.hands.ec2(&["describe-network-interfaces", "--filters", &primary, "--query", query])?;
        let args = ["modify-network-interface-attribute", "--network-interface-id", &primary, "--groups"];
        stage.hands.ec2(&[&args[..], groups].concat())?;
        until(START, || free_ones_have(stage, &instance, groups))
    };
    node_has(&[&stage.world.cluster_group, &also])?;
    node_has(&[&stage.world.cluster_group])
}

fn free_ones_have(stage: &Stage, instance: &str, groups: &[&str]) -> Result<()> {
    let here = format!("Name=tag:node.k8s.amazonaws.com/instance_id,Values={instance}");
    let query = "NetworkInterfaces[].Groups[].GroupId";
    let seen = stage.hands.ec2(&["describe-network-interfaces", "--filters", FREE, &here, "--query", query])?;
    let (seen, wanted): (BTreeSet<&str>, _) = (seen.split_whitespace().collect(), groups.iter().copied().collect());
    ensure!(seen == wanted, "free branches have {seen:?}, the node {wanted:?}");
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
