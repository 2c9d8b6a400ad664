//! How a program is held on an interface, and which way this kernel offers.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use sgp_common::pins::program;

use super::maps::PinDirs;
use super::{clsact, tcx};
use crate::domain::installed::Link;

/// The ways to hold a program on an interface. Either outlives the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A tcx link, pinned (Linux 6.6).
    Tcx,
    /// A filter of the interface's clsact qdisc, for older kernels.
    Clsact,
}

impl Attachment {
    /// The better way that the running kernel offers. The kernel is asked, not its version: distributions
    /// backport features, and may leave them out.
    ///
    /// # Errors
    /// Where the kernel does not let this process ask.
    pub fn offered() -> Result<Self> {
        // Every network namespace has `lo`; a kernel without tcx knows no such attach type.
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Ok(Self::Tcx),
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
                Ok(Self::Clsact)
            }
            Err(error) => Err(error).context("asking the kernel for tcx"),
        }
    }

    /// Attaches a program where `link` says, in front of every other program there: one that says "OK" ends
    /// the chain, and ours would never be asked.
    pub(super) fn attach(self, dirs: &PinDirs, program: &mut SchedClassifier, link: &Link) -> Result<()> {
        let attached = match self {
            Self::Tcx => tcx::attach(dirs, program, link),
            Self::Clsact => clsact::attach(program, link),
        };
        attached.with_context(|| format!("attaching {} to {}", link.program, link.interface))
    }

    /// Takes a program off; one that is gone already is fine.
    pub(super) fn detach(self, dirs: &PinDirs, link: &Link) -> Result<()> {
        let detached = match self {
            Self::Tcx => tcx::detach(dirs, link),
            Self::Clsact => clsact::detach(link),
        };
        detached.with_context(|| format!("taking {} off {}", link.program, link.interface))
    }

    /// What is attached, as the kernel tells it.
    pub(super) fn links(self, dirs: &PinDirs) -> Result<BTreeSet<Link>> {
        match self {
            Self::Tcx => tcx::links(dirs),
            Self::Clsact => clsact::links(dirs),
        }
    }

    /// Puts a newly loaded program everywhere its namesake is attached, without a gap.
    pub(super) fn replace(self, dirs: &PinDirs, name: &'static str, program: &mut SchedClassifier) -> Result<()> {
        match self {
            Self::Tcx => tcx::replace(dirs, name, program),
            Self::Clsact => clsact::replace(name, program),
        }
    }

    /// Likewise, where an older layout's is attached: its links become ours.
    pub(super) fn take_over(
        self,
        old: &PinDirs,
        dirs: &PinDirs,
        name: &'static str,
        program: &mut SchedClassifier,
    ) -> Result<()> {
        match self {
            Self::Tcx => tcx::take_over(old, dirs, name, program),
            Self::Clsact => clsact::replace(name, program),
        }
    }
}

/// The hook of a program.
pub(super) fn hook(name: &str) -> TcAttachType {
    match name {
        program::TO_POD | program::TO_BRANCH => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}
