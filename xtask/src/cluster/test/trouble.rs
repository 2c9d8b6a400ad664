//! Trouble under a running agent: its disk is full, its clock jumps, its pod is evicted, the API server is silent or
//! forgetful. What is enforced stays, and goes on
//! following the world as far as it can.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::agents::{evict, kill_agent, restart_with, serves};
use super::stage::{NAMESPACE, Role, START, Stage};
use crate::control::restart_apiserver;
use crate::demo::hands::until;
use crate::demo::tutorial::Node;
use crate::process::finish;
use crate::tools::Tools;

/// How long a change may take until the data path has it.
const ENFORCED: Duration = Duration::from_secs(15);
/// What the agent says while it cannot write how far it has come.
const UNWRITTEN: &str = "commands do not know how far the agent has come";
/// What it says of an API server that is silent, and how long that may take: it asks every 30 s, and waits 10.
const SILENT: &str = "the API server does not answer";
const SILENCE: Duration = Duration::from_secs(60);

/// A server, a friend who may reach it, and a group whose rule is changed.
struct Scene<'a> {
    stage: &'a Stage,
    node: &'a Node,
    group: String,
    server: String,
}

impl<'a> Scene<'a> {
    /// Under a group of this name: groups outlive their case.
    fn set(stage: &'a Stage, name: &str) -> Result<Self> {
        stage.namespace()?;
        let node = stage.world.nodes.first().context("the cluster has no node")?;
        let group = stage.group(name)?;
        stage.open_80(&group, &group)?;
        stage.policy("troubled", &group)?;
        let server = stage.start(&Role { name: "server", role: "troubled", node: &node.name, image: "nginx" })?;
        stage.start(&Role { name: "friend", role: "troubled", node: "", image: "busybox" })?;
        stage.start(&Role { name: "stranger", role: "none", node: "", image: "busybox" })?;
        stage.comes_to_reach("friend", &server)?;
        Ok(Self { stage, node, group, server })
    }

    /// The friend reaches the server, the stranger does not.
    fn holds(&self) -> Result<()> {
        let seen = (self.stage.reaches("friend", &self.server)?, self.stage.reaches("stranger", &self.server)?);
        ensure!(seen == (true, false), "friend and stranger reach the server: {seen:?}");
        Ok(())
    }

    /// A rule that is taken away and given again is enforced both times.
    fn follows(&self) -> Result<()> {
        let of = ["--group-id", &self.group, "--protocol", "tcp", "--port", "80", "--source-group", &self.group];
        self.stage.hands.ec2(&[&["revoke-security-group-ingress"], &of[..]].concat())?;
        until(ENFORCED, || {
            ensure!(!self.stage.reaches("friend", &self.server)?, "a rule that is gone still lets the friend in");
            Ok(())
        })?;
        self.stage.hands.ec2(&[&["authorize-security-group-ingress"], &of[..]].concat())?;
        until(ENFORCED, || self.holds())
    }

    /// A new pod of the node gets its branch and its address.
    fn starts(&self, name: &str) -> Result<()> {
        self.stage.start(&Role { name, role: "troubled", node: &self.node.name, image: "busybox" }).map(drop)
    }

    fn log(&self) -> Result<String> {
        fs::read_to_string(&self.node.agent_log).with_context(|| format!("reading {}", self.node.agent_log))
    }

    /// Seconds since the agent left the kernel as desired, by `sgp-agent status`.
    fn lag(&self) -> Result<u64> {
        let node = self.node;
        let args = ["status", "--json", "--bpf-dir", &node.bpf_dir, "--runtime-dir", &node.run_dir];
        let status: Value =
            serde_json::from_str(&self.stage.hands.agent(&args)?.ok()?).context("the agent's status")?;
        ensure!(status["running"] == true, "the agent does not run: {status}");
        status["syncLagSeconds"].as_u64().with_context(|| format!("no lag in {status}"))
    }
}

/// The runtime directory on a file system of its own, which is filled.
pub(super) fn full_disk(stage: &Stage) -> Result<()> {
    let scene = Scene::set(stage, "disk")?;
    let dir = Path::new(&scene.node.run_dir);
    let host = fs::read(dir.join("host.json")).context("what was changed on the node")?;
    finish(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(dir))?;
    let result =
        fs::write(dir.join("host.json"), host).context("keeping what was changed").and_then(|()| filled(&scene, dir));
    finish(Command::new("umount").arg(dir))?;
    restart_with(stage, scene.node, "")?;
    result
}

fn filled(scene: &Scene<'_>, dir: &Path) -> Result<()> {
    restart_with(scene.stage, scene.node, "")?;
    until(START, || scene.lag())?;
    let before = scene.log()?.matches(UNWRITTEN).count();
    let filler = dir.join("filler");
    let full = fs::write(&filler, vec![0; 1 << 20]).map_err(|error| error.kind());
    ensure!(full == Err(std::io::ErrorKind::StorageFull), "filling the disk gives {full:?}");
    scene.follows()?;
    scene.starts("late")?;
    let told = || anyhow::Ok(scene.log()?.matches(UNWRITTEN).count() - before);
    ensure!(told()? == 1, "a full disk is told {} times", told()?);
    kill_agent(scene.node)?;
    serves(scene.node)?;
    scene.holds()?;
    scene.starts("later")?;
    fs::remove_file(&filler).context("making room")?;
    until(Duration::from_secs(45), || {
        ensure!(scene.log()?.contains(&format!("over: {UNWRITTEN}")), "the agent does not say that it is over");
        ensure!(scene.lag()? < 40, "the agent's state is {} s old", scene.lag()?);
        Ok(())
    })
}

/// The clock of the day as the agent sees it, which libfaketime moves: the machine's own is everybody's.
pub(super) fn clock_jump(stage: &Stage) -> Result<()> {
    let scene = Scene::set(stage, "clock")?;
    let clock = stage.place.node_dir(&scene.node.name).join("clock");
    let result = jumped(&scene, &clock);
    restart_with(stage, scene.node, "")?;
    drop(fs::remove_file(clock));
    result
}

fn jumped(scene: &Scene<'_>, clock: &PathBuf) -> Result<()> {
    let library =
        scene.stage.hands.finish(Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]))?.ok()?;
    let set = |offset: &str| fs::write(clock, format!("{offset}\n")).context("setting the clock");
    set("+0")?;
    let preload = format!("LD_PRELOAD={library}\nFAKETIME_TIMESTAMP_FILE={}\n", clock.display());
    let quiet = "FAKETIME_NO_CACHE=1\nDONT_FAKE_MONOTONIC=1\nFAKETIME_DONT_FAKE_MONOTONIC=1\nNO_FAKE_STAT=1\n";
    restart_with(scene.stage, scene.node, &format!("{preload}{quiet}"))?;
    until(START, || scene.lag())?;
    for (offset, name, day) in [("+40d", "ahead", "+40 days"), ("-0", "back", "now")] {
        set(offset)?;
        scene.follows()?;
        scene.starts(name)?;
        ensure!(scene.lag()? < 40, "at {offset} the agent thinks it synced {} s ago", scene.lag()?);
        let day = scene.stage.hands.finish(Command::new("date").args(["-u", "-d", day, "+%F"]))?.ok()?;
        let log = scene.log()?;
        let last = log.lines().rfind(|line| line.contains("enforced a change")).unwrap_or_default();
        ensure!(last.contains(&day), "the agent's clock did not jump to {day}: {last}");
    }
    Ok(())
}

/// An eviction takes the agent away while a download runs, and no other comes for a while.
pub(super) fn evicted(stage: &Stage) -> Result<()> {
    let scene = Scene::set(stage, "evicted")?;
    let root = "cd \"$(cat /etc/nginx-root 2>/dev/null || echo /usr/share/nginx/html)\"";
    let fill = format!("{root} && dd if=/dev/urandom of=big bs=1M count=24 status=none && sha256sum < big");
    let sum = stage.hands.exec(NAMESPACE, "server", &["sh", "-c", &fill])?.ok()?;
    let url = format!("curl -sS --limit-rate 3M http://{}/big | sha256sum", scene.server);
    let download = stage.hands.start(NAMESPACE, "friend", &["sh", "-c", &url])?;
    let back = evict(stage, scene.node)?;
    let seen = gone(&scene);
    back()?;
    seen?;
    let got = download.wait_with_output().context("waiting for the download")?;
    let got = String::from_utf8_lossy(&got.stdout).trim().to_owned();
    ensure!(got == sum, "the file was {sum:?} and arrived as {got:?}");
    stage.running("waiting")?;
    scene.holds()
}

fn gone(scene: &Scene<'_>) -> Result<()> {
    let role = Role { name: "waiting", role: "troubled", node: &scene.node.name, image: "busybox" };
    scene.stage.ask_for(&role, "")?;
    for _ in 0..6 {
        thread::sleep(Duration::from_secs(1));
        let phase = ["get", "pod", "waiting", "-n", NAMESPACE, "-o", "jsonpath={.status.phase}"];
        let phase = scene.stage.hands.kubectl(&phase)?.ok()?;
        ensure!(phase == "Pending", "without an agent a new pod is {phase}");
        scene.holds()?;
    }
    ensure!(scene.lag().is_err(), "an agent runs that should be gone");
    Ok(())
}

/// The API server stands still: connections stay, and nothing comes by them.
pub(super) fn silent_api_server(stage: &Stage) -> Result<()> {
    let scene = Scene::set(stage, "silent")?;
    let pid =
        fs::read_to_string(stage.place.dir().join("kube-apiserver.pid")).context("reading the API server's pid")?;
    let signal = |name: &str| finish(Command::new("kill").args([name, pid.trim()])).map(drop);
    let before = scene.log()?.len();
    let since = || anyhow::Ok(scene.log()?.split_off(before));
    signal("-STOP")?;
    let seen = scene.follows().and_then(|()| {
        until(SILENCE, || {
            ensure!(since()?.contains(SILENT), "the agent does not say that the API server is silent");
            Ok(())
        })
    });
    let held = scene.holds();
    signal("-CONT")?;
    seen.and(held)?;
    until(SILENCE, || {
        ensure!(since()?.contains("the API server answers again"), "the agent does not say that it is over");
        Ok(())
    })?;
    ensure!(since()?.matches(SILENT).count() == 1, "one outage is told {} times", since()?.matches(SILENT).count());
    scene.starts("after")?;
    scene.follows()
}

/// The agent stands still while pods come and go and the API server begins anew: what it wants to go on from is forgotten.
pub(super) fn expired_watch(stage: &Stage) -> Result<()> {
    let scene = Scene::set(stage, "expired")?;
    let elsewhere = stage.world.nodes.get(1).context("the cluster has no second node")?;
    let pid = fs::read_to_string(&scene.node.agent_pid_file).context("reading the agent's pid")?;
    let signal = |name: &str| finish(Command::new("kill").args([name, pid.trim()])).map(drop);
    let before = scene.log()?.len();
    signal("-STOP")?;
    let changed = stage
        .start(&Role { name: "heir", role: "troubled", node: &elsewhere.name, image: "busybox" })
        .and_then(|_| restart_apiserver(&stage.place, &Tools::found()?));
    signal("-CONT")?;
    changed?;
    until(SILENCE, || {
        ensure!(scene.log()?[before..].contains("410 Gone"), "the agent was not told that its watch is out of date");
        Ok(())
    })?;
    stage.comes_to_reach("heir", &scene.server)?;
    scene.starts("after")?;
    scene.follows()
}
