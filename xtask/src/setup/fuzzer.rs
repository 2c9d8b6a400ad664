//! What fuzzing needs: cargo-fuzz, and a C++ compiler for the libFuzzer that it links in.

use std::path::PathBuf;

use anyhow::Result;

use super::packages::{self, Tool};
use super::{Part, Step, cache};
use crate::build::cargo;
use crate::progress::command;

const VERSION: &str = "0.13.2";
const COMPILER: [Tool; 1] = [Tool { package: "g++", probe: "c++" }];

pub(super) const COMPILER_STEP: Step = Step {
    name: "c++",
    part: Part::Fuzz,
    present: || packages::present(&COMPILER),
    how: || packages::how(&COMPILER),
    about: || 30,
    install: || packages::install(&packages::missing_here(&COMPILER)),
};

pub(super) const STEP: Step = Step {
    name: "cargo-fuzz",
    part: Part::Fuzz,
    present: || program().map(|path| path.display().to_string()),
    how: || format!("cargo install cargo-fuzz {VERSION}"),
    about: || 120,
    install,
};

/// The program `cargo-fuzz`: the one on PATH, else the one setup installed.
pub(crate) fn program() -> Option<PathBuf> {
    let ours = || Some(root().join("bin/cargo-fuzz")).filter(|path| command::is_program(path));
    command::find("cargo-fuzz").or_else(ours)
}

fn root() -> PathBuf {
    cache::root().join(format!("cargo-fuzz-{VERSION}"))
}

fn install() -> Result<()> {
    let mut install = cargo::command();
    install.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--quiet", "--root"]).arg(root());
    command::quietly(&mut install)
}
