//! Prometheus's promtool, which reads alerts and metrics as Prometheus would. Debian has it in the package of the server; that
//! is downloaded and unpacked into the cache, not installed, since it would start a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Part, Step, cache, packages};
use crate::progress::command;

const PACKAGE: &str = "prometheus";
const PROGRAM: &str = "promtool";

pub(super) const STEP: Step = Step {
    name: PROGRAM,
    part: Part::Tools,
    present: || found().map(|program| program.display().to_string()),
    how: || format!("downloads Debian's {PACKAGE} and unpacks {PROGRAM} in {}", directory().display()),
    about: || 15,
    install: || cache::fill(&directory(), unpack),
};

/// The machine's own, or the one in the cache.
pub(super) fn found() -> Option<PathBuf> {
    let kept = Some(directory().join(PROGRAM)).filter(|program| command::is_program(program));
    command::find(PROGRAM).or(kept)
}

fn directory() -> PathBuf {
    cache::root().join(PROGRAM)
}

fn unpack(part: &Path) -> Result<()> {
    ensure!(command::find("apt-get").is_some(), "this machine has no apt-get; put {PROGRAM} on PATH yourself");
    packages::refresh()?;
    // apt's own user may not write here.
    let mut download = Command::new("apt-get");
    download.args(["-q", "-o", "APT::Sandbox::User=root", "download", PACKAGE]).current_dir(part);
    command::quietly(&mut download)?;
    let unpacked = part.join("unpacked");
    for file in fs::read_dir(part).context("what was downloaded cannot be listed")?.flatten() {
        command::quietly(Command::new("dpkg").arg("-x").arg(file.path()).arg(&unpacked))?;
        fs::remove_file(file.path()).context("a package cannot be removed after it was unpacked")?;
    }
    fs::rename(unpacked.join("usr/bin").join(PROGRAM), part.join(PROGRAM))
        .with_context(|| format!("Debian's {PACKAGE} has no {PROGRAM}"))?;
    fs::remove_dir_all(&unpacked).context("the rest of the package cannot be removed")
}
