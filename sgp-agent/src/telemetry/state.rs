//! What the agent says of itself in a file beside its socket, for commands that are run when it may be dead.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::trouble::Trouble;
use crate::reconcile::Status;

/// Seconds since the node started, suspended ones included.
pub fn since_start() -> u64 {
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    clock.map_or(0, |time| time.tv_sec().unsigned_abs())
}

/// File name below the agent's `--runtime-dir`.
pub const FILE: &str = "status.json";

/// How far the agent has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentState {
    /// The agent's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// `strict` or `standard`, for new pods.
    pub mode: String,
    /// Seconds since the node started, of the last round that left the kernel as desired: clocks of the day jump.
    pub synced_at: u64,
    /// Milliseconds that round took.
    pub round_ms: u64,
    /// Age in seconds of EC2's word in that round; `None` before the first.
    pub ec2_age_s: Option<u64>,
    /// Whether the API server's first complete answer was there.
    pub kubernetes: bool,
    /// Age in seconds of its last answer in that round; `None` before the first.
    pub kubernetes_age_s: Option<u64>,
    /// Age in seconds of the controller's last sign of life in that round; `None` where this agent asks EC2 for members.
    pub membership_age_s: Option<u64>,
    /// What cannot be had, and why, by object.
    pub refused: BTreeMap<String, String>,
    /// Groups of each known group set, by its id in hex.
    pub group_sets: BTreeMap<String, Vec<String>>,
}

impl AgentState {
    /// What the agent that runs or ran here wrote last; `None` where none has.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(runtime_dir: &Path) -> Result<Option<Self>> {
        let path = runtime_dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        serde_json::from_str(&text).map(Some).with_context(|| format!("{} is not what an agent writes", path.display()))
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, runtime_dir: &Path) -> Result<()> {
        let path = runtime_dir.join(FILE);
        let part = path.with_added_extension("part");
        let text = serde_json::to_vec_pretty(self).context("writing the agent's state")?;
        fs::write(&part, text)
            .and_then(|()| fs::rename(&part, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// What a round has brought about.
    fn after(&self, status: &Status) -> Self {
        let synced = status.synced;
        let sets = status.observed.group_sets().into_iter();
        let named = sets.map(|set| (format!("{:016x}", set.id().0), set.0.into_iter().collect()));
        Self {
            synced_at: since_start(),
            round_ms: synced.map_or(0, |synced| synced.took.as_millis().try_into().unwrap_or(u64::MAX)),
            ec2_age_s: synced.and_then(|synced| synced.described).map(|at| at.elapsed().as_secs()),
            kubernetes: status.observed.cluster.is_some(),
            kubernetes_age_s: synced.and_then(|synced| synced.answered).map(|at| at.elapsed().as_secs()),
            membership_age_s: synced.and_then(|synced| synced.published).map(|at| at.elapsed().as_secs()),
            refused: status.refused.clone(),
            group_sets: named.collect(),
            ..self.clone()
        }
    }

    /// Keeps the file true for as long as the process lives.
    pub async fn keep(self, runtime_dir: PathBuf, mut status: watch::Receiver<Status>) {
        let mut trouble = Trouble::default();
        while status.changed().await.is_ok() {
            let now = self.after(&status.borrow_and_update());
            trouble.met(&now.write(&runtime_dir), "commands do not know how far the agent has come");
        }
    }

    /// Whether the process that wrote it still runs.
    pub fn is_alive(&self) -> bool {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim().starts_with("sgp-agent")
    }
}
