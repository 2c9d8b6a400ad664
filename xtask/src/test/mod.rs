//! `cargo xtask test`: every check and every test, and one line that sums them up.

mod results;

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result};

use crate::build::{self, cargo};
use crate::progress::command;
use crate::setup::{self, Part};
use crate::{check, dev};
use results::Results;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                everything; the last line is `N passed, N failed`
  cargo xtask test killed         only checks and tests with `killed` in their name
  cargo xtask test --no-cluster   without the local cluster: no control plane, no EC2 emulator")]
pub(crate) struct Args {
    /// Only checks and tests whose name contains this
    #[arg(default_value = "")]
    filter: String,
    /// Leave out the tests that need the local cluster
    #[arg(long)]
    no_cluster: bool,
}

/// Runs `cargo xtask test`; what fails does not keep the rest from running.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    dev::need_root("test")?;
    let mut results = Results::default();
    prepare(args, &mut results);
    part("cargo test", &mut cargo_test(&args.filter), &mut results);
    if !args.no_cluster {
        part("sgp-dev test", &mut cluster_test(&args.filter), &mut results);
    }
    if results == Results::default() {
        results.broke("filter", &format!("no check or test has `{}` in its name", args.filter));
    }
    println!("{results}");
    Ok(if results.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds and checks while setup provides what the tests need.
fn prepare(args: &Args, results: &mut Results) {
    let parts: &[Part] = if args.no_cluster { &[Part::Tools] } else { &[Part::Tools, Part::Cluster] };
    thread::scope(|scope| {
        let arriving = scope.spawn(|| setup::ensure(parts));
        note(results, "build", build::everything(false));
        let (passed, failed) = check::all(&args.filter);
        results.passed += passed;
        results.failed += failed;
        note(results, "setup", arriving.join().unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked, see above"))));
    });
}

fn note(results: &mut Results, part: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        println!("{part} failed: {error:#}");
        let why = format!("{error:#}");
        results.broke(part, why.lines().next().unwrap_or_default());
    }
}

fn cargo_test(filter: &str) -> Command {
    let mut test = cargo::command();
    test.args(["test", "--no-fail-fast"]).args(cargo::HOST_PACKAGES).args(named(filter));
    test.env("SGP_TEST_ROOT", "1");
    test
}

fn cluster_test(filter: &str) -> Command {
    let mut test = dev::program();
    test.arg("test").args(named(filter));
    test
}

/// The filter as an argument, unless there is none.
fn named(filter: &str) -> Option<&str> {
    Some(filter).filter(|filter| !filter.is_empty())
}

/// Runs a part of the tests, adding up what it prints. One that ends in failure without a failed test is itself one.
fn part(name: &str, test: &mut Command, results: &mut Results) {
    println!("\n{name}: {}", command::shown(test));
    let failed_before = results.failed;
    match streamed(test, results) {
        Ok(status) if !status.success() && results.failed == failed_before => {
            results.broke(name, &format!("it ended with {status} and no failed test"));
        }
        Ok(_) => {}
        Err(error) => note(results, name, Err(error)),
    }
}

/// Shows a program's output line by line as it comes, and reads the results in it.
fn streamed(test: &mut Command, results: &mut Results) -> Result<ExitStatus> {
    let start = test.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = start.with_context(|| format!("`{}` cannot be started; was it built?", command::shown(test)))?;
    let output = child.stdout.take().context("the standard output of a test is not piped")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("the output of a test cannot be read")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        results.read(&line);
    }
    child.wait().with_context(|| format!("`{}` was lost", command::shown(test)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results_of(script: &str) -> Results {
        let mut results = Results::default();
        part("part", Command::new("sh").args(["-c", script]), &mut results);
        results
    }

    #[test]
    fn a_part_is_counted_by_the_lines_it_prints() {
        let results = results_of("echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; exit 101");
        assert_eq!((results.passed, results.failed), (2, 1));
    }

    #[test]
    fn a_part_that_fails_without_a_failed_test_is_a_failure() {
        assert_eq!(results_of("echo 'test result: ok. 2 passed; 0 failed'; exit 101").failed, 1);
        assert!(results_of("true").all_passed());
    }

    #[test]
    fn a_part_that_cannot_start_is_a_failure() {
        let mut results = Results::default();
        part("part", &mut Command::new("no-such-program"), &mut results);
        assert_eq!(results.failed, 1);
    }
}
