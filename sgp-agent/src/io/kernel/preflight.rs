//! What must be so before anything is loaded, each with its cure.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Bits of Linux's capability sets (`linux/capability.h`). Loading and attaching would do with CAP_BPF,
/// CAP_PERFMON and CAP_NET_ADMIN; but policies are opened, and made with BTF, by id, which the kernel leaves to
/// CAP_SYS_ADMIN alone, and that includes the first two.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// The oldest kernel the data path is tested on.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Checks permission, kernel and file system.
///
/// # Errors
/// The first thing that is missing, and what to do.
pub fn check(bpf_dir: &Path) -> Result<()> {
    permission()?;
    kernel()?;
    on_bpffs(bpf_dir)
}

/// Checks permission alone.
///
/// # Errors
/// The capabilities that are missing, and what to do.
pub fn permission() -> Result<()> {
    permitted(effective_capabilities()?)
}

fn permitted(held: u64) -> Result<()> {
    let has = |bit: u32| held >> bit & 1 == 1;
    let missing = match (has(CAP_SYS_ADMIN), has(CAP_NET_ADMIN)) {
        (true, true) => return Ok(()),
        (false, true) => "CAP_SYS_ADMIN",
        (true, false) => "CAP_NET_ADMIN",
        (false, false) => "CAP_SYS_ADMIN and CAP_NET_ADMIN",
    };
    bail!(
        "no permission for BPF: this process lacks {missing}; run it as root, or grant them in the container's securityContext (CAP_BPF alone is not enough: policies are opened by id)"
    )
}

fn effective_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff in /proc/self/status")?;
    u64::from_str_radix(line.trim(), 16).context("CapEff in /proc/self/status is not a number")
}

fn kernel() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's version")?;
    match version(&release) {
        Some(found) if found < OLDEST_KERNEL => {
            bail!("Linux {} is too old: sgp needs {}.{} or newer", release.trim(), OLDEST_KERNEL.0, OLDEST_KERNEL.1)
        }
        _ => Ok(()),
    }
}

/// `6.12.0-cloud` is (6, 12).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Checks that a directory is, or would be, on a bpffs.
///
/// # Errors
/// How to mount one.
pub(super) fn on_bpffs(bpf_dir: &Path) -> Result<()> {
    let existing = bpf_dir.ancestors().find(|dir| dir.exists()).context("the --bpf-dir must be an absolute path")?;
    let kind = statfs(existing).with_context(|| format!("looking at {}", existing.display()))?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        bail!(
            "{} is not on a bpffs: mount one first (`mount -t bpf bpf /sys/fs/bpf`), or set --bpf-dir",
            bpf_dir.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_string_yields_its_first_two_numbers() {
        assert_eq!(version("6.12.57+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("5.10.0"), Some((5, 10)));
        assert_eq!(version("odd"), None);
    }

    #[test]
    fn the_missing_capability_is_named() {
        assert!(permitted(1 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN).is_ok());
        let told = permitted(1 << CAP_NET_ADMIN).expect_err("one is missing").to_string();
        assert!(told.contains("lacks CAP_SYS_ADMIN;"), "{told}");
        let told = permitted(0).expect_err("both are missing").to_string();
        assert!(told.contains("lacks CAP_SYS_ADMIN and CAP_NET_ADMIN;"), "{told}");
    }
}
