//! A pod's container: a process of the machine in the pod's network namespace and a mount namespace of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Node;
use super::cni::Sandbox;
use super::images;
use crate::process::{log_file, prepared, within};

/// Starts the pod's first container.
pub(super) fn start(node: &Node, pod: &Pod, sandbox: &Sandbox) -> Result<tokio::process::Child> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("the pod has no container")?;
    let command = images::command(node, container, &sandbox.dir)?;
    fs::write(sandbox.dir.join("resolv.conf"), resolv_conf(pod, node.place.dns())).context("writing resolv.conf")?;
    fs::create_dir_all(sandbox.dir.join("html")).context("making the document root")?;
    fs::copy("/usr/share/nginx/html/index.html", sandbox.dir.join("html/index.html"))
        .context("copying nginx's page")?;
    let log = log_file(&sandbox.dir, "container")?;
    let mut run = within(&sandbox.netns, "unshare");
    run.args(["--mount", "sh", "-c", SETUP, "sh"]).arg(&sandbox.dir).args(command);
    run.stdout(log.try_clone().context("opening the log")?).stderr(log);
    let child = tokio::process::Command::from(std::mem::replace(prepared(&node.place, &mut run), Command::new("true")))
        .spawn()
        .context("starting the container")?;
    let named = format!("{}_{}.pid", pod.namespace().unwrap_or_default(), pod.name_any());
    fs::write(node.place.dir().join("containers").join(named), child.id().unwrap_or_default().to_string())
        .context("writing the container's pid")?;
    Ok(child)
}

/// Keeps containers from removing devices, binds the pod's files over the machine's and becomes the container's command.
const SETUP: &str = "set -e; dir=$1; shift; mount --make-rprivate /
mount --rbind /dev /dev; mount -o remount,bind,ro /dev
mount --bind \"$dir/resolv.conf\" /etc/resolv.conf
mount --bind \"$dir/html\" /usr/share/nginx/html
exec \"$@\"";

/// As kubelet writes it, but a lookup that nobody answers ends after one second a name instead of ten.
fn resolv_conf(pod: &Pod, dns: &str) -> String {
    let policy = pod.spec.as_ref().and_then(|spec| spec.dns_policy.as_deref());
    if policy == Some("Default") {
        return String::new();
    }
    let namespace = pod.namespace().unwrap_or_default();
    format!(
        "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {dns}\noptions ndots:5 timeout:1 attempts:1\n"
    )
}

/// SIGTERM, and SIGKILL once the grace period is over.
pub(super) async fn stop(child: &mut tokio::process::Child, grace: Duration) {
    let Some(id) = child.id() else { return };
    let group = Pid::from_raw(id.cast_signed());
    let _ = killpg(group, Signal::SIGTERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        drop(child.wait().await);
    }
}

/// A command in a running container's namespaces.
pub(crate) fn exec(pid_file: &Path, command: &[String]) -> Result<std::process::ExitStatus> {
    let pid = fs::read_to_string(pid_file)
        .with_context(|| format!("no container runs there ({} is missing)", pid_file.display()))?;
    let mut run = Command::new("nsenter");
    run.args(["--target", pid.trim(), "--net", "--mount", "--"]).args(command);
    run.stdin(Stdio::inherit()).status().context("running nsenter")
}
