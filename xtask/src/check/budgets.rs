//! Sizes and names: files and functions small enough to read at once, and no module named after nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::functions::{Function, outline};
use super::{Findings, tree};
use crate::build::cargo;

const FILE_MAXIMUM: usize = 500;
const FILE_AIM: usize = 300;
const FUNCTION_MAXIMUM: usize = 70;
const MEDIAN_BELOW: usize = 8;

const TABLE: &str = "xtask/src/check/budgets.rs";

/// Files over the aim, each with why it is better whole; one that has shrunk must leave this table.
const OVER_THE_AIM: [(&str, &str); 4] = [
    ("sgp-agent/src/cli/doctor.rs", "one list of findings, each with its cure"),
    ("sgp-agent/src/cli/run.rs", "what the agent is started with, and how its parts are joined"),
    ("sgp-agent/src/domain/branches.rs", "one planner: the cloud steps, and every place that may decide on one"),
    ("sgp-common/src/packet.rs", "one parser, from Ethernet to ports, with the packet it fills"),
];

/// Names that say nothing about what is inside, so that everything ends up there.
const FORBIDDEN_NAMES: [&str; 6] = ["common", "helper", "helpers", "manager", "util", "utils"];

/// Checks every Rust file of the four crates.
pub(super) fn check() -> Result<Findings> {
    let mut findings = Findings::new();
    let mut lengths: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for path in tree::files()?.into_iter().filter(|path| path.ends_with(".rs")) {
        let source = fs::read_to_string(cargo::root().join(&path)).with_context(|| format!("{path} cannot be read"))?;
        let outline = outline(&source, is_test_file(&path)).with_context(|| format!("{path} cannot be measured"))?;
        findings.extend(of_file(&path, source.lines().count(), over_the_aim(&path)));
        findings.extend(of_names(&path, &outline.modules));
        findings.extend(outline.functions.iter().filter_map(|function| of_function(&path, function)));
        let product = outline.functions.iter().filter(|function| !function.is_test).map(|function| function.length);
        lengths.entry(crate_of(&path).to_owned()).or_default().extend(product);
    }
    findings.extend(lengths.into_iter().filter_map(|(name, lengths)| of_median(&name, lengths)));
    findings.extend(OVER_THE_AIM.iter().filter_map(|(path, _)| of_table(path)));
    Ok(findings)
}

fn crate_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs")
}

fn over_the_aim(path: &str) -> bool {
    OVER_THE_AIM.iter().any(|(allowed, _)| *allowed == path)
}

fn of_file(path: &str, lines: usize, allowed: bool) -> Option<String> {
    let told = |complaint: String| Some(format!("{path} has {lines} lines, {complaint}"));
    match (lines > FILE_MAXIMUM, lines > FILE_AIM, allowed) {
        (true, _, _) => told(format!("more than {FILE_MAXIMUM}: split it")),
        (_, true, false) => told(format!("more than {FILE_AIM}: split it, or list it with a reason in {TABLE}")),
        (_, false, true) => told(format!("no more than {FILE_AIM}: take it from the table in {TABLE}")),
        _ => None,
    }
}

fn of_table(path: &str) -> Option<String> {
    let gone = !cargo::root().join(path).exists();
    gone.then(|| format!("{path} is gone: take it from the table in {TABLE}"))
}

fn of_names(path: &str, modules: &[String]) -> Findings {
    let stem = Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let named = stem.iter().chain(modules).filter(|name| FORBIDDEN_NAMES.contains(&name.as_str()));
    named.map(|name| format!("{path}: `{name}` says nothing about what is inside; name it after that")).collect()
}

fn of_function(path: &str, function: &Function) -> Option<String> {
    let Function { name, line, length, .. } = function;
    let too_long = *length > FUNCTION_MAXIMUM;
    too_long.then(|| format!("{path}:{line}: `{name}` has {length} lines, more than {FUNCTION_MAXIMUM}: divide it"))
}

fn of_median(name: &str, lengths: Vec<usize>) -> Option<String> {
    let median = median(lengths)?;
    let too_long = median >= MEDIAN_BELOW;
    too_long.then(|| {
        format!("{name}: half of its functions have {median} lines or more; the median is to be below {MEDIAN_BELOW}")
    })
}

fn median(mut lengths: Vec<usize>) -> Option<usize> {
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_told_unless_the_table_has_them() {
        let told = |lines, allowed| of_file("a.rs", lines, allowed).is_some();
        assert_eq!([300, 301, 500, 501].map(|lines| told(lines, false)), [false, true, true, true]);
        assert_eq!([300, 301, 500, 501].map(|lines| told(lines, true)), [true, false, false, true]);
    }

    #[test]
    fn names_without_meaning_are_told() {
        assert_eq!(of_names("x/src/utils.rs", &["helpers".to_owned(), "flow".to_owned()]).len(), 2);
        assert!(of_names("sgp-common/src/flow.rs", &[]).is_empty());
    }

    #[test]
    fn the_median_is_that_of_the_sorted_lengths() {
        assert_eq!(median(vec![9, 1, 2]), Some(2));
        assert_eq!(median(vec![]), None);
        assert!(of_median("x", vec![8, 8, 1]).is_some() && of_median("x", vec![7, 7, 90]).is_none());
    }

    #[test]
    fn long_functions_are_told() {
        let function = |length| Function { name: "f".to_owned(), line: 1, length, is_test: false };
        assert!(of_function("a.rs", &function(71)).is_some() && of_function("a.rs", &function(70)).is_none());
    }
}
