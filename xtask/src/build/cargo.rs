//! Calling cargo from a program that cargo itself runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

/// What `cargo run` tells the program it runs; to another cargo it is noise that can look like a reason to rebuild.
const OF_OUR_OWN_BUILD: [&str; 6] =
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_", "RUST_RECURSION_COUNT"];

/// What would change how the data path is compiled: flags and compilers meant for the host.
const MEANT_FOR_THE_HOST: [&str; 8] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];

/// The packages that run on this machine, in the one feature set they are always built with: aws-sdk-ec2 takes
/// minutes to compile and must not be compiled for two sets.
pub(crate) const HOST_PACKAGES: [&str; 8] =
    ["-p", "sgp-common", "-p", "sgp-agent", "-p", "xtask", "--features", "sgp-common/user,xtask/cluster"];

/// The workspace's directory.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where cargo puts what it builds for the host without `--release`.
pub(crate) fn debug_directory() -> PathBuf {
    let chosen = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    // Joining an absolute path replaces the root.
    root().join(chosen.unwrap_or_else(|| "target".into())).join("debug")
}

/// The cargo that runs us, in the workspace.
pub(crate) fn command() -> Command {
    like(Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())))
}

/// A cargo for the data path: nothing of the host's flags, and rustup's nightly if that is the way.
pub(crate) fn for_bpf(nightly: bool) -> Command {
    let mut command = if nightly { of_nightly() } else { command() };
    for name in MEANT_FOR_THE_HOST {
        command.env_remove(name);
    }
    command
}

fn of_nightly() -> Command {
    let mut rustup = like(Command::new("rustup"));
    rustup.args(["run", "nightly", "cargo"]).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    rustup
}

/// A program that calls cargo: in the workspace, and without what cargo told us.
pub(crate) fn like(mut command: Command) -> Command {
    let ours = |name: &OsString| OF_OUR_OWN_BUILD.iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
    for name in env::vars_os().map(|(name, _)| name).filter(ours) {
        command.env_remove(name);
    }
    command.current_dir(root());
    command
}

/// Copies a file unless the copy has the same content already: cargo rebuilds by modification time.
pub(crate) fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let directory = to.parent().unwrap_or(root());
    let written = fs::create_dir_all(directory).and_then(|()| fs::write(to, new));
    written.with_context(|| format!("{} cannot be written; is the work tree yours?", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_is_the_same_keeps_its_time() -> Result<()> {
        let directory = env::temp_dir().join(format!("sgp-copy-test-{}", std::process::id()));
        let (from, to) = (directory.join("from"), directory.join("sub/to"));
        fs::create_dir_all(&directory)?;
        fs::write(&from, "object")?;
        copy_if_changed(&from, &to)?;
        let first = to.metadata()?.modified()?;
        copy_if_changed(&from, &to)?;
        assert_eq!(first, to.metadata()?.modified()?);
        Ok(fs::remove_dir_all(directory)?)
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("sgp-ebpf/Cargo.toml").exists());
    }
}
