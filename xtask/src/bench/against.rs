//! This tree's programs beside another revision's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::figures::{Figure, Samples, figures, ratio};
use super::programs;
use crate::build::{cargo, ebpf};
use crate::progress::command;

/// A case of both.
#[derive(serde::Serialize, Debug, PartialEq)]
pub(super) struct Compared {
    pub(super) case: String,
    /// Median of the other revision, nanoseconds.
    pub(super) before_ns: f64,
    /// Median of this tree.
    pub(super) now_ns: f64,
    /// The median of the rounds' ratios; below 1 is faster.
    pub(super) ratio: f64,
}

/// Measures both, in turn.
pub(super) fn measure(revision: &str, only: &str, rounds: usize) -> Result<(Vec<Figure>, Vec<Compared>)> {
    let other = object_of(revision)?;
    let (mut now, mut before) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        add(&mut now, programs::measure(only, 1, None)?);
        add(&mut before, programs::measure(only, 1, Some(&other)).with_context(|| {
            format!("the programs of {revision} do not run here: if its maps have another layout, check it out and run its own benchmark")
        })?);
    }
    let compared = compared(&now, &before);
    Ok((figures(now), compared))
}

fn add(all: &mut Vec<Samples>, more: Vec<Samples>) {
    match all.is_empty() {
        true => *all = more,
        false => all.iter_mut().zip(more).for_each(|(all, more)| all.ns.extend(more.ns)),
    }
}

fn compared(now: &[Samples], before: &[Samples]) -> Vec<Compared> {
    let both = now.iter().zip(before).filter(|(now, _)| !now.case.starts_with("floor"));
    let compare = |(now, before): (&Samples, &Samples)| {
        let median = |samples: &Samples| super::figures::median(&samples.ns);
        let ratio = ratio(&now.ns, &before.ns)?;
        Some(Compared { case: now.case.clone(), before_ns: median(before), now_ns: median(now), ratio })
    };
    both.filter_map(compare).collect()
}

/// Builds the data path of another revision, in a directory of its own.
fn object_of(revision: &str) -> Result<PathBuf> {
    let directory = super::directory()?.join("against");
    // Left by another run.
    drop(fs::remove_dir_all(&directory));
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    extract(revision, &directory)?;
    ebpf::build_elsewhere(&directory, &super::directory()?.join("bpf-build"))
        .with_context(|| format!("building the data path of {revision}"))
}

fn extract(revision: &str, directory: &Path) -> Result<()> {
    let archive = directory.with_extension("tar");
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "archive", "--output"]).arg(&archive).arg(revision).current_dir(cargo::root());
    let told = command::output(&mut git)?;
    ensure!(told.status.success(), "{revision} is no revision: {}", command::printed(&told).trim_end());
    let mut tar = Command::new("tar");
    // As of now, not as of the revision: cargo goes by time, and has built others in the same place.
    let told = command::output(tar.arg("-xmf").arg(&archive).arg("-C").arg(directory))?;
    ensure!(told.status.success(), "unpacking {revision}: {}", command::printed(&told).trim_end());
    fs::remove_file(&archive).context("removing the archive of the revision")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(case: &str, ns: &[f64]) -> Samples {
        Samples { case: case.into(), floor: None, ns: ns.into() }
    }

    #[test]
    fn revisions_are_compared_case_by_case_and_floors_are_not() {
        let (now, before) =
            ([samples("floor", &[9.0]), samples("c", &[50.0])], [samples("floor", &[9.0]), samples("c", &[100.0])]);
        let expected = Compared { case: "c".into(), before_ns: 100.0, now_ns: 50.0, ratio: 0.5 };
        assert_eq!(compared(&now, &before), [expected]);
    }
}
