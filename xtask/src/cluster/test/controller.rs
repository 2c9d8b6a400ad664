//! The controller, called by the real API server: admission, and one replica taking over from another.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::stage::{NAMESPACE, Role, START, Stage};
use crate::declared::{self, Who};
use crate::demo::hands::{Outcome, until};
use crate::process::{daemon, finish, within};

const WEBHOOKS: &str = include_str!("../../../../deploy/controller/webhooks.yaml");
/// Name in the tags of interfaces that are for the controller alone.
const CLUSTER: &str = "lost-controller";
const LIMIT: &str = "jsonpath={.spec.containers[0].resources.limits.vpc\\.amazonaws\\.com/pod-eni}";
const ANNOTATION: &str = "vpc.amazonaws.com/pod-eni";

/// Two controllers; the first leads, the second is the one that API servers call.
pub(super) fn controllers(stage: &Stage) -> Result<()> {
    with_controllers(stage, shown)
}

/// Lets a case start controllers, and takes them and all that is theirs away afterwards.
pub(super) fn with_controllers(stage: &Stage, case: impl FnOnce(&Stage, &mut Vec<u32>) -> Result<()>) -> Result<()> {
    let mut pids = Vec::new();
    let result = case(stage, &mut pids);
    for pid in pids {
        // One of them may be dead already.
        drop(Command::new("kill").args(["-9", &pid.to_string()]).output());
    }
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        stage.hands.kubectl(&["delete", kind, "sgp-controller", "--ignore-not-found"])?.ok()?;
    }
    withdraw(stage)?;
    stage
        .hands
        .kubectl(&["delete", "lease,secret", "sgp-controller", "-n", "kube-system", "--ignore-not-found"])?
        .ok()?;
    result
}

/// The index first: with it agents ask EC2 themselves, and what was published may go once they have.
fn withdraw(stage: &Stage) -> Result<()> {
    let kind = "securitygroupmemberships";
    stage.hands.kubectl(&["delete", kind, "members-index", "--ignore-not-found"])?.ok()?;
    std::thread::sleep(Duration::from_secs(3));
    stage.hands.kubectl(&["delete", kind, "--all"])?.ok().map(drop)
}

/// A controller that leads.
pub(super) fn leading(stage: &Stage, identity: &str, port: u16) -> Result<u32> {
    let pid = start(stage, identity, port)?;
    until(START, || leader(stage, identity))?;
    Ok(pid)
}

fn shown(stage: &Stage, pids: &mut Vec<u32>) -> Result<()> {
    stage.namespace()?;
    stage.policy("admitted", &stage.group("admitted")?)?;
    pids.push(start(stage, "first", 9443)?);
    until(START, || leader(stage, "first"))?;
    pids.push(start(stage, "second", 9444)?);
    stage.hands.apply(&webhooks(stage, 9444))?.ok()?;
    injected(stage)?;
    guarded(stage)?;
    let before = authorities(stage)?;
    age_certificate(stage)?;
    let first = pids.first().context("no controller was started")?.to_string();
    finish(Command::new("kill").args(["-9", &first]))?;
    injected(stage)?;
    until(START, || leader(stage, "second"))?;
    renewed(stage, &before)?;
    swept(stage)
}

/// What API servers believe, in PEM.
fn authorities(stage: &Stage) -> Result<String> {
    let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    let bundle = stage.hands.kubectl(&["get", "mutatingwebhookconfiguration", "sgp-controller", "-o", path])?.ok()?;
    stage.hands.finish_with(Command::new("base64").arg("-d"), &bundle)?.ok()
}

/// Makes the certificate look as old as can be: whoever leads next renews it.
fn age_certificate(stage: &Stage) -> Result<()> {
    let patch = r#"{"stringData": {"until": "0"}}"#;
    let args = ["patch", "secret", "sgp-controller", "-n", "kube-system", "--type", "merge", "-p", patch];
    stage.hands.kubectl(&args)?.ok().map(drop)
}

/// The new authority stands before the one whose certificate was in use, and pods are admitted as before.
fn renewed(stage: &Stage, before: &str) -> Result<()> {
    let old = before.split_inclusive("-----END CERTIFICATE-----").next().unwrap_or_default();
    until(START, || {
        let now = authorities(stage)?;
        ensure!(!now.starts_with(old) && now.contains(old.trim()), "API servers believe {now}");
        Ok(())
    })?;
    injected(stage)
}

/// A controller that leads and admits pods.
pub(super) fn admitting(stage: &Stage) -> Result<u32> {
    let pid = leading(stage, "first", 9443)?;
    stage.hands.apply(&webhooks(stage, 9443))?.ok()?;
    Ok(pid)
}

fn start(stage: &Stage, identity: &str, port: u16) -> Result<u32> {
    let host = stage.place.control_plane();
    let contained = declared::command(Who::Controller, &stage.place, &stage.hands.agent, &stage.place.dir());
    let mut command = within(&stage.place.netns("cp"), contained.get_program());
    command.args(contained.get_args());
    command.args(["controller", "--cluster-name", CLUSTER, "--identity", identity]);
    command.args([
        "--server-name",
        &host,
        "--bind",
        &format!("{host}:{port}"),
        "--sweep",
        "2",
        "--membership-poll",
        "1",
    ]);
    daemon(&stage.place, &format!("controller-{identity}"), &mut command)
}

/// What `deploy/` has, at an address: the API server of this cluster is in no pod network, so Services do not lead
/// it anywhere.
fn webhooks(stage: &Stage, port: u16) -> String {
    let service = |path: &str| {
        format!("      service:\n        name: sgp-controller\n        namespace: kube-system\n        path: {path}\n")
    };
    let url = |path: &str| format!("      url: https://{}:{port}{path}\n", stage.place.control_plane());
    let mut yaml = WEBHOOKS.to_owned();
    for path in ["/mutate-v1-pod", "/validate-v1-pod"] {
        yaml = yaml.replace(&service(path), &url(path));
    }
    yaml
}

fn leader(stage: &Stage, identity: &str) -> Result<()> {
    let args = ["get", "lease", "sgp-controller", "-n", "kube-system", "-o", "jsonpath={.spec.holderIdentity}"];
    let holder = stage.hands.kubectl(&args)?.ok()?;
    ensure!(holder == identity, "the Lease is {holder:?}'s, not {identity:?}'s");
    Ok(())
}

/// A pod that a policy matches has the resource, another has not.
pub(super) fn injected(stage: &Stage) -> Result<()> {
    let limit = |role: &str| {
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: asked, namespace: {NAMESPACE}, labels: {{role: {role}}}}}\n\
             spec: {{containers: [{{name: c, image: busybox}}]}}\n"
        );
        let mut create = Command::new(stage.hands.kube_bin.join("kubectl"));
        create.args(["create", "--dry-run=server", "-o", LIMIT, "-f", "-"]);
        stage.hands.finish_with(&mut create, &yaml)?.ok()
    };
    // An API server hears of a webhook and of its authority a moment later.
    until(START, || {
        let seen = limit("admitted")?;
        ensure!(seen == "1", "the limit of a matched pod is {seen:?}");
        Ok(())
    })?;
    let seen = limit("somebody-else")?;
    ensure!(seen.is_empty(), "the limit of an unmatched pod is {seen:?}");
    Ok(())
}

/// A user who may write the annotation of branches; Fargate's is nobody's to write.
const BY_WRITER: &str = "--as=eks:vpc-resource-controller";

/// Nobody writes the annotation but its writers; the pod itself starts, with the resource the scheduler counts.
fn guarded(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    for text in ["[]", ""] {
        let forged = Role { name: "forged", role: "admitted", node: &node.name, image: "busybox" };
        let refused = stage.ask_for(&forged, &format!("{ANNOTATION}: '{text}'"));
        let words = refused.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(words.contains("pod cannot be created with vpc.amazonaws.com/pod-eni annotation"), "{text:?}: {words}");
    }
    stage.start(&Role { name: "admitted", role: "admitted", node: "", image: "busybox" })?;
    let seen = stage.hands.kubectl(&["get", "pod", "admitted", "-n", NAMESPACE, "-o", LIMIT])?.ok()?;
    ensure!(seen == "1", "the limit of the pod is {seen:?}");
    let by_stranger = |more: &[&str]| -> Result<Outcome> {
        let change = ["annotate", "pod", "admitted", "-n", NAMESPACE, "--overwrite"];
        stage.hands.kubectl(&[&change[..], &["--as=mallory", "--as-group=system:masters"], more].concat())
    };
    for change in [format!("{ANNOTATION}=[]"), format!("{ANNOTATION}-")] {
        let outcome = by_stranger(&[&change])?;
        let words = outcome.words();
        ensure!(words.contains("annotation is not set by vpc-resource-controller"), "{change}: {words}");
    }
    by_stranger(&["other=fine"])?.ok()?;
    let fargate = ["annotate", "pod", "admitted", "-n", NAMESPACE, "fargate.amazonaws.com/pod-sg=sg-1"];
    let outcome = stage.hands.kubectl(&[&fargate[..], &[BY_WRITER, "--as-group=system:masters"]].concat())?;
    ensure!(outcome.words().contains("annotation is not set by mutating webhook"), "{}", outcome.words());
    Ok(())
}

/// Whoever leads now deletes an orphan, and not what is another's.
fn swept(stage: &Stage) -> Result<()> {
    let vpc = format!("Name=vpc-id,Values={}", stage.world.vpc);
    let subnet = stage.hands.ec2(&["describe-subnets", "--filters", &vpc, "--query", "Subnets[0].SubnetId"])?;
    let make = |owner: &str| {
        let tags = format!(
            "ResourceType=network-interface,Tags=[{{Key=eks:eni:owner,Value={owner}}},\
             {{Key=kubernetes.io/cluster/{CLUSTER},Value=owned}},\
             {{Key=node.k8s.amazonaws.com/instance_id,Value=i-0badc0ffee0ddf00d}},{{Key=sgp.dev/pod-uid,Value=u}}]"
        );
        let args = ["create-network-interface", "--subnet-id", &subnet, "--tag-specifications", &tags];
        stage.hands.ec2(&[&args[..], &["--query", "NetworkInterface.NetworkInterfaceId"]].concat())
    };
    let (_, others) = (make("sgp-agent")?, make("amazon-vpc-cni")?);
    let filter = format!("Name=tag:kubernetes.io/cluster/{CLUSTER},Values=owned");
    let query = "NetworkInterfaces[].NetworkInterfaceId";
    until(Duration::from_secs(30), || {
        let left = stage.hands.ec2(&["describe-network-interfaces", "--filters", &filter, "--query", query])?;
        ensure!(left == others, "EC2 has {left}, expected {others}");
        Ok(())
    })?;
    stage.hands.ec2(&["delete-network-interface", "--network-interface-id", &others]).map(drop)
}
