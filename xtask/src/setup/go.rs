//! Building programs with Go. What is wanted is the program: the gigabytes that Go keeps beside it stay out of the user's
//! caches and are removed once everything is there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use crate::progress::command;

/// Go's own names for where it keeps modules, compiled packages, and what it is working on.
const CACHES: [(&str, &str); 3] = [("GOMODCACHE", "modules"), ("GOCACHE", "packages"), ("GOTMPDIR", "work")];

/// The machine's Go.
pub(super) fn found() -> Option<PathBuf> {
    command::find("go")
}

/// `go` for a static program without symbols, with caches of its own. Two builds share them, and one that was interrupted
/// goes on from them.
///
/// # Errors
/// Names the directory that cannot be made.
pub(super) fn build(go: &Path, verb: &str, stamps: &str) -> Result<Command> {
    let mut build = Command::new(go);
    for (name, directory) in CACHES {
        let directory = caches().join(directory);
        fs::create_dir_all(&directory).with_context(|| cache::unwritable(&directory))?;
        build.env(name, directory);
    }
    // Modules are read-only otherwise, and only root could remove them.
    build.env("CGO_ENABLED", "0").args([verb, "-modcacherw", "-trimpath", "-ldflags"]).arg(format!("-s -w{stamps}"));
    Ok(build)
}

/// Removes the caches.
///
/// # Errors
/// Names the directory.
pub(super) fn forget() -> Result<()> {
    match fs::remove_dir_all(caches()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", caches().display()))
        }
        _ => Ok(()),
    }
}

fn caches() -> PathBuf {
    cache::root().join("go")
}
