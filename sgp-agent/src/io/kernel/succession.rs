//! Data paths of other layouts below the same directory: an older one is succeeded without a gap, a newer one is left
//! alone.
//!
//! An older one goes on judging, by its own programs and maps, until ours hold everything that is desired. Conversations are
//! in maps that both share from the start (`pins::CARRIED`), so it does not matter which of the two sees a packet.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::MapData;
use sgp_common::ABI_VERSION;
use sgp_common::pins::{CARRIED, MAPS, POLICIES, program};
use tracing::info;

use super::maps::PinDirs;
use super::programs::Programs;

/// Layouts with anything pinned below a directory, oldest first.
pub(super) fn versions(bpf_dir: &Path) -> Result<Vec<u32>> {
    let entries = match fs::read_dir(bpf_dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", bpf_dir.display()))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut versions: Vec<u32> = names.filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    versions.sort_unstable();
    Ok(versions)
}

/// In brackets, for an error: other layouts that are pinned.
pub(super) fn described(bpf_dir: &Path) -> Result<String> {
    let names: Vec<String> = versions(bpf_dir)?.into_iter().map(|version| format!("v{version}")).collect();
    Ok(if names.is_empty() { String::new() } else { format!(" (but {}, by another version)", names.join(" and ")) })
}

/// An agent does not know what a newer layout means, and whatever it did would open a gap.
///
/// # Errors
/// Where there is one; says what to do.
pub(super) fn refuse_newer(bpf_dir: &Path) -> Result<()> {
    let newest = versions(bpf_dir)?.pop().unwrap_or_default();
    ensure!(
        newest <= ABI_VERSION,
        "a newer sgp-agent enforces here (layout {newest} below {}; this one knows {ABI_VERSION}) and goes on doing so: start \
         that version again, or drain the node and run its `sgp-agent uninstall` before this one",
        bpf_dir.display()
    );
    Ok(())
}

/// The older layout whose programs are attached, and where it is pinned. One that was given up half-made attached none.
pub(super) fn predecessor(dirs: &PinDirs) -> Result<Option<(u32, PinDirs)>> {
    let bpf_dir = dirs.root.parent().context("pins are below a directory")?;
    let older = versions(bpf_dir)?.into_iter().rev().filter(|version| *version < ABI_VERSION);
    let mut pinned = older.map(|version| (version, PinDirs::of(bpf_dir, version)));
    Ok(pinned.find(|(_, old)| program::ALL.into_iter().all(|name| old.program(name).exists())))
}

/// Pins here, too, what an older layout has of the maps that both share; they must be there before programs are loaded
/// against them.
pub(super) fn carry(dirs: &PinDirs) -> Result<()> {
    let Some((version, old)) = predecessor(dirs)? else { return Ok(()) };
    for name in CARRIED {
        let (from, to) = (old.map(name), dirs.map(name));
        if to.exists() {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(&dirs.root)).with_context(|| format!("making {}", to.display()))?;
        let map = MapData::from_pin(&from).with_context(|| format!("opening {name} of layout {version}"))?;
        map.pin(&to).with_context(|| format!("pinning {name} of layout {version} at {}", to.display()))?;
    }
    Ok(())
}

/// Ends an older layout. Can be taken again wherever it was stopped: programs first, then pins of links one by one, and
/// last the pins of programs, which make it a predecessor.
pub(super) fn take_over(programs: &mut Programs, dirs: &PinDirs, version: u32) -> Result<()> {
    let old = PinDirs::of(dirs.root.parent().context("pins are below a directory")?, version);
    programs.take_over(&old, dirs)?;
    for dir in [old.links(), old.root.join(MAPS), old.root.join(POLICIES), old.root.clone()] {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    info!(from = version, to = ABI_VERSION, "took over from an older data path");
    Ok(())
}
