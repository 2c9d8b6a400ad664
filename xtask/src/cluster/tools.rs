//! The programs a cluster is made of, as `cargo xtask` found them.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Paths handed over in the environment.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// Directory of kube-apiserver, etcd and the others.
    pub(crate) kube_bin: PathBuf,
    /// Python environment with moto and the AWS command line.
    pub(crate) venv: PathBuf,
    /// The agent.
    pub(crate) agent: PathBuf,
}

impl Tools {
    /// Whether they are Debian's of Kubernetes 1.20, the last resort of `cargo xtask setup`.
    pub(crate) fn are_old(&self) -> bool {
        self.kube_bin.to_string_lossy().contains("1.20")
    }

    /// Reads SGP_KUBE_BIN, SGP_VENV and SGP_AGENT.
    pub(crate) fn found() -> Result<Self> {
        let path = |name: &str| {
            let value = std::env::var_os(name);
            value.map(PathBuf::from).with_context(|| format!("{name} is not set: start this by `cargo xtask`"))
        };
        Ok(Self { kube_bin: path("SGP_KUBE_BIN")?, venv: path("SGP_VENV")?, agent: path("SGP_AGENT")? })
    }
}
