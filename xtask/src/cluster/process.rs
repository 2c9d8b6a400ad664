//! Processes of a cluster: started in a session of their own, logged to a file, found again by their environment.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::place::Place;

/// Every process of a cluster carries this variable.
const MARK: &str = "SGP_DEV_CLUSTER";

/// Runs a command to its end; its words are the error's if it fails.
pub(crate) fn finish(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {shown}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} ended with {}: {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A command inside a network namespace; files, cgroups and processes are those of the machine.
pub(crate) fn within(netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg(program);
    command
}

/// Starts a process that outlives this one; gives its id.
pub(crate) fn daemon(place: &Place, name: &str, command: &mut Command) -> Result<u32> {
    let log = log_file(&place.dir().join("logs"), name)?;
    let child = prepared(place, command).stdout(log.try_clone()?).stderr(log).spawn();
    let child = child.with_context(|| format!("starting {name}"))?;
    fs::write(place.dir().join(format!("{name}.pid")), child.id().to_string()).context("writing a pid file")?;
    Ok(child.id())
}

/// The cluster's environment, no input, and a session that a Ctrl-C at the terminal does not reach.
pub(crate) fn prepared<'a>(place: &Place, command: &'a mut Command) -> &'a mut Command {
    command.envs(place.environment()).env(MARK, &place.name).stdin(Stdio::null());
    // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(std::io::Error::from)) }
}

/// A log file, written from its end.
pub(crate) fn log_file(dir: &Path, name: &str) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(format!("{name}.log"));
    let opened = File::options().create(true).append(true).open(&path);
    opened.with_context(|| format!("opening {}", path.display()))
}

/// Ends every process of a cluster: politely, then not.
pub(crate) fn end_all(cluster: &str) {
    for (signal, patience) in [(Signal::SIGTERM, 3), (Signal::SIGKILL, 5)] {
        let begun = Instant::now();
        let mut left = of_cluster(cluster);
        for pid in &left {
            // It may have ended by itself.
            let _ = kill(*pid, signal);
        }
        while !left.is_empty() && begun.elapsed() < Duration::from_secs(patience) {
            std::thread::sleep(Duration::from_millis(50));
            left = of_cluster(cluster);
        }
    }
}

/// Processes whose environment names the cluster, or that are in one of its network namespaces: some, nginx
/// among them, write their title over their environment. This one excepted.
fn of_cluster(cluster: &str) -> Vec<Pid> {
    let (wanted, spaces) = (format!("{MARK}={cluster}"), namespaces(cluster));
    let marked = |pid: &Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let named = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        named || inode(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|space| spaces.contains(&space))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| *pid != Pid::this()).filter(marked).collect()
}

/// Network namespaces of a cluster, as inode numbers.
fn namespaces(cluster: &str) -> Vec<u64> {
    let begin = format!("sgp-{cluster}-");
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&begin));
    ours.filter_map(|entry| inode(&entry.path())).collect()
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| std::os::unix::fs::MetadataExt::ino(&found))
}
