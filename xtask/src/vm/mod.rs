//! The tests that need a kernel, on other kernels than this machine's: each boots in a VM of its own.

mod initramfs;
mod qemu;

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::build::cargo;
use crate::progress::{command, spoken};
use crate::setup::kernels::{self, Kernel, Series};
use crate::test::Results;
use initramfs::Content;
use qemu::Told;

/// A test program that needs a kernel has one of these: a node to put packets through, or the CNI plugin at work.
const NEED_KERNEL: [&str; 2] = ["\nmod node;\n", "\nmod plugin;\n"];
/// Those that have a module of that name and need none: a node in virtual time, and what reads what any node exports.
const NEED_NONE: [&str; 2] = ["crash", "monitoring"];
/// What test programs read besides.
const DATA: [&str; 1] = ["sgp-agent/examples"];
/// Emulated machines are some ten times slower: worlds of `kernel_oracle`, and connections that `snat` opens.
const FEWER: [&str; 2] = ["SGP_TEST_WORLDS=5", "SGP_TEST_CONNECTIONS=1000"];

/// Test programs whose time is told.
const SLOWEST: usize = 5;

/// A machine about to boot.
struct Machine {
    kernel: Kernel,
    image: PathBuf,
    archive: PathBuf,
}

/// What came out of one.
struct Heard {
    lines: Vec<String>,
    ended: Vec<Ended>,
    took: Duration,
    outcome: Result<()>,
}

/// A test program that has run: its name, its exit code, and how long after the one before.
struct Ended {
    test: String,
    code: i32,
    took: Duration,
}

/// VMs that are at work, while other tests are.
pub(crate) struct Running(Vec<(Kernel, JoinHandle<Heard>)>);

/// Starts the tests on the newest kernel of each series, side by side. What they print is shown as it comes if `aloud`,
/// and otherwise when each VM is done: it would make other tests' output unreadable.
///
/// # Errors
/// Where there is no such kernel, or no test program.
pub(crate) fn start(series: &[Series], filter: Option<&str>, aloud: bool) -> Result<Running> {
    if series.is_empty() {
        return Ok(Running(Vec::new()));
    }
    ensure!(cfg!(target_arch = "x86_64"), "test VMs are x86-64, as their test programs would have to be; use --no-vm");
    let kernels: Vec<Kernel> = series.iter().map(|series| kernels::provide(*series)).collect::<Result<_>>()?;
    let mut content = content(filter)?;
    content.tests.retain(|(_, program)| filter.is_none_or(|filter| has_test(program, filter)));
    if content.tests.is_empty() {
        println!("\nVMs: no test that needs a kernel is named so");
        return Ok(Running(Vec::new()));
    }
    let machines: Vec<Machine> = kernels.into_iter().map(|kernel| machine(kernel, &content)).collect::<Result<_>>()?;
    let releases: Vec<&str> = machines.iter().map(|machine| machine.kernel.release.as_str()).collect();
    println!("\n{} test programs in VMs (qemu, emulated): Linux {}", content.tests.len(), releases.join(", "));
    let begin = |machine: Machine| (machine.kernel.clone(), thread::spawn(move || run(&machine, aloud)));
    Ok(Running(machines.into_iter().map(begin).collect()))
}

impl Running {
    /// Waits for the VMs, and adds up what they printed.
    pub(crate) fn conclude(self, results: &mut Results) {
        for (kernel, running) in self.0 {
            conclude(&kernel, running.join().unwrap_or_else(|_| Heard::nothing()), results);
        }
    }
}

fn machine(kernel: Kernel, content: &Content) -> Result<Machine> {
    let directory = cargo::root().join("target/vm");
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let archive = directory.join(format!("{}.cpio", kernel.release));
    let image = initramfs::build(&kernel, content, &archive)?;
    Ok(Machine { kernel, image, archive })
}

fn run(machine: &Machine, aloud: bool) -> Heard {
    let (begun, release) = (Instant::now(), &machine.kernel.release);
    let mut heard = Heard::nothing();
    heard.outcome = qemu::boot(&machine.image, &machine.archive, &mut |told| match told {
        Told::Line(line) => {
            if aloud {
                println!("{release}: {line}");
            }
            heard.lines.push(line.to_owned());
        }
        Told::Ended(test, code) => {
            let before: Duration = heard.ended.iter().map(|ended| ended.took).sum();
            heard.ended.push(Ended { test: test.to_owned(), code, took: begun.elapsed().saturating_sub(before) });
        }
    });
    heard.took = begun.elapsed();
    if !aloud {
        heard.lines.iter().for_each(|line| println!("{release}: {line}"));
    }
    // Some hundred megabytes, made in seconds.
    drop(fs::remove_file(&machine.archive));
    heard
}

impl Heard {
    fn nothing() -> Self {
        let outcome = Err(anyhow!("the thread that watched the VM panicked"));
        Self { lines: Vec::new(), ended: Vec::new(), took: Duration::ZERO, outcome }
    }
}

fn conclude(kernel: &Kernel, heard: Heard, results: &mut Results) {
    let before = (results.passed, results.failed);
    heard.lines.iter().for_each(|line| results.read(line));
    let name = format!("Linux {}", kernel.release);
    // 101 is how a test program says that tests failed, which have been counted.
    for Ended { test, code, .. } in heard.ended.iter().filter(|ended| ![0, 101].contains(&ended.code)) {
        results.broke(&name, &format!("{test} ended with {code}"));
    }
    if let Err(error) = heard.outcome {
        println!("{name}: {error:#}");
        results.broke(&name, format!("{error:#}").lines().next().unwrap_or_default());
    }
    let (passed, failed) = (results.passed - before.0, results.failed - before.1);
    let slowest = slowest(heard.ended);
    results.tell(format!("{name}: {passed} passed, {failed} failed, {}{slowest}", spoken(heard.took)));
}

/// Where a VM's time went, for who wants the run shorter.
fn slowest(mut ended: Vec<Ended>) -> String {
    ended.sort_by_key(|ended| Reverse(ended.took));
    let told = |Ended { test, took, .. }: &Ended| format!(", {test} {}", spoken(*took));
    ended.iter().take(SLOWEST).map(told).collect()
}

/// The test programs of this build that need a kernel, and what they need besides. They are the ones that run on this
/// machine too, with the libraries they are linked to: nothing is compiled a second time for VMs.
fn content(filter: Option<&str>) -> Result<Content> {
    let mut build = cargo::command();
    build.args(["test", "--no-run", "--message-format=json"]).args(cargo::HOST_PACKAGES);
    let built = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let built = built.with_context(|| format!("`{}` cannot be started", command::shown(&build)))?;
    ensure!(built.status.success(), "`{}` failed; what it printed is above", command::shown(&build));
    // A VM has 8021q, which is what ignored tests wait for.
    let arguments: Vec<String> = filter.into_iter().chain(["--include-ignored"]).map(str::to_owned).collect();
    let messages = String::from_utf8_lossy(&built.stdout);
    let needed = messages.lines().filter_map(program).filter(|(name, source, _)| {
        let needs_none = NEED_NONE.contains(&name.as_str());
        !needs_none && needs_kernel(source)
    });
    let tests: Vec<(String, PathBuf)> = needed.map(|(name, _, program)| (name, program)).collect();
    ensure!(!tests.is_empty(), "no test program needs a kernel: have its modules {NEED_KERNEL:?} moved?");
    let data = DATA.iter().map(|path| cargo::root().join(path)).collect();
    let environment = FEWER.map(str::to_owned).to_vec();
    // Tests know it by this path.
    let agent = cargo::debug_directory().join("sgp-agent");
    Ok(Content { tests, arguments, environment, agent, data })
}

/// Name, source and program of a test program, from one of cargo's messages.
fn program(message: &str) -> Option<(String, PathBuf, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let program = message["executable"].as_str().filter(|_| is_test)?;
    Some((target["name"].as_str()?.to_owned(), target["src_path"].as_str()?.into(), program.into()))
}

/// Whether a test program has a test whose name contains the filter.
fn has_test(program: &Path, filter: &str) -> bool {
    let listed = command::answer(Command::new(program).args(["--list", "--format", "terse", filter]));
    listed.is_some_and(|tests| !tests.is_empty())
}

fn needs_kernel(source: &Path) -> bool {
    fs::read_to_string(source).is_ok_and(|source| NEED_KERNEL.iter().any(|module| source.contains(module)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_programs_are_told_first() {
        let ended = |test: &str, seconds| Ended { test: test.into(), code: 0, took: Duration::from_secs(seconds) };
        assert_eq!(slowest(vec![ended("snat", 30), ended("limits", 70)]), ", limits 1 min 10 s, snat 30 s");
    }

    #[test]
    fn test_programs_are_told_from_everything_else_that_cargo_builds() {
        let message = |kind: &str, executable: &str| {
            format!(r#"{{"target":{{"kind":["{kind}"],"name":"a","src_path":"/a.rs"}},"executable":{executable}}}"#)
        };
        let found = program(&message("test", "\"/target/a-1\""));
        assert_eq!(found, Some(("a".into(), "/a.rs".into(), "/target/a-1".into())));
        assert_eq!(program(&message("lib", "\"/target/a-1\"")), None);
        assert_eq!(program(&message("test", "null")), None);
    }
}
