//! Agents that cannot start, lose EC2, or are killed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sgp_common::ABI_VERSION;

use super::stage::{NAMESPACE, Role, Stage};
use crate::demo::hands::{Outcome, until};
use crate::demo::tutorial::Node;
use crate::runner::SETTINGS;

/// Runs an agent of our own beside the node's; it is expected to give up by itself.
fn run_agent(stage: &Stage, node: &Node, args: &[&str], wrapper: &[&str]) -> Result<Outcome> {
    let net = format!("--net=/run/netns/{}", node.netns);
    let agent = stage.hands.agent.to_string_lossy().into_owned();
    let mut command = Command::new("timeout");
    command.args(["20", "nsenter", &net]).args(wrapper).args([&agent, "run", "--node-name", &node.name]).args(args);
    stage.hands.finish(&mut command)
}

pub(super) fn second_agent(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let outcome = run_agent(stage, node, &["--bpf-dir", &node.bpf_dir, "--runtime-dir", &node.run_dir], &[])?;
    ensure!(outcome.status != 0 && outcome.status != 124, "it ran: {}", outcome.words());
    ensure!(outcome.words().contains("already"), "it says {}", outcome.words());
    Ok(())
}

pub(super) fn no_bpffs(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let dir = std::env::temp_dir().join("sgp-dev-no-bpffs");
    let path = dir.to_string_lossy().into_owned();
    let outcome = run_agent(stage, node, &["--bpf-dir", &path, "--runtime-dir", &path], &[])?;
    // Nothing of interest can be in a directory that only this case uses.
    drop(std::fs::remove_dir_all(&dir));
    ensure!(outcome.status != 0 && outcome.status != 124, "it ran: {}", outcome.words());
    ensure!(outcome.words().contains("bpffs") && outcome.words().contains("mount"), "it says {}", outcome.words());
    Ok(())
}

pub(super) fn no_permission(stage: &Stage) -> Result<()> {
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let bpf_dir = format!("{}-refused", node.bpf_dir);
    let dir = std::env::temp_dir().join("sgp-dev-no-permission");
    let path = dir.to_string_lossy().into_owned();
    let wrapper = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-all"];
    let outcome = run_agent(stage, node, &["--bpf-dir", &bpf_dir, "--runtime-dir", &path], &wrapper)?;
    drop(std::fs::remove_dir_all(&dir));
    let left = std::path::Path::new(&bpf_dir).join(format!("v{ABI_VERSION}")).exists();
    ensure!(!left, "half-made pins are left in {bpf_dir}");
    ensure!(outcome.status != 0 && outcome.status != 124, "it ran: {}", outcome.words());
    ensure!(outcome.words().contains("CAP_BPF"), "it says {}", outcome.words());
    Ok(())
}

/// Stops the emulator's process for a while; what is enforced stays enforced, and the log says it once.
pub(super) fn unreachable_ec2(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("unreachable")?;
    stage.open_80(&group, &group)?;
    stage.policy("kept", &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let address = stage.start(&Role { name: "server", role: "kept", node: &node.name, image: "nginx" })?;
    stage.start(&Role { name: "friend", role: "kept", node: "", image: "busybox" })?;
    stage.start(&Role { name: "stranger", role: "none", node: "", image: "busybox" })?;
    // Whom no agent has heard of yet stays a stranger while EC2 is away.
    stage.comes_to_reach("friend", &address)?;
    let before = ec2_errors(node)?;
    let pid = stage.world.ec2_pid.to_string();
    stage.hands.finish(Command::new("kill").args(["-STOP", &pid]))?.ok()?;
    std::thread::sleep(Duration::from_secs(12));
    let verdicts = (stage.reaches("friend", &address), stage.reaches("stranger", &address));
    stage.hands.finish(Command::new("kill").args(["-CONT", &pid]))?.ok()?;
    ensure!(matches!(verdicts, (Ok(true), Ok(false))), "without EC2 friend and stranger see {verdicts:?}");
    let told = until(Duration::from_secs(30), || {
        let told = ec2_errors(node)? - before;
        ensure!(told > 0, "the agent's log says nothing of EC2");
        Ok(told)
    })?;
    ensure!(told <= 3, "the agent said it {told} times");
    let events = [
        "get",
        "events",
        "-A",
        "--field-selector",
        "reason=Ec2Unreachable",
        "-o",
        "jsonpath={.items[*].regarding.name}{.items[*].involvedObject.name}",
    ];
    let about = stage.hands.kubectl(&events)?.ok()?;
    ensure!(about.contains(&node.name), "events about EC2 are on {about:?}");
    Ok(())
}

fn ec2_errors(node: &Node) -> Result<usize> {
    let log = std::fs::read_to_string(&node.agent_log).with_context(|| format!("reading {}", node.agent_log))?;
    Ok(log.lines().filter(|line| line.contains("WARN") && line.contains("EC2")).count())
}

/// A slow download goes on while its agent dies and comes back, and no id in the kernel changes.
pub(super) fn killed_during_download(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("download")?;
    stage.open_80(&group, &group)?;
    stage.policy("load", &group)?;
    let [one, two] = &stage.world.nodes[..] else { bail!("these cases want two nodes") };
    let address = stage.start(&Role { name: "server", role: "load", node: &one.name, image: "nginx" })?;
    stage.start(&Role { name: "client", role: "load", node: &two.name, image: "busybox" })?;
    let fill = "dd if=/dev/urandom of=big bs=1M count=24 status=none && sha256sum < big";
    let root = "cd \"$(cat /etc/nginx-root 2>/dev/null || echo /usr/share/nginx/html)\"";
    let sum = stage.hands.exec(NAMESPACE, "server", &["sh", "-c", &format!("{root} && {fill}")])?.ok()?;
    let before = kernel_ids(stage, two)?;
    let url = format!("curl -sS --limit-rate 3M http://{address}/big | sha256sum");
    let download = stage.hands.start(NAMESPACE, "client", &["sh", "-c", &url])?;
    std::thread::sleep(Duration::from_secs(2));
    let restarted = kill_agent(two)?;
    let got = download.wait_with_output().context("waiting for the download")?;
    let got = String::from_utf8_lossy(&got.stdout).trim().to_owned();
    ensure!(got == sum, "the file was {sum:?} and arrived as {got:?}");
    until(Duration::from_secs(20), || stage.hands.agent(&["status", "--bpf-dir", &two.bpf_dir])?.ok())?;
    ensure!(restarted.elapsed() < Duration::from_secs(30), "the agent took {:?}", restarted.elapsed());
    let after = kernel_ids(stage, two)?;
    ensure!(before == after, "the restarted agent changed ids:\n{before}\n{after}");
    Ok(())
}

/// Starts a node's agent anew, with these settings beside the cluster's own, and waits until it can serve pods.
pub(super) fn restart_with(stage: &Stage, node: &Node, settings: &str) -> Result<()> {
    set(stage, node, settings)?;
    kill_agent(node)?;
    serves(node)
}

/// Settings of a node's agent, from its next start on.
fn set(stage: &Stage, node: &Node, settings: &str) -> Result<()> {
    std::fs::write(stage.place.node_dir(&node.name).join(SETTINGS), settings).context("writing an agent's settings")
}

/// Waits until a node's agent can serve pods.
pub(super) fn serves(node: &Node) -> Result<()> {
    until(Duration::from_secs(20), || {
        let socket = std::path::Path::new(&node.run_dir).join("agent.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).context("the agent does not listen yet")?;
        std::io::Write::write_all(&mut stream, b"{\"op\":\"status\"}\n").context("asking the agent")?;
        let answer = std::io::read_to_string(&stream).context("the agent's answer")?;
        ensure!(answer.contains("\"ok\""), "the agent says {answer}");
        Ok(())
    })
}

/// Has a node's agent end whenever it starts, by a setting that is wrong; gives the way back.
pub(super) fn cripple<'a>(
    stage: &'a Stage,
    node: &'a Node,
    settings: &str,
) -> Result<impl FnOnce() -> Result<()> + 'a> {
    set(stage, node, settings)?;
    kill_agent(node)?;
    Ok(move || set(stage, node, "").and_then(|()| serves(node)))
}

/// As an eviction does it, with no agent to follow until the way back is gone.
pub(super) fn evict<'a>(stage: &'a Stage, node: &'a Node) -> Result<impl FnOnce() -> Result<()> + 'a> {
    set(stage, node, "POD_SECURITY_GROUP_ENFORCING_MODE=evicted")?;
    end_agent(node, "-TERM")?;
    Ok(move || set(stage, node, "").and_then(|()| serves(node)))
}

/// Kills a node's agent and waits for the next.
pub(super) fn kill_agent(node: &Node) -> Result<Instant> {
    end_agent(node, "-9")
}

fn end_agent(node: &Node, signal: &str) -> Result<Instant> {
    let pid =
        std::fs::read_to_string(&node.agent_pid_file).with_context(|| format!("reading {}", node.agent_pid_file))?;
    let old = pid.trim().to_owned();
    let killed = Command::new("kill").args([signal, &old]).stdout(Stdio::null()).status().context("running kill")?;
    ensure!(killed.success(), "kill {signal} {old} failed");
    until(Duration::from_secs(20), || {
        let now = std::fs::read_to_string(&node.agent_pid_file).context("no agent yet")?;
        ensure!(now.trim() != old, "the agent was not started again");
        Ok(Instant::now())
    })
}

/// Ids of every pinned program, map, policy and link of a node.
fn kernel_ids(stage: &Stage, node: &Node) -> Result<String> {
    let mut ids = Vec::new();
    for (kind, dir) in [("prog", "programs"), ("map", "maps"), ("map", "policies"), ("link", "links")] {
        let path = format!("{}/v{ABI_VERSION}/{dir}", node.bpf_dir);
        let mut names: Vec<_> =
            std::fs::read_dir(&path).with_context(|| format!("reading {path}"))?.flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let pin = entry.path().to_string_lossy().into_owned();
            let shown = stage.hands.bpftool(&["-j", kind, "show", "pinned", &pin])?.ok()?;
            let parsed: serde_json::Value =
                serde_json::from_str(&shown).with_context(|| format!("bpftool on {pin}"))?;
            ids.push(format!("{dir}/{} {}", entry.file_name().to_string_lossy(), parsed["id"]));
        }
    }
    Ok(ids.join("\n"))
}
