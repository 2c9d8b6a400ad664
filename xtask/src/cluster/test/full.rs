//! Nodes that are full, by the real scheduler: it counts what the agents advertise and what the webhook writes into pods.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::controller::{admitting, injected, with_controllers};
use super::stage::{NAMESPACE, Stage};
use crate::demo::hands::until;

/// Branches of an m5.large (instance-limits.csv).
const BRANCHES: usize = 9;
/// How long dozens of pods may take to start, on two processors.
const STARTS: Duration = Duration::from_secs(120);
/// The scheduler's own words.
const INSUFFICIENT: &str = "Insufficient vpc.amazonaws.com/pod-eni";

/// Nine pods run on a node and the tenth waits, then 45 on five and the 46th; each starts after another is gone.
pub(super) fn full(stage: &Stage) -> Result<()> {
    with_controllers(stage, |stage, pids| {
        stage.namespace()?;
        stage.policy("admitted", &stage.group("full")?)?;
        pids.push(admitting(stage)?);
        injected(stage)?;
        without_dns(stage)?;
        one_node(stage)?;
        all_nodes(stage)
    })
}

/// Its pods have branches, and were admitted before there was a webhook: the scheduler does not count theirs.
fn without_dns(stage: &Stage) -> Result<()> {
    stage.hands.kubectl(&["scale", "deployment", "dns", "-n", "kube-system", "--replicas=0"])?.ok()?;
    until(STARTS, || {
        let left =
            stage.hands.kubectl(&["get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "name"])?;
        let left = left.ok()?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(())
    })
}

fn one_node(stage: &Stage) -> Result<()> {
    replicas(stage, "first", BRANCHES, "kubernetes.io/hostname: n1")?;
    run(stage, "first", BRANCHES)?;
    replicas(stage, "tenth", 1, "kubernetes.io/hostname: n1")?;
    waits(stage, "tenth")?;
    let begun = Instant::now();
    scale(stage, "first", BRANCHES - 1)?;
    run(stage, "tenth", 1)?;
    println!("  the tenth pod of n1 ran {:.1} s after one of nine was deleted", begun.elapsed().as_secs_f32());
    Ok(())
}

fn all_nodes(stage: &Stage) -> Result<()> {
    let rest = BRANCHES * (stage.world.nodes.len() - 1);
    replicas(stage, "rest", rest, "")?;
    run(stage, "rest", rest)?;
    let by_node = by_node(stage)?;
    let expected: BTreeMap<String, usize> =
        stage.world.nodes.iter().map(|node| (node.name.clone(), BRANCHES)).collect();
    ensure!(by_node == expected, "pods by node: {by_node:?}");
    replicas(stage, "forty-sixth", 1, "")?;
    waits(stage, "forty-sixth")?;
    let begun = Instant::now();
    scale(stage, "rest", rest - 1)?;
    run(stage, "forty-sixth", 1)?;
    println!("  the 46th pod of five nodes ran {:.1} s after one of 45 was deleted", begun.elapsed().as_secs_f32());
    Ok(())
}

/// Pods of one name, on nodes with this label.
fn replicas(stage: &Stage, name: &str, count: usize, nodes: &str) -> Result<()> {
    let yaml = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  replicas: {count}\n  selector: {{matchLabels: {{of: {name}}}}}\n  template:\n\
         \x20   metadata: {{labels: {{of: {name}, role: admitted}}}}\n\
         \x20   spec: {{nodeSelector: {{{nodes}}}, terminationGracePeriodSeconds: 0, \
         containers: [{{name: c, image: busybox, command: [sleep, '3600']}}]}}\n"
    );
    stage.hands.apply(&yaml)?.ok().map(drop)
}

fn scale(stage: &Stage, name: &str, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    stage.hands.kubectl(&["scale", "deployment", name, "-n", NAMESPACE, &replicas])?.ok().map(drop)
}

fn run(stage: &Stage, name: &str, count: usize) -> Result<()> {
    until(STARTS, || {
        let selector = format!("of={name}");
        let seen = pods(stage, &selector, "{.items[*].status.phase}")?;
        let running = seen.split_whitespace().filter(|phase| *phase == "Running").count();
        ensure!(running == count, "{running} of {count} pods {name} run: {seen}");
        Ok(())
    })
}

/// The scheduler says why, and the pod is on no node.
fn waits(stage: &Stage, name: &str) -> Result<()> {
    until(STARTS, || {
        let selector = format!("of={name}");
        let condition = "{.items[0].status.conditions[?(@.type=='PodScheduled')].message}";
        let seen = pods(stage, &selector, &format!("{{.items[0].spec.nodeName}}|{condition}"))?;
        ensure!(seen.starts_with('|') && seen.contains(INSUFFICIENT), "pod {name}: {seen:?}");
        Ok(())
    })
}

fn by_node(stage: &Stage) -> Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for node in pods(stage, "role=admitted", "{.items[*].spec.nodeName}")?.split_whitespace() {
        *counts.entry(node.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

fn pods(stage: &Stage, selector: &str, path: &str) -> Result<String> {
    let path = format!("jsonpath={path}");
    stage.hands.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", selector, "-o", &path])?.ok()
}
