//! Compiling the data path to the object that the agent embeds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{cargo, run_cargo};
use crate::progress::Step;
use crate::setup::{self, BpfRustc};

const TARGET: &str = "bpfel-unknown-none";

/// Makes `target/bpf/sgp.bpf.o`, and `floor.bpf.o` for the benchmark; takes a second if nothing changed.
pub(crate) fn build() -> Result<()> {
    let mut command = command(&cargo::root().join("target/bpf-build"))?;
    let step = Step {
        name: "data path",
        how: "cargo builds sgp-ebpf for BPF",
        about: Duration::from_secs(45),
        silent: Duration::from_secs(3),
    };
    step.run(|| run_cargo(&mut command))?;
    let built = cargo::root().join("target/bpf-build").join(TARGET).join("release");
    let kept = cargo::root().join("target/bpf");
    cargo::copy_if_changed(&built.join("sgp"), &kept.join("sgp.bpf.o"))?;
    cargo::copy_if_changed(&built.join("floor"), &kept.join("floor.bpf.o"))
}

/// Builds the data path of another checkout, with a directory of its own for what cargo makes; the object's path.
pub(crate) fn build_elsewhere(root: &Path, target: &Path) -> Result<PathBuf> {
    let mut command = command(target)?;
    run_cargo(command.current_dir(root))?;
    Ok(target.join(TARGET).join("release/sgp"))
}

fn command(target: &Path) -> Result<Command> {
    let found = setup::found();
    let rustc = found.rustc.context("there is no rustc for BPF; run `cargo xtask setup --only bpf`")?;
    let linker = found.linker.context("there is no bpf-linker; run `cargo xtask setup --only bpf`")?;
    let mut command = cargo::for_bpf(rustc == BpfRustc::Nightly);
    command.args(["build", "--quiet", "--release", "-p", "sgp-ebpf", "--target", TARGET, "--target-dir"]);
    command.arg(target);
    match rustc {
        BpfRustc::Nightly => command.args(["-Z", "build-std=core"]),
        // A stable compiler: only these crates may use what is unstable.
        BpfRustc::Debian => command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "aya_ebpf,sgp,floor"),
    };
    command.env("CARGO_ENCODED_RUSTFLAGS", flags(env::consts::ARCH)).env("PATH", path_with(&linker)?);
    Ok(command)
}

/// The architecture decides the layout of the host's registers; debug info becomes BTF, which names map fields. By its default
/// the linker has each copy of an address become a call to a loop over bytes.
fn flags(architecture: &str) -> String {
    let architecture = format!("--cfg=bpf_target_arch=\"{architecture}\"");
    let linker = ["-Clink-arg=--btf", "-Clink-arg=--disable-expand-memcpy-in-order"];
    [architecture.as_str(), "-Cdebuginfo=2"].into_iter().chain(linker).collect::<Vec<_>>().join("\x1f")
}

fn path_with(linker: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let first = linker.parent().map(Path::to_owned);
    env::join_paths(first.into_iter().chain(env::split_paths(&path))).context("PATH has a directory with a colon")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_separated_the_way_cargo_reads_them() {
        let flags = flags("x86_64");
        assert!(
            flags.starts_with("--cfg=bpf_target_arch=\"x86_64\"\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf"),
            "{flags}"
        );
    }
}
