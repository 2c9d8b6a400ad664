//! What the kernel's verifier walks to prove each program, against the numbers on record: it gives up at a million, and a
//! change that comes closer should be a decision.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::geteuid;

use super::{Findings, NotRun};
use crate::build::{self, cargo};
use crate::progress::command;

/// Where the numbers stand, relative to the root.
const RECORD: &str = "sgp-ebpf/verifier.txt";
/// How many percent of the recorded number a program may take.
const TOLERATED: u64 = 110;

/// Instructions walked, by program.
type Counts = BTreeMap<String, u64>;

/// A program in the output of `sgp-agent verify --json`.
#[derive(serde::Deserialize)]
struct Row {
    program: String,
    verified: Option<u64>,
}

/// Asks this kernel and compares; `SGP_BLESS=1` writes the record anew instead.
pub(super) fn check() -> Result<Findings> {
    let (kernel, counts) = (nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(), ask()?);
    let path = cargo::root().join(RECORD);
    if std::env::var_os("SGP_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, written(&kernel, &counts)).with_context(|| format!("{RECORD} cannot be written"))?;
    }
    let record =
        fs::read_to_string(&path).with_context(|| format!("{RECORD} cannot be read; SGP_BLESS=1 writes it"))?;
    let (recorded_on, recorded) = read(&record).with_context(|| format!("{RECORD} is not as SGP_BLESS=1 writes it"))?;
    if series(&kernel) != series(recorded_on) {
        return Err(NotRun("verifiers count differently, and the record is another kernel's").into());
    }
    let advice = format!("on Linux {kernel}, recorded on {recorded_on}; SGP_BLESS=1 records it anew if it is meant");
    Ok(compared(&counts, &recorded).into_iter().map(|finding| format!("{finding} ({advice})")).collect())
}

/// `6.18` of `6.18.44-fc-v657`.
fn series(release: &str) -> Vec<&str> {
    release.split('.').take(2).collect()
}

fn ask() -> Result<Counts> {
    let agent = cargo::root().join("target/debug/sgp-agent");
    if !geteuid().is_root() {
        return Err(NotRun("it needs root to load programs").into());
    }
    if !agent.exists() {
        return Err(NotRun("there is no target/debug/sgp-agent; `cargo xtask build` builds it").into());
    }
    // What an older tree's programs cost says nothing of this one's.
    build::everything(false)?;
    let output = command::output(Command::new(agent).args(["verify", "--json"]))?;
    anyhow::ensure!(output.status.success(), "`sgp-agent verify` failed: {}", command::printed(&output).trim_end());
    let rows: Vec<Row> =
        serde_json::from_slice(&output.stdout).context("`sgp-agent verify --json` is not understood")?;
    let counts = rows.into_iter().map(|row| Some((row.program, row.verified?))).collect::<Option<Counts>>();
    Ok(counts.ok_or(NotRun("this kernel does not count instructions (Linux 5.16 does)"))?)
}

fn written(kernel: &str, counts: &Counts) -> String {
    let lines: String = counts.iter().map(|(program, count)| format!("{program} {count}\n")).collect();
    format!("kernel {kernel}\n{lines}")
}

fn read(record: &str) -> Option<(&str, Counts)> {
    let (first, rest) = record.split_once('\n')?;
    let count =
        |line: &str| line.split_once(' ').and_then(|(name, count)| Some((name.to_owned(), count.parse().ok()?)));
    Some((first.strip_prefix("kernel ")?, rest.lines().map(count).collect::<Option<_>>()?))
}

fn compared(counts: &Counts, recorded: &Counts) -> Findings {
    let gone = recorded.keys().filter(|program| !counts.contains_key(*program));
    let gone = gone.map(|program| format!("{program} is on record and was not loaded"));
    let grown = counts.iter().filter_map(|(program, count)| match recorded.get(program) {
        Some(before) if count * 100 > before * TOLERATED => {
            Some(format!("{program}: {count} instructions walked, {before} on record"))
        }
        Some(_) => None,
        None => Some(format!("{program} is not on record")),
    });
    gone.chain(grown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Counts {
        read(text).expect("a record").1
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let all = counts("kernel 6.18.1\na 10\nb 20\n");
        assert_eq!(read(&written("6.18.1", &all)), Some(("6.18.1", all.clone())));
        assert_eq!(read("kernel 6.18.1\na ten\n"), None);
    }

    #[test]
    fn a_tenth_more_is_tolerated_and_no_more() {
        let recorded = counts("kernel 6\na 100\n");
        assert_eq!(compared(&counts("kernel 6\na 110\n"), &recorded), Findings::new());
        assert_eq!(compared(&counts("kernel 6\na 111\n"), &recorded).len(), 1);
    }

    #[test]
    fn a_program_that_came_or_went_is_found() {
        assert_eq!(compared(&counts("kernel 6\nb 1\n"), &counts("kernel 6\na 1\n")).len(), 2);
    }
}
