//! `cargo xtask check`: what a reviewer should not have to look for.

mod budgets;
mod functions;
mod tree;
mod verifier;

use std::fmt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::build::cargo;
use crate::progress::{self, Step, command};

/// What a check found wrong, a sentence each.
type Findings = Vec<String>;

/// Why a check could not be run, which is neither passed nor failed.
#[derive(Debug)]
struct NotRun(&'static str);

impl fmt::Display for NotRun {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str(self.0)
    }
}

impl std::error::Error for NotRun {}

/// A check by name, with the seconds it may take from nothing.
struct Check {
    name: &'static str,
    about: u64,
    work: fn() -> Result<Findings>,
}

const CHECKS: [Check; 8] = [
    Check { name: "fmt", about: 5, work: fmt },
    Check { name: "layout", about: 1, work: tree::layout },
    Check { name: "links", about: 1, work: tree::links },
    Check { name: "budgets", about: 1, work: budgets::check },
    Check { name: "clippy", about: 240, work: clippy },
    Check { name: "abi", about: 60, work: abi },
    Check { name: "docs", about: 60, work: docs },
    Check { name: "verifier", about: 10, work: verifier::check },
];

/// Arguments of `cargo xtask check`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask check           every check, one line each
  cargo xtask check clippy    only the checks whose name contains `clippy`

Checks: fmt, layout (top level), links (in *.md), budgets (sizes and names), clippy, abi (golden file), docs,
verifier (instructions walked; needs root and a built agent, which it brings up to date; SGP_BLESS=1 records them anew).")]
pub(crate) struct Args {
    /// Only checks whose name contains this
    #[arg(default_value = "")]
    filter: String,
}

/// Runs `cargo xtask check`.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let known = CHECKS.iter().any(|check| check.name.contains(&args.filter));
    ensure!(known, "no check has `{}` in its name; `cargo xtask check --help` lists them", args.filter);
    let (_, failed) = all(&args.filter);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the checks whose name contains `filter` and prints a line for each; gives (passed, failed); what could not run is neither.
pub(crate) fn all(filter: &str) -> (usize, usize) {
    let wanted = CHECKS.iter().filter(|check| check.name.contains(filter));
    let outcomes: Vec<bool> = wanted.filter_map(Check::passes).collect();
    let passed = outcomes.iter().filter(|passed| **passed).count();
    (passed, outcomes.len() - passed)
}

impl Check {
    /// Whether it passes; `None` if it could not run.
    fn passes(&self) -> Option<bool> {
        let begun = Instant::now();
        let (about, silent) = (Duration::from_secs(self.about), Duration::from_secs(5));
        let name = format!("check {}", self.name);
        let result = Step { name: &name, how: "runs", about, silent }.run(self.work);
        if let Err(Some(NotRun(why))) = result.as_ref().map_err(|error| error.downcast_ref::<NotRun>()) {
            println!("check {:<8} NOT RUN: {why}", self.name);
            return None;
        }
        let findings = result.unwrap_or_else(|error| vec![format!("{error:#}")]);
        let verdict = if findings.is_empty() { "ok" } else { "FAILED" };
        println!("check {:<8} {verdict} ({})", self.name, progress::spoken(begun.elapsed()));
        findings.iter().for_each(|finding| println!("  {}", finding.replace('\n', "\n  ")));
        Some(findings.is_empty())
    }
}

fn fmt() -> Result<Findings> {
    let mut fmt = cargo::command();
    by_cargo(fmt.args(["fmt", "--all", "--check", "--", "--files-with-diff"]), "`cargo fmt --all` mends these files")
}

fn clippy() -> Result<Findings> {
    let mut clippy = cargo::command();
    clippy.args(["clippy", "--quiet", "--all-targets"]).args(cargo::HOST_PACKAGES).args(["--", "-D", "warnings"]);
    by_cargo(&mut clippy, "no lint may be open")
}

/// The layouts that kernel and user space share against the file that fixes them.
fn abi() -> Result<Findings> {
    let mut test = cargo::command();
    test.args(["test", "--quiet"]).args(cargo::HOST_PACKAGES).args(["--test", "abi"]);
    by_cargo(
        &mut test,
        "the ABI test does not pass; if a shared layout is meant to change, its golden file and the pins' version change too",
    )
}

fn docs() -> Result<Findings> {
    let mut doc = cargo::command();
    doc.args(["doc", "--quiet", "--no-deps", "-p", "sgp-common", "-p", "sgp-agent"]).env("RUSTDOCFLAGS", "-Dwarnings");
    by_cargo(&mut doc, "documentation has errors")
}

/// All of a failing cargo's output is the finding: a lint without its place helps nobody.
fn by_cargo(cargo: &mut Command, advice: &str) -> Result<Findings> {
    let output = command::output(cargo)?;
    let finding = || format!("{advice}\n{}", command::printed(&output).trim_end());
    Ok((!output.status.success()).then(finding).into_iter().collect())
}
