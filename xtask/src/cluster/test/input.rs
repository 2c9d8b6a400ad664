//! Bad input: one clear error that names the object, and nothing else suffers.

use anyhow::{Result, ensure};

use super::stage::{NAMESPACE, Role, START, Stage};
use crate::demo::hands::until;

const UNKNOWN: &str = "sg-0badc0ffee0ddf00d";

/// Waits until `kubectl describe` says all of these words of a pod.
pub(super) fn waits(stage: &Stage, pod: &str, words: &[&str]) -> Result<()> {
    until(START, || {
        let text = stage.describe(pod)?;
        for word in words {
            ensure!(text.contains(word), "kubectl describe pod {pod} does not say {word}:\n{text}");
        }
        Ok(())
    })
}

/// The emulator's extension makes a group with the id its description asks for; EC2 itself would not.
pub(super) fn unknown_group(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    stage.policy("lost", UNKNOWN)?;
    stage.policy("fine", &stage.group("fine")?)?;
    stage.ask_for(&Role { name: "lost", role: "lost", node: "", image: "busybox" }, "")?;
    waits(stage, "lost", &["InvalidSecurityGroupID.NotFound", UNKNOWN])?;
    stage.start(&Role { name: "fine", role: "fine", node: "", image: "busybox" })?;
    stage.described_group("found", &format!("id={UNKNOWN}"))?;
    stage.running("lost").map(drop)
}

pub(super) fn malformed_annotation(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    stage.policy("broken", &stage.group("broken")?)?;
    let broken = Role { name: "broken", role: "broken", node: "", image: "busybox" };
    stage.ask_for(&broken, "vpc.amazonaws.com/pod-eni: 'no json'")?;
    waits(stage, "broken", &["vpc.amazonaws.com/pod-eni", "cases/broken"])?;
    stage.start(&Role { name: "whole", role: "broken", node: "", image: "busybox" }).map(drop)
}

/// No field of a policy is required, and policies are read together.
pub(super) fn without_spec(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let (api, metadata) = ("vpcresources.k8s.aws/v1beta1", format!("{{name: bare, namespace: {NAMESPACE}}}"));
    stage.hands.apply(&format!("{{apiVersion: {api}, kind: SecurityGroupPolicy, metadata: {metadata}}}"))?.ok()?;
    stage.policy("beside", &stage.group("beside")?)?;
    stage.start(&Role { name: "beside", role: "beside", node: "", image: "busybox" })?;
    stage.hands.kubectl(&["delete", "securitygrouppolicy", "bare", "-n", NAMESPACE])?.ok().map(drop)
}

pub(super) fn deleted_during_add(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    // Another one than above, which exists by now.
    stage.policy("brief", "sg-0dead0dead0dead00")?;
    stage.ask_for(&Role { name: "brief", role: "brief", node: "", image: "busybox" }, "")?;
    waits(stage, "brief", &["FailedCreatePodSandBox"])?;
    stage.hands.kubectl(&["delete", "pod", "brief", "-n", NAMESPACE, "--timeout=30s"])?.ok()?;
    let query = "NetworkInterfaces[?TagSet[?Key=='sgp.dev/pod' && Value=='cases/brief']].NetworkInterfaceId";
    until(START, || {
        let left = stage.hands.ec2(&["describe-network-interfaces", "--query", query])?;
        ensure!(left.is_empty(), "EC2 still has {left}");
        Ok(())
    })
}
