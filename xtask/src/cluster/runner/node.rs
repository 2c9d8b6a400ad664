//! The node itself: its agent, its kube-proxy, its heartbeat.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Node;
use crate::declared::{self, Who};
use crate::place::{Family, Mode, Place};
use crate::process::{log_file, prepared};

/// Directories, and the plugin under the name that the network configuration uses.
pub(super) fn prepare(node: &Node) -> Result<()> {
    let dir = node.place.node_dir(&node.name);
    for sub in ["bin", "pods", "run"] {
        fs::create_dir_all(dir.join(sub)).context("making the node's directories")?;
    }
    let plugin = dir.join("bin/sgp-cni");
    if !plugin.exists() {
        symlink(&node.tools.agent, &plugin).context("installing sgp-cni")?;
    }
    Ok(())
}

/// Starts the agent, and again when it ends: what a DaemonSet and kubelet would do.
pub(super) async fn keep_agent(node: Node) {
    let command = || {
        let dir = node.place.node_dir(&node.name);
        let mut command = declared::command(Who::Agent, &node.place, &node.tools.agent, &dir.join("run"));
        command
            .args(["run", "--node-name", &node.name, "--cluster-name", &node.place.name])
            .args(["--bpf-dir", &node.place.bpf_dir(&node.name), "--ec2-poll", "0.5", "--branch-cooldown", "5"])
            .arg("--runtime-dir")
            .arg(dir.join("run"))
            .envs(settings(&node.place))
            .envs(other_settings(&dir.join(SETTINGS)));
        command
    };
    keep(&node, "agent", command).await;
}

/// File below a node's directory with settings that an agent takes at its next start: a line NAME=VALUE each.
pub(crate) const SETTINGS: &str = "agent.env";

fn other_settings(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.lines().filter_map(pair).collect()
}

/// What the VPC CNI's variables say in this cluster; its links have the MTU of Ethernet.
fn settings(place: &Place) -> [(&'static str, &'static str); 5] {
    let (v4, v6) = if place.family == Family::V4 { ("true", "false") } else { ("false", "true") };
    // TCP probes of strict pods need early demultiplexing off, as on AWS.
    let (mode, no_early_demux) = if place.mode == Mode::Strict { ("strict", "true") } else { ("standard", "false") };
    [
        ("POD_SECURITY_GROUP_ENFORCING_MODE", mode),
        ("DISABLE_TCP_EARLY_DEMUX", no_early_demux),
        ("AWS_VPC_ENI_MTU", "1500"),
        ("ENABLE_IPv4", v4),
        ("ENABLE_IPv6", v6),
    ]
}

/// How a node's kube-proxy rewrites: each mode of ours meets both, and so does each family. Debian's knows only iptables.
fn proxy_mode(node: &Node) -> &'static str {
    match (node.place.mode, node.place.family) {
        (Mode::Strict, Family::V4) | (Mode::Standard, Family::V6) if !node.tools.are_old() => "nftables",
        _ => "iptables",
    }
}

/// The real kube-proxy; it leaves the machine's conntrack limits alone.
pub(super) async fn keep_proxy(node: Node) {
    keep(&node, "kube-proxy", || proxy(&node)).await;
}

fn proxy(node: &Node) -> Command {
    let mut command = Command::new(node.tools.kube_bin.join("kube-proxy"));
    command.arg(format!("--proxy-mode={}", proxy_mode(node)));
    command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
    command.args(["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"]);
    command.args([
        "--healthz-bind-address=",
        "--metrics-bind-address=127.0.0.1:10249",
        "--iptables-min-sync-period=100ms",
    ]);
    if node.place.family == Family::V6 {
        command.arg("--bind-address=::");
    }
    command.arg(format!("--kubeconfig={}", node.place.dir().join("kubeconfig").display()));
    command.arg(format!("--hostname-override={}", node.name));
    command
}

async fn keep(node: &Node, name: &str, command: impl Fn() -> Command) {
    let dir = node.place.node_dir(&node.name);
    loop {
        let mut command = command();
        prepared(&node.place, &mut command);
        let mut command = tokio::process::Command::from(command);
        let ended = match log_file(&dir, name) {
            Ok(log) => run_once(&mut command, log, &dir.join(format!("{name}.pid"))).await,
            Err(error) => format!("{error:#}"),
        };
        warn!(name, ended, "ended; starting it again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn run_once(command: &mut tokio::process::Command, log: fs::File, pid_file: &Path) -> String {
    let started = log.try_clone().and_then(|second| command.stdout(second).stderr(log).spawn());
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return error.to_string(),
    };
    let pid = child.id().unwrap_or_default();
    if let Err(error) = fs::write(pid_file, pid.to_string()) {
        warn!(%error, "the pid file cannot be written");
    }
    info!(pid, "started");
    child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// What pods can have: the runner's own capacity, and like kubelet that of extended resources, which others advertise.
async fn allocatable(api: &Api<NodeObject>, name: &str, own: &Value) -> Value {
    let mut all = own.clone();
    let advertised = api.get_status(name).await.ok().and_then(|node| node.status?.capacity).unwrap_or_default();
    for (resource, quantity) in advertised.into_iter().filter(|(resource, _)| resource.contains('/')) {
        all[resource] = json!(quantity);
    }
    all
}

/// Node status, every ten seconds: the controller manager takes a silent node for a dead one.
pub(super) async fn heartbeat(node: Node) {
    let api = Api::<NodeObject>::all(node.client.clone());
    let number: u8 = node.name.trim_start_matches('n').parse().unwrap_or(1);
    let address = node.place.internal_ip(number);
    loop {
        let now = Timestamp::now().to_string();
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "sgp-dev", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let capacity = json!({"cpu": "8", "memory": "16Gi", "pods": "110"});
        let allocatable = allocatable(&api, &node.name, &capacity).await;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": node.name}],
            "conditions": [condition("Ready", "True"), condition("MemoryPressure", "False"), condition("DiskPressure", "False"), condition("PIDPressure", "False")],
            "capacity": capacity,
            "allocatable": allocatable,
        }});
        if let Err(error) = api.patch_status(&node.name, &PatchParams::default(), &Patch::Strategic(&status)).await {
            warn!(%error, "the node's status could not be written");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}
