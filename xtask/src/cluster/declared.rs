//! Agents and controllers of a cluster run under what `deploy/` declares for them: their ServiceAccount and its roles,
//! their capabilities, a root file system they cannot write. What they need and did not declare shows in every case.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control;
use crate::place::Place;
use crate::tools::Tools;

/// RBAC of the agent.
pub(crate) const AGENT_RBAC: &str = include_str!("../../../deploy/rbac.yaml");
const DAEMONSET: &str = include_str!("../../../deploy/daemonset.yaml");
const CONTROLLER: &str = include_str!("../../../deploy/controller/controller.yaml");

/// Mounts for a container's: all read-only but what has a volume. `$1` is the volume, `$2` what setpriv does, `$3` the program,
/// the rest its arguments. The program is mounted where a root without CAP_DAC_OVERRIDE reaches it: a home directory may be
/// closed to it.
const READ_ONLY: &str = "set -e; dir=$1; bounding=$2; program=$3; shift 3
mount --bind \"$dir\" \"$dir\"
touch \"$dir/sgp-agent\"
mount --bind \"$program\" \"$dir/sgp-agent\"
mount -o remount,bind,ro /
exec setpriv --inh-caps=-all --bounding-set=\"$bounding\" \"$dir/sgp-agent\" \"$@\"";

/// Whose declarations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Agent,
    Controller,
}

impl Who {
    fn account(self) -> &'static str {
        match self {
            Self::Agent => "sgp-agent",
            Self::Controller => "sgp-controller",
        }
    }

    /// As setpriv has them: `-all,+net_admin`.
    fn capabilities(self) -> String {
        let manifest = if self == Self::Agent { DAEMONSET } else { CONTROLLER };
        // Of the init container only what it drops is written down.
        let added = manifest.lines().find_map(|line| line.trim().strip_prefix("add: [")?.strip_suffix(']'));
        let names = added.unwrap_or_default().split(", ").filter(|name| !name.is_empty());
        let plus = names.map(|name| format!(",+{}", name.trim_matches('"').to_lowercase()));
        format!("-all{}", plus.collect::<String>())
    }

    fn kubeconfig(self, place: &Place) -> PathBuf {
        place.dir().join(format!("{}.kubeconfig", self.account()))
    }
}

/// The parts of a manifest that are about accounts and roles.
pub(crate) fn controller_rbac() -> String {
    let is_rbac = |part: &&str| {
        let kind = part.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap_or_default();
        kind == "ServiceAccount" || kind.contains("Role")
    };
    CONTROLLER.split("\n---\n").filter(is_rbac).collect::<Vec<_>>().join("\n---\n")
}

/// Gives an account that exists a token, and a kubeconfig with it.
pub(crate) fn provide(who: Who, place: &Place, tools: &Tools) -> Result<()> {
    let account = who.account();
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}});
    let path = format!("/api/v1/namespaces/kube-system/serviceaccounts/{account}/token");
    let mut create = Command::new(tools.kube_bin.join("kubectl"));
    create.envs(place.environment()).args(["create", "--raw", &path, "-f", "-"]);
    let mut child = create.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("running kubectl")?;
    let mut stdin = child.stdin.take().context("kubectl has no input")?;
    std::io::Write::write_all(&mut stdin, request.to_string().as_bytes()).context("writing to kubectl")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for kubectl")?;
    ensure!(output.status.success(), "the API server gives {account} no token");
    let answer: Value = serde_json::from_slice(&output.stdout).context("a TokenRequest")?;
    let token = answer["status"]["token"].as_str().context("a TokenRequest without a token")?;
    fs::write(who.kubeconfig(place), control::kubeconfig_of(place, account, token)).context("writing a kubeconfig")
}

/// A command that runs a program as a container of `deploy/` would; `volume` is what it may write besides bpffs.
pub(crate) fn command(who: Who, place: &Place, program: &Path, volume: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "env"]);
    // Behind `env`, since whoever starts it may set the administrator's for everybody.
    command.arg(format!("KUBECONFIG={}", who.kubeconfig(place).display()));
    command.args(["sh", "-c", READ_ONLY, "sh"]).arg(volume).arg(who.capabilities()).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_of_the_manifests() {
        assert_eq!(Who::Agent.capabilities(), "-all,+net_admin,+sys_admin");
        assert_eq!(Who::Controller.capabilities(), "-all");
        assert_eq!(controller_rbac().matches("\nkind: ServiceAccount\n").count(), 1);
    }
}
