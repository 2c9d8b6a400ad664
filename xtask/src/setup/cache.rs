//! The directory that keeps what setup builds, outside the work tree so that a clean checkout does not build it again.

use std::path::{Path, PathBuf};
use std::{env, fs, path};

use anyhow::{Context, Result};

/// `SGP_CACHE_DIR`, else `sgp` in the user's cache directory; absolute, since builds run in directories of their own.
pub(crate) fn root() -> PathBuf {
    let chosen = env::var_os("SGP_CACHE_DIR").filter(|directory| !directory.is_empty());
    let root = chosen.map_or_else(|| user_cache().join("sgp"), PathBuf::from);
    path::absolute(&root).unwrap_or(root)
}

fn user_cache() -> PathBuf {
    let chosen = env::var_os("XDG_CACHE_HOME").filter(|directory| !directory.is_empty());
    // Without a home (a bare container), root's is as good as any.
    chosen.map_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or("/root".into())).join(".cache"), PathBuf::from)
}

/// Fills `directory` under a temporary name first, so that an interrupted build is never taken for a finished one.
pub(crate) fn fill(directory: &Path, build: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = directory.with_added_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("{} is left over and cannot be removed", part.display()))?;
    }
    fs::create_dir_all(&part).with_context(|| unwritable(&part))?;
    build(&part)?;
    fs::rename(&part, directory).with_context(|| unwritable(directory))
}

/// What to do about a directory that cannot be written.
pub(super) fn unwritable(path: &Path) -> String {
    format!("{} cannot be written; set SGP_CACHE_DIR to a directory that can", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_build_is_no_cache_hit_and_does_not_hinder_the_next() {
        let directory = env::temp_dir().join(format!("sgp-cache-test-{}", std::process::id())).join("kube-1.2.3");
        assert!(fill(&directory, |_| anyhow::bail!("interrupted")).is_err());
        assert!(!directory.exists());
        assert!(fill(&directory, |part| Ok(fs::write(part.join("etcd"), "")?)).is_ok());
        assert!(directory.join("etcd").exists());
        let _ = fs::remove_dir_all(directory.parent().unwrap_or(&directory));
    }
}
