//! What the two modes promise beyond the ways of packets: probes, and pods of both on one node.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::agents::restart_with;
use super::stage::{NAMESPACE, Role, START, Stage};
use crate::demo::hands::until;
use crate::demo::tutorial::Node;
use crate::place::Mode;
use crate::process::within;

/// kubelet's probes pass a standard pod without a rule, and a strict one exactly if its groups allow the node's.
pub(super) fn probes(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("probes")?;
    stage.policy("probes", &group)?;
    for (name, probe) in [("tcp", "tcpSocket: {port: 80}"), ("http", "httpGet: {port: 80, path: /}")] {
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{role: probes}}}}\n\
             spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: nginx, \
             readinessProbe: {{{probe}, periodSeconds: 1}}}}]}}\n"
        );
        stage.hands.apply(&yaml)?.ok()?;
    }
    for name in ["tcp", "http"] {
        stage.running(name)?;
    }
    if stage.place.mode == Mode::Strict {
        // Long enough for the probes of three periods.
        std::thread::sleep(Duration::from_secs(3));
        for name in ["tcp", "http"] {
            ensure!(!is_ready(stage, name)?, "probe {name} passes a strict pod whose groups do not allow it");
        }
        let cluster = &stage.world.cluster_group;
        stage.open_80(&group, cluster)?;
    }
    until(START, || {
        for name in ["tcp", "http"] {
            ensure!(is_ready(stage, name)?, "probe {name} does not pass");
        }
        Ok(())
    })
}

fn is_ready(stage: &Stage, pod: &str) -> Result<bool> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
    Ok(stage.hands.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", path])?.ok()? == "True")
}

/// A node's mode changes under a running pod: that pod stays as it is, new ones are wired in the new way, and
/// they reach each other; in the end nothing of either is left.
pub(super) fn switched(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("switched")?;
    stage.open_80(&group, &group)?;
    stage.policy("switched", &group)?;
    let [node, far] = &stage.world.nodes[..] else { bail!("these cases want two nodes") };
    let server =
        |name, node: &Node| stage.start(&Role { name, role: "switched", node: &node.name, image: "nginx" }).map(drop);
    server("far", far)?;
    server("old", node)?;
    let before = stage.wired("old")?;
    let other = match stage.place.mode {
        Mode::Strict => "standard",
        Mode::Standard => "strict",
    };
    restart_with(stage, node, &format!("POD_SECURITY_GROUP_ENFORCING_MODE={other}\n"))?;
    server("new", node)?;
    let result = both(stage);
    restart_with(stage, node, "")?;
    result?;
    let (old, new) = (stage.wired("old")?, stage.wired("new")?);
    ensure!(old.host == before.host && on_node(stage, node, &["link", "show", &old.host])?.contains("UP"), "{old:?}");
    let prefix = if other == "strict" { "vlan" } else { "eni" };
    ensure!(new.host.starts_with(prefix), "a pod of mode {other} has the host veth {}", new.host);
    stage.hands.kubectl(&["delete", "pod", "old", "new", "-n", NAMESPACE, "--force", "--grace-period=0"])?.ok()?;
    until(Duration::from_secs(20), || {
        let rules = on_node(stage, node, &[stage.place.family.flag(), "rule"])?;
        for pod in [&old, &new] {
            let gone = [&pod.host, &pod.branch, &pod.address].iter().all(|word| !rules.contains(&format!("{word} ")));
            ensure!(gone, "of {pod:?} is left:\n{rules}");
        }
        Ok(())
    })
}

fn both(stage: &Stage) -> Result<()> {
    let address = |pod| stage.wired(pod).map(|wired| wired.address);
    for (from, to) in [("old", "new"), ("new", "old"), ("far", "old"), ("far", "new"), ("old", "far"), ("new", "far")] {
        stage.comes_to_reach(from, &address(to)?).with_context(|| format!("{from} does not reach {to}"))?;
    }
    Ok(())
}

/// With the mark of our plugin gone, a pod is as aws-node would have wired it while no agent ran: the next agent
/// finds it by name, annotation and route.
pub(super) fn adopted(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("adopted")?;
    stage.open_80(&group, &group)?;
    stage.policy("adopted", &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let address = stage.start(&Role { name: "web", role: "adopted", node: &node.name, image: "nginx" })?;
    stage.start(&Role { name: "friend", role: "adopted", node: "", image: "busybox" })?;
    stage.policy("stranger", &stage.group("stranger")?)?;
    stage.start(&Role { name: "stranger", role: "stranger", node: "", image: "busybox" })?;
    let web = stage.wired("web")?;
    let wiring = || {
        let parts = [
            &["-4", "rule"][..],
            &["-6", "rule"],
            &["-4", "route", "show", "table", "all"],
            &["-6", "route", "show", "table", "all"],
        ];
        parts.iter().map(|words| on_node(stage, node, words)).collect::<Result<Vec<_>>>()
    };
    let before = wiring()?;
    stop_agent(stage, node)?;
    on_node(stage, node, &["link", "set", &web.host, "alias", ""])?;
    restart_with(stage, node, "")?;
    until(Duration::from_secs(20), || {
        let link = on_node(stage, node, &["link", "show", &web.host])?;
        ensure!(link.contains(&format!("uid={}", web.uid)), "its host veth is not adopted: {link}");
        let named = format!("{NAMESPACE}/web");
        let endpoints = stage.hands.agent(&["endpoints", "--bpf-dir", &node.bpf_dir])?.ok()?;
        ensure!(endpoints.contains(&named), "{named} is no endpoint:\n{endpoints}");
        ensure!(!stage.reaches("stranger", &address)?, "a stranger reaches it");
        stage.comes_to_reach("friend", &address)?;
        Ok(())
    })?;
    ensure!(wiring()? == before, "its wiring was {before:?} and is {:?}", wiring()?);
    stage.hands.kubectl(&["delete", "pod", "web", "-n", NAMESPACE, "--force", "--grace-period=0"])?.ok().map(drop)
}

/// Stops the agent's process where it is; `restart_with` ends it and starts another.
fn stop_agent(stage: &Stage, node: &Node) -> Result<()> {
    let pid = std::fs::read_to_string(&node.agent_pid_file).context("reading the agent's pid")?;
    stage.hands.finish(std::process::Command::new("kill").args(["-STOP", pid.trim()]))?.ok().map(drop)
}

fn on_node(stage: &Stage, node: &Node, words: &[&str]) -> Result<String> {
    stage.hands.finish(within(&node.netns, "ip").args(words))?.ok().with_context(|| format!("ip {}", words.join(" ")))
}
