//! The real Kubernetes control plane and etcd: what is there, else built from source once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, path};

use anyhow::{Context, Result, bail};

use super::{Part, Step, cache, go, packages};
use crate::build::cargo;
use crate::progress::command;

const PROGRAMS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl", "etcd"];
/// The version go.mod in xtask/controlplane names.
const GO_VERSION: (&str, &str) = ("1", "34.4");
const DEBIAN_DIRECTORY: &str = "kube-1.20.2";
const ETCD: &str = "go.etcd.io/etcd/server/v3";

pub(super) const STEP: Step = Step {
    name: "control plane",
    part: Part::Cluster,
    present: || found().map(|directory| directory.display().to_string()),
    how: || match go::found() {
        Some(_) => format!("Go builds Kubernetes {} and etcd, kept in {}", go_version(), go_directory().display()),
        None => "builds Debian's Kubernetes 1.20.2, as there is no Go (with Go it would be a newer one)".to_owned(),
    },
    about: || if go::found().is_some() { 480 } else { 660 },
    install,
};

/// The directory with all programs: named by the environment, on PATH, or built by us.
pub(super) fn found() -> Option<PathBuf> {
    let named = ["SGP_KUBE_BIN", "KUBEBUILDER_ASSETS"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let built = [go_directory(), cache::root().join(DEBIAN_DIRECTORY)];
    first_complete(named.chain(command::search_path()).chain(built))
}

fn first_complete(directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let found = directories.into_iter().find(|directory| lacking(directory).is_empty())?;
    Some(path::absolute(&found).unwrap_or(found))
}

fn lacking(directory: &Path) -> Vec<&'static str> {
    PROGRAMS.into_iter().filter(|program| !command::is_program(&directory.join(program))).collect()
}

fn install() -> Result<()> {
    if let Some(named) = env::var_os("SGP_KUBE_BIN").map(PathBuf::from) {
        bail!(
            "SGP_KUBE_BIN is {}, which lacks {}; unset it to have them built",
            named.display(),
            lacking(&named).join(", ")
        );
    }
    match go::found() {
        Some(go) => cache::fill(&go_directory(), |part| build_with_go(&go, part)),
        None => build_from_debian(),
    }
}

fn go_version() -> String {
    format!("{}.{}", GO_VERSION.0, GO_VERSION.1)
}

fn go_directory() -> PathBuf {
    cache::root().join(format!("kube-{}", go_version()))
}

fn build_with_go(go: &Path, part: &Path) -> Result<()> {
    let mut build = go::build(go, "build", &stamps())?;
    build.current_dir(cargo::root().join("xtask/controlplane")).arg("-o").arg(part.join(""));
    build.args(
        PROGRAMS.iter().filter(|program| **program != "etcd").map(|program| format!("k8s.io/kubernetes/cmd/{program}")),
    );
    command::quietly(build.arg(ETCD))?;
    // Go names a program after the last part of its path that is no version.
    fs::rename(part.join("server"), part.join("etcd")).context("Go built no etcd")
}

/// Without stamps Kubernetes calls itself v0.0.0-master, and whoever asks for the server's version is misled.
fn stamps() -> String {
    let (major, minor) = GO_VERSION;
    let minor = minor.split('.').next().unwrap_or(minor);
    let stamp = |field: &str, value: &str| format!(" -X k8s.io/component-base/version.{field}={value}");
    let version = stamp("gitVersion", &format!("v{}", go_version()));
    [version, stamp("gitMajor", major), stamp("gitMinor", minor)].concat()
}

fn build_from_debian() -> Result<()> {
    if command::find("dpkg-source").is_none() {
        packages::install(&["dpkg-dev"])?;
    }
    let script = cargo::root().join("xtask/controlplane/debian.sh");
    cache::fill(&cache::root().join(DEBIAN_DIRECTORY), |part| {
        command::quietly(Command::new("bash").arg(script).arg(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_stamped_whole_and_in_parts() {
        let stamps = stamps();
        assert!(stamps.starts_with(" -X k8s.io/component-base/version.gitVersion=v1.34.4 "));
        assert!(stamps.ends_with("version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"));
    }

    #[test]
    fn the_stamped_version_is_the_one_go_mod_names() {
        let modules = include_str!("../../controlplane/go.mod");
        assert!(modules.contains(&format!("k8s.io/kubernetes v{}\n", go_version())));
    }

    #[test]
    fn a_directory_without_all_programs_is_passed_over() {
        assert_eq!(first_complete([PathBuf::from("/nonexistent")].into_iter()), None);
        assert_eq!(lacking(Path::new("/nonexistent")), PROGRAMS);
    }
}
