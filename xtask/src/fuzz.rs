//! `cargo xtask fuzz`: bytes that nobody thought of, for the parser and for the data path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::build::{cargo, ebpf};
use crate::dev;
use crate::setup::{self, Part, fuzzer};

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz parser                  a minute of any bytes for the parser
  cargo xtask fuzz packet --seconds 600    ten minutes of any packets for kernel and model (root)

What breaks a law of the parser, or is judged differently by kernel and model, is written to fuzz/found beside the target;
`cargo xtask test` plays all that is there. What led to new paths is kept in target/fuzz, and the next run goes on with it.")]
pub(crate) struct Args {
    /// What to feed
    #[arg(value_enum)]
    target: Target,
    /// For how long, once it is built
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// The parser: it stays inside the frame, and reads what another parser reads
    Parser,
    /// The data path and its model: they say the same of every packet
    Packet,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Parser => "parser",
            Target::Packet => "packet",
        }
    }

    /// Where cargo-fuzz finds it, from the root.
    fn directory(self) -> &'static str {
        match self {
            Target::Parser => "sgp-common/fuzz",
            Target::Packet => "sgp-agent/fuzz",
        }
    }
}

/// Runs `cargo xtask fuzz`; libFuzzer shows how it gets on.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Args { target, seconds } = *args;
    if target == Target::Packet {
        dev::need_root("fuzz packet")?;
        // Only the data path: cargo-fuzz builds what judges it, with this inside.
        setup::ensure(&[Part::Bpf])?;
        ebpf::build()?;
    }
    setup::ensure(&[Part::Fuzz])?;
    println!("building the target `{}` (the first time takes minutes)", target.name());
    let found = cargo::root().join(target.directory()).join("found");
    match fuzz(target, seconds, &found)?.status().context("cargo-fuzz cannot be started")?.success() {
        true => Ok(()),
        false => bail!("`{}` did not hold; see above, and {}", target.name(), found.display()),
    }
}

/// The call of cargo-fuzz. Sanitizers want a nightly compiler, and look for what safe Rust does not do.
fn fuzz(target: Target, seconds: u32, found: &Path) -> Result<Command> {
    let corpus = kept().join("corpus").join(target.name());
    fs::create_dir_all(&corpus).with_context(|| format!("{} cannot be made", corpus.display()))?;
    let program = fuzzer::program().context("cargo-fuzz is gone again")?;
    let mut command = cargo::like(Command::new(program));
    command.args(["run", "--sanitizer", "none", "--fuzz-dir", target.directory(), "--target-dir"]);
    command.arg(kept().join("build")).arg(target.name()).arg(corpus);
    command.arg(cargo::root().join(target.directory()).join("seeds")).arg("--");
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", found.display()));
    command.args(["-max_len=2048", "-timeout=10"]);
    Ok(command)
}

/// Where builds and corpora are kept.
fn kept() -> PathBuf {
    cargo::root().join("target/fuzz")
}
