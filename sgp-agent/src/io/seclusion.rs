//! Namespaces of one's own, for whoever wants to disturb nobody.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where the kernel has a directory for a bpffs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Moves the calling thread, for good, into a network namespace and a mount namespace of its own, with an empty bpffs
/// at [`BPFFS`]. Links and pins that are made then are seen by nobody else, and the kernel takes them away when the
/// thread ends, however it ends.
///
/// # Errors
/// Where the thread lacks CAP_SYS_ADMIN, or there is no [`BPFFS`].
pub fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("making namespaces (needs CAP_SYS_ADMIN)")?;
    let nothing = None::<&str>;
    // Else what is mounted here would be mounted outside too.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("closing the mount namespace")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), nothing)
        .with_context(|| format!("mounting a bpffs at {BPFFS}"))
}
