//! `uninstall`: the node as it was.

use anyhow::{Context, Result, bail};
use clap::Args;

use super::status::agent_of;
use super::variables::NodeFiles;
use super::view::Place;

/// What is to be undone.
#[derive(Args)]
#[command(after_help = "Examples:\n  sgp-agent uninstall\n  sgp-agent uninstall --bpf-dir /sys/fs/bpf/sgp")]
pub(super) struct Uninstall {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    files: NodeFiles,
}

pub(super) fn run(uninstall: &Uninstall) -> Result<()> {
    if let Some((agent, true, _)) = agent_of(&uninstall.files.runtime_dir)? {
        bail!("an agent (pid {}) runs on this node and would put everything back: stop it first", agent.pid);
    }
    crate::io::kernel::uninstall(&uninstall.place.bpf_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the async runtime")?;
    runtime.block_on(crate::host::restore(&uninstall.files.proc_sys, &uninstall.files.runtime_dir))
}
