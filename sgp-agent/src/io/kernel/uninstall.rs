//! The end of enforcement.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::maps::PinDirs;
use super::{clsact, early, succession, tcx};

/// Removes our filters, and every pin below `bpf_dir`, of other layouts too, and with them links, programs and maps.
/// Enforcement ends.
///
/// # Errors
/// Where a filter or a pin cannot be removed.
pub fn uninstall(bpf_dir: &Path) -> Result<()> {
    clsact::remove_all()?;
    for version in succession::versions(bpf_dir)? {
        let dirs = PinDirs::of(bpf_dir, version);
        let root = &dirs.root;
        if dirs.links().exists() {
            early::links(&dirs)?.iter().chain(&tcx::links(&dirs)?).try_for_each(|link| tcx::detach(&dirs, link))?;
        }
        fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    }
    Ok(())
}
