//! The XDP program on the trunk: a link, pinned like those of tcx (Linux 5.9), on every kernel that we run on.
//!
//! It may be gone at any moment without changing a verdict; so where a newer layout takes over, it goes with the old one's pins
//! and is attached anew.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use sgp_common::pins::program;
use tracing::{info, warn};

use super::maps::PinDirs;
use super::tcx::{self, link_pin};
use crate::domain::enforcement::Early;
use crate::domain::installed::Link;

/// Attaches it in the first of the ways that the interface takes.
pub(super) fn attach(dirs: &PinDirs, program: &mut Xdp, link: &Link, how: Early) -> Result<()> {
    tcx::detach(dirs, link)?;
    let modes: &[(&str, XdpMode)] = match how {
        Early::Off => &[],
        Early::Auto => &[("native", XdpMode::Driver), ("generic", XdpMode::Skb)],
        Early::Native => &[("native", XdpMode::Driver)],
        Early::Generic => &[("generic", XdpMode::Skb)],
    };
    for (mode, flags) in modes {
        match attach_as(dirs, program, link, *flags) {
            Ok(()) => {
                info!(interface = link.interface, mode, "XDP is attached to the trunk");
                return Ok(());
            }
            Err(error) => {
                let error = format!("{error:#}");
                warn!(interface = link.interface, mode, error, "the trunk does not take XDP in this mode");
            }
        }
    }
    bail!(
        "{} takes no XDP program: tc judges all the same; start the agent with --xdp off, or see its log",
        link.interface
    )
}

fn attach_as(dirs: &PinDirs, program: &mut Xdp, link: &Link, mode: XdpMode) -> Result<()> {
    let id = program.attach(&link.interface, mode)?;
    let attached: FdLink = program.take_link(id)?.try_into()?;
    attached.pin(dirs.links().join(link_pin(link))).map(drop).context("pinning the link")
}

/// Puts a newly loaded program behind the link.
pub(super) fn replace(dirs: &PinDirs, program: &Xdp) -> Result<()> {
    let fd = program.fd().context("a loaded program has a descriptor")?;
    tcx::replace_all(dirs, &links(dirs)?, fd.as_fd())
}

/// What is attached, as the kernel tells it.
pub(super) fn links(dirs: &PinDirs) -> Result<BTreeSet<Link>> {
    tcx::pinned_links(dirs, &[program::FROM_TRUNK])
}
