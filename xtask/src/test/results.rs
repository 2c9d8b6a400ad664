//! Sums up what test programs print.

use std::collections::BTreeMap;
use std::fmt;

/// Words of lines that tests want to see repeated at the end: what the kernel's verifier had to do, how often and where the
/// agent died, and what became of packets during upgrades.
const WORTH_REPEATING: [&str; 3] = ["verifier: ", " crash points", "upgrade: "];

/// How many tests passed and failed, and which parts did not get as far as counting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Results {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    broken: Vec<String>,
    /// Names of failed tests, in the order in which they failed: a long run's output hides them.
    fallen: Vec<String>,
    told: Vec<String>,
    /// Tests that were left out everywhere, each with the reason it gives.
    not_run: BTreeMap<String, String>,
}

impl Results {
    /// Adds the counts of a line `test result: ok. N passed; M failed; …`; other lines count nothing. Notes which tests
    /// were ignored, until one of that name is run after all.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim();
        if WORTH_REPEATING.iter().any(|words| line.contains(words)) {
            self.tell(line.to_owned());
        }
        if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            if outcome.starts_with("FAILED") {
                self.fallen.push(name.to_owned());
            }
            match outcome.strip_prefix("ignored") {
                Some(reason) => drop(self.not_run.insert(name.to_owned(), reason.trim_start_matches(", ").to_owned())),
                None => drop(self.not_run.remove(name)),
            }
        }
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(number, what)| (number.parse::<usize>(), what)) {
                Some((Ok(number), "passed")) => self.passed += number,
                Some((Ok(number), "failed")) => self.failed += number,
                _ => {}
            }
        }
    }

    /// Counts a part that could not run to its end as one failure, and remembers why.
    pub(crate) fn broke(&mut self, part: &str, why: &str) {
        self.failed += 1;
        self.broken.push(format!("{part}: {why}"));
    }

    /// Remembers a line to print before the last one.
    pub(crate) fn tell(&mut self, line: String) {
        self.told.push(line);
    }

    /// Whether nothing has run.
    pub(crate) fn is_empty(&self) -> bool {
        self.passed + self.failed == 0
    }

    /// Whether nothing failed.
    pub(crate) fn all_passed(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.told {
            writeln!(f, "{line}")?;
        }
        for (name, reason) in &self.not_run {
            writeln!(f, "not run: {name} ({reason})")?;
        }
        for name in &self.fallen {
            writeln!(f, "failed: {name}")?;
        }
        for part in &self.broken {
            writeln!(f, "broken: {part}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed_up_and_others_are_not() {
        let mut results = Results::default();
        let lines = [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 9 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 3.20s",
            "test result: nonsense",
        ];
        lines.iter().for_each(|line| results.read(line));
        assert_eq!((results.passed, results.failed), (12, 2));
        assert!(!results.all_passed());
    }

    #[test]
    fn a_test_that_is_ignored_here_and_run_elsewhere_is_not_told_as_left_out() {
        let mut results = Results::default();
        ["test a ... ignored, needs 8021q", "test b ... ignored, needs 8021q", "test a ... ok", "verifier: to_pod 7"]
            .iter()
            .for_each(|line| results.read(line));
        results.read("700 crash points: pairs");
        let told = "verifier: to_pod 7\n700 crash points: pairs\nnot run: b (needs 8021q)\n0 passed, 0 failed";
        assert_eq!(results.to_string(), told);
    }

    #[test]
    fn tests_that_failed_are_named_again_before_the_last_line() {
        let mut results = Results::default();
        ["test a ... ok", "test b ... FAILED (3.0 s)", "test result: FAILED. 1 passed; 1 failed; 0 ignored"]
            .iter()
            .for_each(|line| results.read(line));
        assert_eq!(results.to_string(), "failed: b\n1 passed, 1 failed");
    }

    #[test]
    fn a_part_that_broke_is_a_failure_and_is_told_before_the_last_line() {
        let mut results = Results { passed: 4, ..Results::default() };
        results.broke("cluster", "no control plane");
        assert_eq!(results.to_string(), "broken: cluster: no control plane\n4 passed, 1 failed");
    }
}
