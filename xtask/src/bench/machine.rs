//! Where a run took place.

use std::fs;
use std::process::Command;

use crate::progress::command;

/// What a figure depends on beside the programs.
#[derive(serde::Serialize, Clone, Debug)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) processors: usize,
    pub(super) kernel: String,
    /// What the kernel does against the processor's own leaks: each return of a function may cost.
    pub(super) mitigations: String,
    /// How many programs wanted to run, on average of the last minute before.
    pub(super) load: String,
    pub(super) revision: String,
    pub(super) date: String,
}

impl Machine {
    pub(super) fn here() -> Self {
        let answer =
            |program: &str, args: &[&str]| command::answer(Command::new(program).args(args)).unwrap_or_default();
        let load = read("/proc/loadavg");
        Self {
            processor: processor(&read("/proc/cpuinfo")),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease"),
            mitigations: ["spec_rstack_overflow", "spectre_v2"]
                .map(|name| format!("{name}: {}", read(&format!("/sys/devices/system/cpu/vulnerabilities/{name}"))))
                .join("; "),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            revision: answer("git", &["-c", "safe.directory=*", "describe", "--always", "--dirty"]).trim().to_owned(),
            date: answer("date", &["-u", "+%Y-%m-%d"]).trim().to_owned(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn processor(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or("unknown", |(_, name)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_called_what_it_calls_itself() {
        assert_eq!(processor("processor\t: 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC");
        assert_eq!(processor(""), "unknown");
    }
}
