//! `cargo xtask build`: the data path first, since the agent embeds it.

pub(crate) mod cargo;
pub(crate) mod ebpf;

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::progress::{Step, command};
use crate::setup::{self, Part};

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask build             target/debug/sgp-agent, with target/bpf/sgp.bpf.o inside
  cargo xtask build --release   target/release/sgp-agent")]
pub(crate) struct Args {
    /// Optimise the agent; the data path always is
    #[arg(long)]
    release: bool,
}

/// Runs `cargo xtask build`.
pub(crate) fn run(args: &Args) -> Result<()> {
    everything(args.release)?;
    println!("built {}/sgp-agent", cargo::debug_directory().with_file_name(profile(args.release)).display());
    Ok(())
}

fn profile(release: bool) -> &'static str {
    if release { "release" } else { "debug" }
}

/// Builds the data path and what runs on this machine, and first whatever BPF toolchain is missing for it.
pub(crate) fn everything(release: bool) -> Result<()> {
    match setup::is_complete(&[Part::Bpf]) {
        true => ebpf::build()?,
        false => with_toolchain_arriving(release)?,
    }
    host(release)
}

/// Dependencies of the agent take longer to compile than the toolchain takes to install: both at once. Without its
/// data path the agent still compiles; errors are told by the build that follows.
fn with_toolchain_arriving(release: bool) -> Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| host_command(release).stderr(Stdio::null()).status());
        setup::ensure(&[Part::Bpf])?;
        ebpf::build()
    })
}

/// Does `work` while setup provides `parts`; fails if either does.
pub(crate) fn while_arriving<T>(parts: &[Part], work: impl FnOnce() -> Result<T>) -> Result<T> {
    thread::scope(|scope| {
        let arriving = scope.spawn(|| setup::ensure(parts));
        let done = work();
        arriving.join().unwrap_or_else(|_| bail!("setup itself broke, see above"))?;
        done
    })
}

fn host(release: bool) -> Result<()> {
    let step = Step {
        name: "agent and cluster",
        how: "cargo builds what has changed of sgp-agent and sgp-dev",
        about: Duration::from_secs(360),
        silent: Duration::from_secs(3),
    };
    step.run(|| run_cargo(&mut host_command(release)))
}

fn host_command(release: bool) -> Command {
    let mut build = cargo::command();
    build.args(["build", "--quiet"]).args(cargo::HOST_PACKAGES);
    if release {
        build.arg("--release");
    }
    build
}

/// Runs cargo with its warnings and errors shown as they come.
fn run_cargo(cargo: &mut Command) -> Result<()> {
    let status = cargo.stdin(Stdio::null()).status();
    let status =
        status.with_context(|| format!("`{}` cannot be started; is Rust installed?", command::shown(cargo)))?;
    match status.success() {
        true => Ok(()),
        false => bail!("`{}` failed; what it printed is above", command::shown(cargo)),
    }
}
