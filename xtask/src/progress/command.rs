//! Running other programs: silent when they succeed, with the end of what they printed when they fail.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, iter};

use anyhow::{Context, Result, bail};

/// Enough for a compiler error or apt's complaint, little enough to still see which step it came from.
const TAIL_LINES: usize = 40;

/// Where administrators' programs are when the shell that started us is an ordinary user's.
const BEYOND_PATH: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Runs a program to its end; on failure the error carries the tail of its output.
pub(crate) fn quietly(command: &mut Command) -> Result<()> {
    let output = output(command)?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("`{}` failed ({}):\n{}", shown(command), output.status, tail(&printed(&output), TAIL_LINES)),
    }
}

/// Runs a program to its end without a terminal to ask questions on.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("`{}` cannot be started; is it installed?", shown(command)))
}

/// The trimmed standard output of a program that succeeded; none if it failed or is not there.
pub(crate) fn answer(command: &mut Command) -> Option<String> {
    let output = output(command).ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What a program printed, both streams.
pub(crate) fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream).into_owned()).concat()
}

/// The command line as one would type it, without its environment.
pub(crate) fn shown(command: &Command) -> String {
    let words = iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Finds a program on PATH or where administrators' programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_path().into_iter().map(|directory| directory.join(program)).find(|path| is_program(path))
}

/// The directories `find` looks into, in order.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(BEYOND_PATH.map(PathBuf::from)).collect()
}

/// Whether a file is there and may be executed.
pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_text_is_its_last_lines() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }

    #[test]
    fn a_failing_program_is_named_with_what_it_printed() {
        let error = quietly(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).err().map(|e| e.to_string());
        assert!(error.is_some_and(|text| text.contains("exit 3") && text.ends_with("reason")));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = quietly(&mut Command::new("no-such-program")).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("`no-such-program` cannot be started; is it installed?"));
    }
}
