//! A rustc that compiles for BPF, and the linker that makes one object of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::{Part, Step, cache, packages};
use crate::build::cargo;
use crate::progress::command;

/// What `bpf-linker` is linked with unless told otherwise, and what Debian has for it.
const NEWEST_LLVM: u32 = 23;
const DEBIAN_LLVM: u32 = 22;
const LINKER_VERSION: &str = "0.13.0";
/// Debian's newest rustc, kept for browsers, and its core library for BPF.
const DEBIAN_RUSTC: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_RUSTC_PATH: &str = "/usr/bin/rustc";

/// The ways to compile for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BpfRustc {
    /// rustup's nightly with rust-src: cargo builds core itself.
    Nightly,
    /// Debian's rustc with a prebuilt core for BPF.
    Debian,
}

pub(super) const RUSTC: Step = Step {
    name: "BPF rustc",
    part: Part::Bpf,
    present: || rustc().map(|way| described(way).to_owned()),
    how: || format!("installs Debian's {}, or else rustup's nightly with rust-src", DEBIAN_RUSTC.join(" and ")),
    about: || 30,
    install: install_rustc,
};

pub(super) const LINKER: Step = Step {
    name: "bpf-linker",
    part: Part::Bpf,
    present: || linker().map(|path| path.display().to_string()),
    how: || format!("cargo installs bpf-linker {LINKER_VERSION} with LLVM {}", llvm()),
    about: || 120,
    install: install_linker,
};

/// What is there to compile for BPF with.
pub(super) fn rustc() -> Option<BpfRustc> {
    let nightly = has_nightly().then_some(BpfRustc::Nightly);
    nightly.or_else(|| has_debian().then_some(BpfRustc::Debian))
}

fn described(way: BpfRustc) -> &'static str {
    match way {
        BpfRustc::Nightly => "rustup's nightly with rust-src",
        BpfRustc::Debian => "Debian's rustc with a BPF core library, /usr/bin/rustc",
    }
}

fn has_nightly() -> bool {
    let Some(sysroot) = command::answer(&mut nightly_rustc(&["--print", "sysroot"])) else { return false };
    let version = command::answer(&mut nightly_rustc(&["-vV"])).unwrap_or_default();
    Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists()
        && llvm_of(&version).is_some_and(|version| version <= llvm())
}

fn nightly_rustc(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    // Looking must not start a download.
    command.args(["run", "nightly", "rustc"]).args(arguments).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// The LLVM that bpf-linker gets here; it cannot read what a rustc with a newer one writes.
fn llvm() -> u32 {
    match command::find("apt-get").is_none() || llvm_prefix(NEWEST_LLVM).exists() {
        true => NEWEST_LLVM,
        false => DEBIAN_LLVM,
    }
}

fn llvm_prefix(version: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{version}"))
}

/// The major LLVM version in what `rustc -vV` prints.
fn llvm_of(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

fn has_debian() -> bool {
    let Some(sysroot) = command::answer(Command::new(DEBIAN_RUSTC_PATH).args(["--print", "sysroot"])) else {
        return false;
    };
    let libraries = Path::new(&sysroot).join("lib/rustlib/bpfel-unknown-none/lib");
    let names = fs::read_dir(libraries).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with("libcore-"))
}

fn install_rustc() -> Result<()> {
    if packages::offers(&DEBIAN_RUSTC) {
        return packages::install(&DEBIAN_RUSTC);
    }
    let nightly = ["toolchain", "install", "nightly", "--component", "rust-src", "--profile", "minimal"];
    command::quietly(Command::new("rustup").args(nightly))?;
    if !has_nightly() {
        bail!(
            "rustup's nightly is installed but uses an LLVM newer than {}, which bpf-linker {LINKER_VERSION} here cannot read; install that LLVM, or an older nightly",
            llvm()
        );
    }
    Ok(())
}

/// The linker on PATH, else the one setup installed.
pub(super) fn linker() -> Option<PathBuf> {
    command::find("bpf-linker")
        .or_else(|| Some(linker_root().join("bin/bpf-linker")).filter(|path| command::is_program(path)))
}

fn linker_root() -> PathBuf {
    cache::root().join(format!("bpf-linker-{LINKER_VERSION}"))
}

fn install_linker() -> Result<()> {
    let mut install = cargo::command();
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--quiet", "--root"])
        .arg(linker_root());
    if llvm() == DEBIAN_LLVM {
        provide_debian_llvm()?;
        install.args(["--no-default-features", "--features", &format!("llvm-{DEBIAN_LLVM}")]);
    }
    if llvm_prefix(llvm()).exists() {
        install.env("LLVM_PREFIX", llvm_prefix(llvm()));
    }
    command::quietly(&mut install)
}

fn provide_debian_llvm() -> Result<()> {
    match llvm_prefix(DEBIAN_LLVM).join("include").exists() {
        true => Ok(()),
        false => packages::install(&[&format!("llvm-{DEBIAN_LLVM}-dev")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_rustc_is_read_from_its_version() {
        assert_eq!(llvm_of("rustc 1.97.0-nightly\nhost: x\nLLVM version: 22.1.4"), Some(22));
        assert_eq!(llvm_of("rustc 1.97.0-nightly"), None);
    }
}
