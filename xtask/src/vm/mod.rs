//! The tests that need a kernel, on other kernels than this machine's: each boots in a VM of its own.

mod initramfs;
mod qemu;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build::cargo;
use crate::progress::{command, spoken};
use crate::setup::kernels::{self, Series};
use crate::test::Results;
use initramfs::Test;
use qemu::Told;

/// A test program that puts packets through a kernel says so in its source: it has a node.
const NEEDS_KERNEL: &str = "\nmod node;\n";

/// Runs the tests on the newest kernel of a series and adds up what they print.
///
/// # Errors
/// Where there is no such kernel, or its VM does not come to its end.
pub(crate) fn test(series: Series, filter: Option<&str>, results: &mut Results) -> Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "test VMs are x86-64, as their test programs would have to be; use --no-vm");
    let kernel = kernels::provide(series)?;
    let tests = programs(filter)?;
    let directory = cargo::root().join("target/vm");
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let archive = directory.join(format!("{}.cpio", kernel.release));
    let image = initramfs::build(&kernel, &tests, &archive)?;
    println!("\nLinux {}: {} test programs in a VM (qemu, emulated)", kernel.release, tests.len());
    let (begun, before) = (Instant::now(), (results.passed, results.failed));
    let booted = qemu::boot(&image, &archive, &mut |told| hear(&told, results));
    let (passed, failed) = (results.passed - before.0, results.failed - before.1);
    results.tell(format!("Linux {}: {passed} passed, {failed} failed, {}", kernel.release, spoken(begun.elapsed())));
    // Some hundred megabytes, made in seconds.
    drop(fs::remove_file(&archive));
    booted.with_context(|| format!("Linux {}", kernel.release))
}

fn hear(told: &Told<'_>, results: &mut Results) {
    match told {
        Told::Line(line) => {
            println!("{line}");
            results.read(line);
        }
        // 101 is how a test program says that tests failed, which have been counted.
        Told::Ended(_, 0 | 101) => {}
        Told::Ended(test, code) => results.broke(test, &format!("it ended with {code} in the VM")),
    }
}

/// The test programs of this build that need a kernel. They are the ones that run on this machine too, with the
/// libraries they are linked to: nothing is compiled a second time for VMs.
fn programs(filter: Option<&str>) -> Result<Vec<Test>> {
    let mut build = cargo::command();
    build.args(["test", "--no-run", "--message-format=json"]).args(cargo::HOST_PACKAGES);
    let built = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let built = built.with_context(|| format!("`{}` cannot be started", command::shown(&build)))?;
    ensure!(built.status.success(), "`{}` failed; what it printed is above", command::shown(&build));
    // A VM has 8021q, which is what ignored tests wait for.
    let arguments = || filter.into_iter().chain(["--include-ignored"]).map(str::to_owned).collect();
    let tests = String::from_utf8_lossy(&built.stdout).lines().filter_map(program).collect::<Vec<_>>();
    let tests = tests.into_iter().filter(|(_, source, _)| needs_kernel(source));
    let tests: Vec<Test> = tests.map(|(name, _, program)| Test { name, program, arguments: arguments() }).collect();
    ensure!(!tests.is_empty(), "no test program has a node: has `{}` moved?", NEEDS_KERNEL.trim());
    Ok(tests)
}

/// Name, source and program of a test program, from one of cargo's messages.
fn program(message: &str) -> Option<(String, PathBuf, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    let is_test = target["kind"].as_array()?.iter().any(|kind| kind == "test");
    let program = message["executable"].as_str().filter(|_| is_test)?;
    Some((target["name"].as_str()?.to_owned(), target["src_path"].as_str()?.into(), program.into()))
}

fn needs_kernel(source: &Path) -> bool {
    fs::read_to_string(source).is_ok_and(|source| source.contains(NEEDS_KERNEL))
}

#[cfg(test)]
mod tests {
    use super::*;

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
