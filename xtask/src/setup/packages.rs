//! Debian packages, and the tools of the local cluster that come from them.

use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, bail};

use super::{Part, Step};
use crate::progress::command;

/// A package and the program or file that shows it is there, wherever it came from.
pub(super) struct Tool {
    pub(super) package: &'static str,
    pub(super) probe: &'static str,
}

const TOOLS: [Tool; 13] = [
    Tool { package: "iproute2", probe: "ip" },
    Tool { package: "iptables", probe: "iptables" },
    Tool { package: "nftables", probe: "nft" },
    Tool { package: "conntrack", probe: "conntrack" },
    Tool { package: "bpftool", probe: "bpftool" },
    Tool { package: "nginx-light", probe: "nginx" },
    Tool { package: "dnsmasq-base", probe: "dnsmasq" },
    Tool { package: "curl", probe: "curl" },
    Tool { package: "containernetworking-plugins", probe: "/usr/lib/cni/ptp" },
    Tool { package: "openssl", probe: "openssl" },
    Tool { package: "faketime", probe: "faketime" },
    Tool { package: "procps", probe: "sysctl" },
    Tool { package: "util-linux", probe: "nsenter" },
];

/// What boots a kernel, and packs what it boots into.
const VM_TOOLS: [Tool; 7] = [
    Tool { package: "qemu-system-x86", probe: "qemu-system-x86_64" },
    Tool { package: "busybox-static", probe: "busybox" },
    Tool { package: "cpio", probe: "cpio" },
    Tool { package: "kmod", probe: "modprobe" },
    Tool { package: "xz-utils", probe: "xz" },
    Tool { package: "libc-bin", probe: "ldd" },
    Tool { package: "netbase", probe: "/etc/protocols" },
];

pub(super) const TOOLS_STEP: Step = Step {
    name: "tools",
    part: Part::Tools,
    present: || present(&TOOLS),
    how: || how(&TOOLS),
    about: || 40,
    install: || install(&missing_here(&TOOLS)),
};

pub(super) const VM_STEP: Step = Step {
    name: "emulator",
    part: Part::Vm,
    present: || present(&VM_TOOLS),
    how: || how(&VM_TOOLS),
    about: || 40,
    install: || install(&missing_here(&VM_TOOLS)),
};

pub(super) fn present(tools: &[Tool]) -> Option<String> {
    let found = || tools.iter().map(|tool| tool.probe).collect::<Vec<_>>().join(" ");
    missing_here(tools).is_empty().then(found)
}

pub(super) fn how(tools: &[Tool]) -> String {
    format!("apt-get installs {}", missing_here(tools).join(" "))
}

pub(super) fn missing_here(tools: &[Tool]) -> Vec<&'static str> {
    missing(tools, |probe| match probe.starts_with('/') {
        true => std::path::Path::new(probe).exists(),
        false => command::find(probe).is_some(),
    })
}

fn missing(tools: &[Tool], is_there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    tools.iter().filter(|tool| !is_there(tool.probe)).map(|tool| tool.package).collect()
}

/// dpkg has one lock for the whole machine, so steps that run side by side queue here.
static DPKG: Mutex<()> = Mutex::new(());

/// Installs packages as root, with the package lists fresh.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    may_install(packages)?;
    refresh()?;
    let _turn = DPKG.lock().unwrap_or_else(PoisonError::into_inner);
    command::quietly(apt_get(&["install", "-y", "--no-install-recommends"]).args(packages))
}

fn may_install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    match (command::find("apt-get"), nix::unistd::geteuid().is_root()) {
        (None, _) => bail!(
            "the Debian packages {wanted} are missing and this machine has no apt-get; install what corresponds to them with its own package manager"
        ),
        (_, false) => bail!(
            "installing the Debian packages {wanted} needs root; run `sudo -E env PATH=\"$PATH\" cargo xtask setup`, or install them yourself"
        ),
        _ => Ok(()),
    }
}

/// Whether apt could install all of these, by lists that are fresh if we may refresh them.
pub(super) fn offers(packages: &[&str]) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    is_root
        && command::find("apt-get").is_some()
        && refresh().is_ok()
        && packages.iter().all(|package| offered(package))
}

fn offered(package: &str) -> bool {
    command::answer(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))
        .is_some_and(|policy| has_candidate(&policy))
}

fn has_candidate(policy: &str) -> bool {
    let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"));
    candidate.is_some_and(|version| version.trim() != "(none)")
}

/// Fetches the package lists once per run: images often come without any.
pub(super) fn refresh() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    let _turn = DPKG.lock().unwrap_or_else(PoisonError::into_inner);
    if DONE.get().is_none() {
        command::quietly(&mut apt_get(&["update"]))?;
        let _ = DONE.set(());
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // Another apt (unattended upgrades, say) is waited for instead of failed on.
    command.args(["-q", "-o", "DPkg::Lock::Timeout=600"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_whose_tool_is_missing_are_installed() {
        assert_eq!(
            missing(&TOOLS, |probe| probe != "nft" && probe != "/usr/lib/cni/ptp"),
            ["nftables", "containernetworking-plugins"]
        );
        assert!(missing(&TOOLS, |_| true).is_empty());
    }

    #[test]
    fn a_package_apt_does_not_know_is_not_offered() {
        assert!(has_candidate("curl:\n  Installed: (none)\n  Candidate: 7.88\n"));
        assert!(!has_candidate("curl:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }
}
