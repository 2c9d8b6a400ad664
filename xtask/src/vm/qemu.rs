//! Booting a test VM, and reading from its console how far it came.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A VM that says nothing for so long hangs. Its slowest test takes a minute on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_mins(10);
/// Enough of the console to see why a kernel did not come up.
const TAIL_LINES: usize = 30;
/// What a kernel begins to say when it dies (`lib/bug.c`, `arch/x86/mm/fault.c`, `kernel/panic.c`).
const OMENS: [&str; 5] = ["BUG: ", "Oops: ", "general protection", "Kernel panic", "kernel BUG at"];
/// Enough of what follows an omen to have its registers and both traces, from the interrupt and from what it interrupted.
const LAST_WORDS: usize = 120;

/// What a line on the console says.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    /// The kernel is up: what follows is worth showing.
    Up,
    /// A test program starts.
    Begin(&'a str),
    /// A test program ended with this code.
    End(&'a str, i32),
    /// Something could not be prepared.
    Broke(&'a str),
    /// All test programs have run.
    Done,
    /// Anything else.
    Other,
}

fn said(line: &str) -> Said<'_> {
    let Some(told) = line.strip_prefix("vm: ") else { return Said::Other };
    match told.split_once(' ') {
        None if told == "done" => Said::Done,
        Some(("up", _)) => Said::Up,
        Some(("begin", test)) => Said::Begin(test),
        Some(("broke", what)) => Said::Broke(what),
        Some(("end", rest)) => match rest.split_once(' ').map(|(test, code)| (test, code.parse())) {
            Some((test, Ok(code))) => Said::End(test, code),
            _ => Said::Other,
        },
        _ => Said::Other,
    }
}

/// Boots `image` with `archive`, hands `each` what test programs print and, after each program, its name and exit code.
///
/// # Errors
/// Says how far it came, where it did not come to its end; what ran until then was handed over.
pub(super) fn boot(image: &Path, archive: &Path, each: &mut dyn FnMut(Told<'_>)) -> Result<()> {
    let mut qemu = Machine(command(image, archive).spawn().context("qemu-system-x86_64 cannot be started")?);
    let console = qemu.0.stdout.take().context("the console is not piped")?;
    let (sender, lines) = channel();
    // Ends with the console, which ends with the VM.
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    follow(&lines, PATIENCE, each)
}

/// What is handed on from the console.
pub(super) enum Told<'a> {
    /// A line of a test program.
    Line(&'a str),
    /// A test program has ended.
    Ended(&'a str, i32),
}

fn command(image: &Path, archive: &Path) -> Command {
    // Other tests run meanwhile, and theirs are the deadlines: a VM has what time they leave.
    let mut qemu = Command::new("chrt");
    qemu.args(["--idle", "0", "qemu-system-x86_64"]);
    // KVM is not asked for: where it cannot be used, guests may hang instead of failing.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-nic", "none"]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(archive);
    // An emulated timer that comes late on a busy machine is none that a kernel need give up over.
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    qemu
}

/// A VM that is not left behind.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Gone already, where all went well.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn follow(lines: &Receiver<String>, patience: Duration, each: &mut dyn FnMut(Told<'_>)) -> Result<()> {
    let mut console = Vec::new();
    let (mut up, mut current) = (false, "the kernel".to_owned());
    loop {
        let line = match lines.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                bail!("the VM was killed after {} s of silence, in {current}", patience.as_secs())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the VM ended in {current}; the end of its console:\n{}", tail(&console))
            }
        };
        match said(&line) {
            Said::Up => up = true,
            Said::Begin(test) => current = test.to_owned(),
            Said::End(test, code) => each(Told::Ended(test, code)),
            Said::Broke(what) => bail!("in the VM: {what} failed"),
            Said::Done => return Ok(()),
            Said::Other if up => each(Told::Line(&line)),
            Said::Other => {}
        }
        console.push(line);
    }
}

/// The end of the console; where the kernel died, from the first word of that.
fn tail(lines: &[String]) -> String {
    let omen = lines.iter().position(|line| OMENS.iter().any(|omen| line.contains(omen)));
    let from = omen.unwrap_or(usize::MAX).min(lines.len().saturating_sub(TAIL_LINES));
    lines[from..].iter().take(LAST_WORDS).map(String::as_str).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(console: &[&str]) -> (Result<()>, Vec<String>) {
        let (sender, lines) = channel();
        console.iter().for_each(|line| drop(sender.send((*line).to_owned())));
        drop(sender);
        let mut told = Vec::new();
        let result = follow(&lines, Duration::from_secs(1), &mut |it| {
            told.push(match it {
                Told::Line(line) => line.to_owned(),
                Told::Ended(test, code) => format!("{test}={code}"),
            });
        });
        (result, told)
    }

    #[test]
    fn what_tests_print_is_handed_on_and_what_the_firmware_prints_is_not() {
        let console = ["SeaBIOS", "vm: up 6.1", "vm: begin a", "test result: ok.", "vm: end a 0", "vm: done"];
        let (result, told) = followed(&console);
        assert!(result.is_ok());
        assert_eq!(told, ["test result: ok.", "a=0"]);
    }

    #[test]
    fn a_vm_that_dies_says_where() {
        let (result, told) = followed(&["vm: up 6.1", "vm: begin a", "Kernel panic"]);
        let error = result.map_err(|error| error.to_string()).expect_err("it fails");
        assert!(error.contains("ended in a") && error.ends_with("Kernel panic"), "{error}");
        assert_eq!(told, ["Kernel panic"]);
    }

    #[test]
    fn a_kernel_that_dies_is_quoted_from_its_first_word() {
        let rest = (0..TAIL_LINES).map(|number| format!("RAX: {number}"));
        let console: Vec<_> =
            ["vm: up 7.3", "fine", "BUG: unable to handle"].map(str::to_owned).into_iter().chain(rest).collect();
        assert!(tail(&console).starts_with("BUG: unable to handle\nRAX: 0"));
        assert!(tail(&console[..2]).ends_with("fine"));
    }

    #[test]
    fn a_vm_that_hangs_is_given_up() {
        let (sender, lines) = channel();
        sender.send("vm: up 6.1".to_owned()).expect("somebody listens");
        let result = follow(&lines, Duration::from_millis(10), &mut |_| {});
        assert!(result.is_err_and(|error| error.to_string().contains("killed after")));
    }
}
