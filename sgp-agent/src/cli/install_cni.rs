//! `install-cni`: the plugin is this binary under another name.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

/// Where to.
#[derive(Args)]
#[command(after_help = "Examples:\n  sgp-agent install-cni /opt/cni/bin")]
pub(super) struct Into {
    /// Directory of the runtime's plugins
    dir: PathBuf,
}

/// Renamed into place: a pod may be starting now.
pub(super) fn run(into: &Into) -> Result<()> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let (part, place) = (into.dir.join(".sgp-cni"), into.dir.join("sgp-cni"));
    let context = || format!("installing {}", place.display());
    fs::copy(&own, &part).with_context(context)?;
    fs::rename(&part, &place).with_context(context)
}
