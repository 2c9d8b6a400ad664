//! Everything pinned, held open by the agent that runs: where bpffs goes from under it (unmounted, mounted anew, emptied by
//! hand), nothing that enforces goes too, and the pins can be put back.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::MapData;
use sgp_common::pins::{self, map, program};
use tracing::warn;

use super::maps::{Maps, PinDirs};
use super::preflight;
use super::programs::Programs;
use super::sys;
use crate::domain::groups::GroupSetId;

/// Descriptors of pinned maps and links; those of programs are `Programs`.
pub(super) struct Held {
    maps: Vec<(&'static str, MapData)>,
    /// By the name of the pin; filters have none.
    links: BTreeMap<String, OwnedFd>,
}

impl Held {
    /// Opens what is pinned.
    pub(super) fn open(dirs: &PinDirs) -> Result<Self> {
        let open = |name| Ok((name, MapData::from_pin(dirs.map(name)).with_context(|| format!("opening {name}"))?));
        let mut held = Self { maps: map::ALL.into_iter().map(open).collect::<Result<_>>()?, links: BTreeMap::new() };
        held.look(dirs)?;
        Ok(held)
    }

    /// Opens the links that are pinned now.
    pub(super) fn look(&mut self, dirs: &PinDirs) -> Result<()> {
        let path = dirs.links();
        let entries = fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let open = |name: String| {
            let link = sys::open_pin(&path.join(&name)).with_context(|| format!("opening the link {name}"))?;
            Ok((name, link))
        };
        self.links = names.map(open).collect::<Result<_>>()?;
        Ok(())
    }

    /// Puts back every pin that is gone, but for links that are attached to nothing any more.
    pub(super) fn restore(&self, dirs: &PinDirs, maps: &Maps, programs: &mut Programs) -> Result<()> {
        let mut missing = Missing { count: 0 };
        if !dirs.root.exists() {
            preflight::on_bpffs(&dirs.root)?;
        }
        for name in [pins::MAPS, pins::LINKS, pins::PROGRAMS, pins::POLICIES] {
            let dir = dirs.root.join(name);
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        for (name, held) in &self.maps {
            missing.put(&dirs.map(name), |path| Ok(held.pin(path)?))?;
        }
        for policy in maps.policies.keys().flatten().filter_map(|id| Some((id, maps.policy(GroupSetId(id))?))) {
            missing.put(&dirs.policy(GroupSetId(policy.0)), |path| Ok(policy.1.pin(path)?))?;
        }
        programs.each(|name, program| missing.put(&dirs.program(name), |path| Ok(program.pin(path)?)))?;
        missing.put(&dirs.program(program::FROM_TRUNK), |path| Ok(programs.early.pin(path)?))?;
        for (name, link) in &self.links {
            if sys::link_info(link.as_fd())?.ifindex != 0 {
                missing.put(&dirs.links().join(name), |path| Ok(sys::pin(link.as_fd(), path)?))?;
            }
        }
        missing.tell(dirs);
        Ok(())
    }
}

/// Counts what was put back.
struct Missing {
    count: usize,
}

impl Missing {
    fn put(&mut self, path: &Path, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if path.exists() {
            return Ok(());
        }
        self.count += 1;
        pin(path).with_context(|| format!("putting {} back", path.display()))
    }

    fn tell(&self, dirs: &PinDirs) {
        if self.count > 0 {
            let dir = dirs.root.display();
            warn!(%dir, pins = self.count, "pins were gone (bpffs unmounted, or somebody removed them) and are put back; enforcement went on");
        }
    }
}
