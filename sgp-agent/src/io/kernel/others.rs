//! Programs of others beside ours.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use nix::errno::Errno;
use sgp_common::pins::program;

use super::attachment::Attachment;
use super::{clsact, tcx};
use crate::domain::enforcement::Shortcuts;
use crate::domain::observed::LinkFacts;
use crate::domain::wiring::BRANCH_PREFIX;

/// Interfaces of pods, by index, at which others have programs: filters of clsact, whatever their kind, or at hooks of tcx. One
/// that goes while it is asked for has none. Nobody is asked where every packet takes the host stack.
///
/// # Errors
/// Where the kernel does not say.
pub async fn shared(links: &[LinkFacts], shortcuts: Shortcuts) -> Result<BTreeSet<u32>> {
    if shortcuts == Shortcuts::Off {
        return Ok(BTreeSet::new());
    }
    let of_pods = links.iter().filter(|link| link.alias.is_some() || link.name.starts_with(BRANCH_PREFIX));
    let interfaces: Vec<(String, u32)> = of_pods.map(|link| (link.name.clone(), link.index)).collect();
    let asked = tokio::task::spawn_blocking(move || shared_of(&interfaces)).await;
    asked
        .context("the thread that looks for others' programs")?
        .context("looking for others' programs on pods' interfaces")
}

fn shared_of(interfaces: &[(String, u32)]) -> Result<BTreeSet<u32>> {
    let mut shared = clsact::others(interfaces)?;
    if Attachment::offered()? == Attachment::Tcx {
        for (name, index) in interfaces {
            if tcx::has_others(name).or_else(nothing_if_gone)? {
                shared.insert(*index);
            }
        }
    }
    Ok(shared)
}

fn nothing_if_gone(error: anyhow::Error) -> Result<bool> {
    let code = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    if code == Some(Errno::ENODEV as i32) { Ok(false) } else { Err(error) }
}

/// The same links, with no word of XDP programs that are ours.
///
/// # Errors
/// Where the kernel does not list its programs.
pub fn without_ours(mut links: Vec<LinkFacts>) -> Result<Vec<LinkFacts>> {
    if links.iter().all(|link| link.others_xdp.is_none()) {
        return Ok(links);
    }
    let mut ours = BTreeSet::new();
    for loaded in aya::programs::loaded_programs() {
        let loaded = loaded.context("listing programs")?;
        if loaded.name_as_str() == Some(program::FROM_TRUNK) {
            ours.insert(loaded.id());
        }
    }
    for link in &mut links {
        link.others_xdp = link.others_xdp.filter(|id| !ours.contains(id));
    }
    Ok(links)
}
