//! Sums up what test programs print.

use std::fmt;

/// How many tests passed and failed, and which parts did not get as far as counting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    pub(super) passed: usize,
    pub(super) failed: usize,
    broken: Vec<String>,
}

impl Results {
    /// Adds the counts of a line `test result: ok. N passed; M failed; …`; other lines count nothing.
    pub(super) fn read(&mut self, line: &str) {
        let Some((_, counts)) = line.trim().strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
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
    pub(super) fn broke(&mut self, part: &str, why: &str) {
        self.failed += 1;
        self.broken.push(format!("{part}: {why}"));
    }

    /// Whether nothing failed.
    pub(super) fn all_passed(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    fn a_part_that_broke_is_a_failure_and_is_told_before_the_last_line() {
        let mut results = Results { passed: 4, ..Results::default() };
        results.broke("cluster", "no control plane");
        assert_eq!(results.to_string(), "broken: cluster: no control plane\n4 passed, 1 failed");
    }
}
