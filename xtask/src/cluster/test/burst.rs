//! A hundred and twenty pods at once, by the real agent before the emulator, which takes its time and throttles as EC2 does.
//! `sgp-agent/tests/crash/burst.rs` has the same beside AWS's algorithm, in virtual time.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{NAMESPACE, START, Stage};
use crate::demo::hands::until;
use crate::process::{daemon, finish, within};

/// Pods, and branches of an m5.metal (instance-limits.csv).
const PODS: usize = 120;
/// Name of node, processes and directories.
const NAME: &str = "burst";
/// Calls that a pod's branch needs of AWS's controller (facts 2.4).
const CALLS_OF_AWS: usize = 3;

/// An EC2 of its own, and an agent of a node that runs no pods: their branches alone count.
pub(super) fn burst(stage: &Stage) -> Result<()> {
    let mut pids = Vec::new();
    let result = annotated(stage, &mut pids);
    for pid in pids {
        drop(Command::new("kill").arg(pid.to_string()).output());
    }
    stage.hands.kubectl(&["delete", "node", NAME, "--ignore-not-found"])?.ok()?;
    // The agent that held these pins is told to end and may take a moment.
    drop(until(START, || Ok(std::fs::remove_dir_all(bpf_dir(stage))?)));
    result
}

fn annotated(stage: &Stage, pids: &mut Vec<u32>) -> Result<()> {
    let endpoint = format!("http://{}:5001", stage.place.control_plane());
    pids.push(start_ec2(stage)?);
    let world = until(START, || make_world(stage, &endpoint))?;
    let text = |path: &str| world.pointer(path).and_then(Value::as_str).map(str::to_owned).context("vpc.py's answer");
    let (instance, group) = (text("/instances/burst/id")?, text("/clusterGroup")?);
    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {NAME}, labels: {{kubernetes.io/os: linux}}}}\n\
         spec: {{providerID: 'aws:///us-west-2a/{instance}'}}\n"
    );
    stage.hands.apply(&node)?.ok()?;
    pids.push(start_agent(stage, &endpoint)?);
    let capacity = "jsonpath={.status.capacity.vpc\\.amazonaws\\.com/pod-eni}";
    until(START, || {
        let seen = stage.hands.kubectl(&["get", "node", NAME, "-o", capacity])?.ok()?;
        ensure!(seen == PODS.to_string(), "the node says {seen:?}");
        Ok(())
    })?;
    stage.namespace()?;
    stage.policy(NAME, &group)?;
    let pods: String = (0..PODS).map(pod).collect();
    let begun = Instant::now();
    stage.hands.apply(&pods)?.ok()?;
    let path = "jsonpath={.items[*].metadata.annotations.vpc\\.amazonaws\\.com/pod-eni}";
    until(Duration::from_secs(120), || {
        let role = format!("role={NAME}");
        let seen = stage.hands.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &role, "-o", path])?.ok()?;
        let done = seen.matches("eniId").count();
        ensure!(done == PODS, "{done} of {PODS} pods have their branch");
        Ok(())
    })?;
    let (last, calls) = (begun.elapsed(), calls(stage)?);
    let per_pod = calls as f64 / PODS as f64;
    println!(
        "  {PODS} pods at once: the last has its branch {:.1} s later, {per_pod:.2} calls a pod",
        last.as_secs_f32()
    );
    ensure!(calls < PODS * CALLS_OF_AWS, "{calls} calls for {PODS} pods");
    Ok(())
}

/// 300 ms a call; 50 calls at once and 5 a second of each action, as EC2 documents it.
fn start_ec2(stage: &Stage) -> Result<u32> {
    let (place, dir) = (&stage.place, stage.place.dir());
    let mut server = within(&place.netns("cp"), stage.hands.venv.join("bin/python"));
    server.arg(dir.join("ec2.py")).args(["true", "-H", &place.control_plane(), "-p", "5001"]);
    server.env("SGP_EC2_LATENCY_MS", "300").env("SGP_EC2_BUCKET", "50:5");
    server.env("INITIAL_NO_AUTH_ACTION_COUNT", "99999999").env("SGP_VPC_IPV6", "2001:db8::/56");
    daemon(place, "burst-ec2", &mut server)
}

fn make_world(stage: &Stage, endpoint: &str) -> Result<Value> {
    let mut vpc = Command::new(stage.hands.venv.join("bin/python"));
    vpc.envs(stage.place.environment()).env("AWS_ENDPOINT_URL", endpoint).arg(stage.place.dir().join("vpc.py"));
    vpc.args(["10.1.0.0/16", "10.1.0.0/24", NAME, "m5.metal", "burst=10.1.0.10"]);
    serde_json::from_str(&finish(&mut vpc)?).context("vpc.py's answer")
}

fn start_agent(stage: &Stage, endpoint: &str) -> Result<u32> {
    let mut agent = within(&stage.place.netns("cp"), "env");
    agent.arg(format!("AWS_ENDPOINT_URL={endpoint}")).arg("POD_SECURITY_GROUP_ENFORCING_MODE=standard");
    agent.arg(&stage.hands.agent).args(["run", "--node-name", NAME, "--cluster-name", NAME, "--warm-branches", "0"]);
    agent.args(["--ec2-poll", "2", "--bpf-dir", &bpf_dir(stage), "--runtime-dir"]).arg(stage.place.dir().join(NAME));
    daemon(&stage.place, "burst-agent", &mut agent)
}

fn bpf_dir(stage: &Stage) -> String {
    stage.place.bpf_dir(NAME)
}

fn pod(number: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: burst-{number}, namespace: {NAMESPACE}, labels: {{role: {NAME}}}}}\n\
         spec: {{nodeName: {NAME}, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: busybox}}]}}\n---\n"
    )
}

/// Calls for pods, those that failed too, as the agent's log tells them.
fn calls(stage: &Stage) -> Result<usize> {
    let log: PathBuf = stage.place.dir().join("logs/burst-agent.log");
    let text = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    let of_pods = ["create a branch for", "associate eni-", "set the groups of", "tag eni-", "permit eni-"];
    let steps = text.lines().filter(|line| line.contains("took a step") || line.contains("a step failed"));
    Ok(steps.filter(|line| of_pods.iter().any(|step| line.contains(step))).count())
}
