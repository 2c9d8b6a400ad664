//! `cargo xtask test`: every check and every test, and one line that sums them up.

mod results;
mod room;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::str::FromStr;
use std::thread;

use anyhow::{Context, Result};

use crate::build::{self, cargo};
use crate::progress::command;
use crate::setup::kernels::{self, Series};
use crate::setup::{self, Part};
use crate::{check, dev, vm};
pub(crate) use results::Results;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test                everything; the last line is `N passed, N failed`
  cargo xtask test killed         only checks and tests with `killed` in their name
  cargo xtask test --no-cluster   without the local cluster: no control plane, no EC2 emulator
  cargo xtask test --no-vm        only on this machine's kernel
  cargo xtask test --kernel 6.1   only what needs a kernel, on Linux 6.1 in a VM; also 6.12, 6.18, latest, all")]
pub(crate) struct Args {
    /// Only checks and tests whose name contains this
    #[arg(default_value = "")]
    filter: String,
    /// Leave out the tests that need the local cluster
    #[arg(long)]
    no_cluster: bool,
    /// Leave out the VMs with other kernels
    #[arg(long)]
    no_vm: bool,
    /// Run the tests that need a kernel, and no others, on this one in a VM
    #[arg(long, value_name = "SERIES", conflicts_with_all = ["no_vm", "no_cluster"])]
    kernel: Vec<Kernels>,
}

/// One kernel, or all that are supported.
#[derive(Clone, Debug)]
struct Kernels(Vec<Series>);

/// What `--kernel all` stands for: each that is in wide use, and the newest.
const ALL_KERNELS: [&str; 4] = ["6.1", "6.12", "6.18", "latest"];

impl FromStr for Kernels {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = if text == "all" { ALL_KERNELS.to_vec() } else { vec![text] };
        names.into_iter().map(str::parse).collect::<Result<_>>().map(Kernels)
    }
}

impl Args {
    /// The kernels to boot.
    fn kernels(&self) -> Vec<Series> {
        let default: &[Series] = if self.no_vm { &[] } else { &kernels::DEFAULT };
        match self.is_only_vm() {
            true => self.kernel.iter().flat_map(|kernels| kernels.0.clone()).collect(),
            false => default.to_vec(),
        }
    }

    /// Whether nothing is to run on this machine's kernel.
    fn is_only_vm(&self) -> bool {
        !self.kernel.is_empty()
    }

    fn parts(&self) -> Vec<Part> {
        let (cluster, vm) = (!self.no_cluster && !self.is_only_vm(), !self.no_vm);
        // A kernel that is asked for is provided when its turn comes.
        let kernels = vm && !self.is_only_vm();
        let here = !self.is_only_vm();
        let wanted = [
            (Part::Tools, true),
            (Part::Cluster, cluster),
            (Part::Vm, vm),
            (Part::Kernels, kernels),
            (Part::Deploy, here),
        ];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(part, _)| part).collect()
    }
}

/// Runs `cargo xtask test`; what fails does not keep the rest from running.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    dev::need_root("test")?;
    let mut results = Results::default();
    room::warn();
    prepare(args, &mut results);
    let running = vm::start(&args.kernels(), named(&args.filter), args.is_only_vm());
    if !args.is_only_vm() {
        part("cargo test", &mut cargo_test(&args.filter), &mut results);
        if !knows_vlans() {
            part("with readers of deploy/", &mut deploy_test(&args.filter), &mut results);
        }
    }
    if !args.no_cluster && !args.is_only_vm() {
        part("sgp-dev test", &mut cluster_test(&args.filter), &mut results);
    }
    let outcome = running.map(|running| running.conclude(&mut results));
    note(&mut results, "VMs", outcome);
    if results.is_empty() {
        results.broke("filter", &format!("no check or test has `{}` in its name", args.filter));
    }
    if !results.all_passed() {
        room::blame(&mut results);
    }
    println!("{results}");
    Ok(if results.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds and checks while setup provides what the tests need.
fn prepare(args: &Args, results: &mut Results) {
    let parts = args.parts();
    thread::scope(|scope| {
        let arriving = scope.spawn(|| setup::ensure(&parts));
        note(results, "build", build::everything(false));
        if !args.is_only_vm() {
            let (passed, failed) = check::all(&args.filter);
            results.passed += passed;
            results.failed += failed;
        }
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
    let mut test = host_test(filter);
    if knows_vlans() {
        // Tests that are ignored wait for VLAN links, or for what reads deploy/.
        test.args(["--", "--include-ignored"]);
    }
    test
}

/// Those that wait for promtool, helm and hadolint, where the others wait for VMs with VLAN links.
fn deploy_test(filter: &str) -> Command {
    let mut test = host_test(filter);
    test.args(["--test", "monitoring", "--test", "chart", "--test", "deploy", "--", "--ignored"]);
    test
}

fn host_test(filter: &str) -> Command {
    let mut test = cargo::command();
    test.args(["test", "--no-fail-fast"]).args(cargo::HOST_PACKAGES).args(named(filter));
    let found = setup::found();
    let programs = [("PROMTOOL", found.promtool), ("HELM", found.helm), ("HADOLINT", found.hadolint)];
    test.env("SGP_TEST_ROOT", "1").envs(programs.into_iter().filter_map(|(name, program)| Some((name, program?))));
    test
}

/// Whether this machine's kernel has 8021q, or loads it now.
fn knows_vlans() -> bool {
    let loaded = || Path::new("/proc/net/vlan").exists();
    loaded() || (command::answer(Command::new("modprobe").arg("8021q")).is_some() && loaded())
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
