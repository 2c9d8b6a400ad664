//! What was changed on the node, in a file beside the agent's socket: it lives as long as the changes do, until
//! the node starts anew.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::domain::host::RuleStep;
use crate::domain::routing::RoutingRule;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change<T> {
    /// What it was before we first changed it.
    pub(super) before: T,
    /// What we made of it.
    pub(super) ours: T,
}

/// All changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// By path below `/proc/sys`.
    pub(super) sysctls: BTreeMap<String, Change<String>>,
    /// By name of the link.
    pub(super) mtus: BTreeMap<String, Change<u32>>,
    /// Rules that were not there.
    pub(super) added: Vec<RoutingRule>,
    /// Rules that were.
    pub(super) removed: Vec<RoutingRule>,
}

/// The record's place.
pub(super) fn path(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("host.json")
}

/// The node is as it was.
pub(super) fn forget(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("removing {}", path.display())),
    }
}

impl Record {
    /// Reads it; empty where there is none.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        serde_json::from_str(&text).with_context(|| {
            format!("{} cannot be read; without it the node cannot be put back: remove it to go on", path.display())
        })
    }

    /// Writes a change down, before it is made: whole or not at all.
    pub(super) fn note(&mut self, path: &Path, change: impl FnOnce(&mut Self)) -> Result<()> {
        change(self);
        let context = || format!("writing {}", path.display());
        let part = path.with_added_extension("part");
        let mut file = File::create(&part).with_context(context)?;
        file.write_all(&serde_json::to_vec_pretty(self).with_context(context)?).with_context(context)?;
        file.sync_all().with_context(context)?;
        fs::rename(&part, path).with_context(context)
    }

    /// A rule that is put back where it was before is no change any more.
    pub(super) fn add_step(&mut self, step: &RuleStep) {
        let (rule, into, from) = match step {
            RuleStep::Add(rule) => (rule, &mut self.added, &mut self.removed),
            RuleStep::Remove(rule) => (rule, &mut self.removed, &mut self.added),
        };
        if from.contains(rule) {
            from.retain(|known| known != rule);
        } else if !into.contains(rule) {
            into.push(rule.clone());
        }
    }
}
