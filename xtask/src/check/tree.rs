//! What is in the repository: its files, its top level, and the links between its documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Findings;
use crate::build::cargo;
use crate::progress::command;

const REQUIRED: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "sgp-ebpf", "sgp-agent", "sgp-common", "xtask", "deploy", "README.md", "LICENSE"];
const ALLOWED: [&str; 5] = ["CONTRIBUTING.md", "docs", "rustfmt.toml", "clippy.toml", "deny.toml"];

/// Every file that is in the repository or would be after `git add`, relative to the root.
pub(super) fn files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    // Root may look at the tree of the user who called sudo.
    git.args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(cargo::root());
    let listed = command::answer(&mut git).context("`git ls-files` failed; the checks need git and a git checkout")?;
    // A file deleted but not yet committed is still listed.
    Ok(listed.lines().filter(|path| cargo::root().join(path).exists()).map(str::to_owned).collect())
}

/// Checks that the top level holds what the README's layout says and nothing else.
pub(super) fn layout() -> Result<Findings> {
    let files = files()?;
    Ok(of_top_level(&files.iter().filter_map(|path| path.split('/').next()).collect()))
}

fn of_top_level(names: &BTreeSet<&str>) -> Findings {
    let known = |name: &str| name.starts_with('.') || REQUIRED.contains(&name) || ALLOWED.contains(&name);
    let strange = names.iter().filter(|name| !known(name));
    let missing = REQUIRED.iter().filter(|name| !names.contains(*name));
    let strange =
        strange.map(|name| format!("{name} does not belong on the top level: move it where the README's layout says"));
    strange.chain(missing.map(|name| format!("{name} is missing from the top level"))).collect()
}

/// Checks that every relative link in a document leads to a file.
pub(super) fn links() -> Result<Findings> {
    let mut findings = Findings::new();
    for path in files()?.into_iter().filter(|path| path.ends_with(".md")) {
        let text = fs::read_to_string(cargo::root().join(&path)).with_context(|| format!("{path} cannot be read"))?;
        let directory = cargo::root().join(&path).parent().map(Path::to_owned).unwrap_or_default();
        let broken = relative_links(&text).into_iter().filter(|target| !directory.join(target).exists());
        findings.extend(broken.map(|target| format!("{path}: the link to {target} leads nowhere")));
    }
    Ok(findings)
}

/// Files that a document links to, without anchors; what stands in fences is no link.
fn relative_links(text: &str) -> Vec<&str> {
    let fenced = text.split("\n```").step_by(2);
    let targets =
        fenced.flat_map(|prose| prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '#']).next()));
    targets.filter(|target| !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found_and_others_are_not() {
        let text =
            "[a](one.md) [b](https://x.y/z) [c](#here) [d](two.md#part)\n```\n[e](three.md)\n```\n[f](four/ \"t\")";
        assert_eq!(relative_links(text), ["one.md", "two.md", "four/"]);
    }

    #[test]
    fn strangers_and_gaps_on_the_top_level_are_told() {
        let mut names = BTreeSet::from(REQUIRED);
        names.extend([".ci", "docs"]);
        assert!(of_top_level(&names).is_empty());
        names.insert("notes.txt");
        names.remove("LICENSE");
        assert_eq!(of_top_level(&names).len(), 2);
    }
}
