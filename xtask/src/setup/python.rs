//! The EC2 emulator and the AWS command line, in a Python environment of their own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Part, Step, cache, packages};
use crate::progress::command;

const PACKAGES: [&str; 2] = ["moto[server,ec2]~=5.2", "awscli"];

pub(super) const STEP: Step = Step {
    name: "EC2 emulator",
    part: Part::Cluster,
    present: || found().map(|venv| venv.display().to_string()),
    how: || format!("pip installs {} into {}", PACKAGES.join(" and "), venv().display()),
    about: || 90,
    install,
};

/// The environment, if both commands are in it.
pub(super) fn found() -> Option<PathBuf> {
    let venv = venv();
    let complete = ["moto_server", "aws"].iter().all(|program| command::is_program(&venv.join("bin").join(program)));
    complete.then_some(venv)
}

fn venv() -> PathBuf {
    cache::root().join("venv")
}

fn install() -> Result<()> {
    if !can_make_environments() {
        packages::install(&["python3-venv"])?;
    }
    // Not under a temporary name: scripts in an environment carry its path. pip writes the two we look for last.
    command::quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    let pip = venv().join("bin/pip");
    command::quietly(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))
}

/// Debian's python3 has the module venv but, without python3-venv, not the ensurepip it needs.
fn can_make_environments() -> bool {
    command::answer(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some()
}
