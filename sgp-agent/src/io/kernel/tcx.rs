//! tcx links (Linux 6.6), one pin each.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::{SchedClassifier, TcAttachType, tc::TcAttachOptions};
use sgp_common::pins::program;

use super::attachment::hook;
use super::maps::PinDirs;
use super::sys;
use crate::domain::installed::Link;

/// Attaches a program and pins the link.
pub(super) fn attach(dirs: &PinDirs, program: &mut SchedClassifier, link: &Link) -> Result<()> {
    detach(dirs, link)?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&link.interface, hook(link.program), options)?;
    let attached: FdLink = program.take_link(id)?.try_into()?;
    attached.pin(dirs.links().join(link_pin(link))).map(drop).context("pinning the link")
}

/// Takes a program off and removes its link's pin. Until it is off, the kernel would not have the same program there again.
pub(super) fn detach(dirs: &PinDirs, link: &Link) -> Result<()> {
    let path = dirs.links().join(link_pin(link));
    if let Ok(pinned) = sys::open_pin(&path) {
        sys::detach_link(pinned.as_fd()).with_context(|| format!("detaching the link {}", path.display()))?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the link {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether somebody else has a program at a tcx hook of an interface.
pub(super) fn has_others(interface: &str) -> Result<bool> {
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) = SchedClassifier::query_tcx(interface, hook)
            .with_context(|| format!("asking for the tcx programs of {interface}"))?;
        if programs.iter().any(|it| it.name_as_str().is_none_or(|name| !program::ALL.contains(&name))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts a program behind every live link of its name.
pub(super) fn replace(dirs: &PinDirs, name: &'static str, program: &mut SchedClassifier) -> Result<()> {
    let fd = program.fd().context("a loaded program has a descriptor")?;
    let links = links(dirs)?.into_iter().filter(|link| link.program == name).collect();
    replace_all(dirs, &links, fd.as_fd())
}

/// Puts a program behind those of some links that are live.
pub(super) fn replace_all(dirs: &PinDirs, links: &BTreeSet<Link>, program: BorrowedFd<'_>) -> Result<()> {
    for link in links.iter().filter(|link| link.ifindex != 0) {
        sys::replace_program(open_link(dirs, link)?.as_fd(), program)
            .with_context(|| format!("replacing {} on {}", link.program, link.interface))?;
    }
    Ok(())
}

/// Puts a program behind every live link of its name that an older layout has pinned, and moves the pins here. A hook
/// that has one of ours already needs no second.
pub(super) fn take_over(
    old: &PinDirs,
    dirs: &PinDirs,
    name: &'static str,
    program: &mut SchedClassifier,
) -> Result<()> {
    let ours = links(dirs)?;
    let theirs = links(old)?.into_iter().filter(|link| link.program == name);
    let (wanted, surplus): (Vec<_>, Vec<_>) = theirs.partition(|link| link.ifindex != 0 && !ours.contains(link));
    surplus.iter().try_for_each(|link| detach(old, link))?;
    replace(old, name, program)?;
    for link in &wanted {
        let pin = link_pin(link);
        fs::rename(old.links().join(&pin), dirs.links().join(&pin))
            .with_context(|| format!("moving the link {pin}"))?;
    }
    Ok(())
}

/// bpffs refuses dots in names, and interface names do not hold slashes: `vlan.eth.3` becomes `vlan:eth:3`.
pub(super) fn link_pin(link: &Link) -> String {
    format!("{}-{}", link.interface.replace('.', ":"), link.program)
}

fn open_link(dirs: &PinDirs, link: &Link) -> Result<OwnedFd> {
    let path = dirs.links().join(link_pin(link));
    sys::open_pin(&path).with_context(|| format!("opening the link {}", path.display()))
}

/// Every pinned link of tcx, and what it is attached to now.
///
/// # Errors
/// Where the directory or a link cannot be read.
pub(super) fn links(dirs: &PinDirs) -> Result<BTreeSet<Link>> {
    pinned_links(dirs, &program::ALL)
}

/// Likewise, of some programs.
pub(super) fn pinned_links(dirs: &PinDirs, programs: &[&'static str]) -> Result<BTreeSet<Link>> {
    let path = dirs.links();
    let entries = fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut links = BTreeSet::new();
    for mut link in names.filter_map(|name| parse_pin(&name, programs)) {
        link.ifindex = sys::link_info(open_link(dirs, &link)?.as_fd())?.ifindex;
        links.insert(link);
    }
    Ok(links)
}

fn parse_pin(name: &str, programs: &[&'static str]) -> Option<Link> {
    let (interface, program) = name.rsplit_once('-')?;
    let program = programs.iter().copied().find(|known| *known == program)?;
    Some(Link { interface: interface.replace(':', "."), ifindex: 0, program })
}
