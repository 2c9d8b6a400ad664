//! The agent's own speed: the benchmark `agent` of sgp-agent, and figures out of what it writes.

use std::fmt::Write as _;

use anyhow::Result;

use super::figures::median;
use crate::build::cargo;

/// A measure at a number of peers, as the benchmark writes it.
#[derive(serde::Deserialize, Clone, Debug)]
struct Samples {
    measure: String,
    peers: usize,
    unit: String,
    values: Vec<f64>,
}

/// What is said of it.
#[derive(serde::Serialize, Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) measure: String,
    /// Addresses whose groups are known.
    pub(super) peers: usize,
    pub(super) unit: String,
    pub(super) samples: usize,
    pub(super) median: f64,
    pub(super) least: f64,
    /// The 99th percentile; of fewer than a hundred samples the largest.
    pub(super) p99: f64,
}

/// Measure, what may not be exceeded, in the measure's unit and by its 99th percentile.
const TARGETS: [(&str, f64); 4] = [
    ("peer change to map", 10.0),
    ("rule edit to enforced, 1,000 rules", 50.0),
    ("CPU where nothing changes", 0.5),
    ("memory", 150.0),
];

/// Whether `--only` asks for the agent: there names begin so.
pub(super) fn is_all_of(only: &str) -> bool {
    only.starts_with("agent")
}

/// Measures everything, where nothing else is asked for.
pub(super) fn measure(only: &str, samples: usize) -> Result<Vec<Figure>> {
    if !only.is_empty() && !is_all_of(only) {
        return Ok(Vec::new());
    }
    let out = super::directory()?.join("agent.json");
    // Of the profile `bench`, which is optimised: this is about the agent's own code, not the kernel's.
    let mut bench = cargo::command();
    bench.args(["bench", "--quiet"]).args(cargo::HOST_PACKAGES).args(["--bench", "agent", "--"]);
    bench.arg("--out").arg(&out).args(["--samples", &samples.to_string()]);
    let samples: Vec<Samples> = super::written("agent", &mut bench, &out)?;
    Ok(samples.into_iter().map(Samples::figure).collect())
}

impl Samples {
    fn figure(self) -> Figure {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        Figure {
            samples: sorted.len(),
            median: median(&sorted),
            least: sorted.first().copied().unwrap_or(f64::NAN),
            p99: sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN),
            measure: self.measure,
            peers: self.peers,
            unit: self.unit,
        }
    }
}

/// What is meant, and whether it is kept.
fn held(figure: &Figure) -> (String, &'static str) {
    match TARGETS.iter().find(|(measure, _)| figure.measure == *measure) {
        Some((_, most)) if figure.p99 <= *most => (format!("<= {most} {}", figure.unit), "yes"),
        Some((_, most)) => (format!("<= {most} {}", figure.unit), "**no**"),
        None => (String::new(), ""),
    }
}

/// As a table of Markdown, which people read as it is, too.
pub(super) fn table(figures: &[Figure]) -> String {
    let mut text =
        "| the agent | peers | median | least | p99 | samples | meant | kept |\n|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for figure in figures {
        let Figure { measure, peers, unit, samples, median, least, p99 } = figure;
        let (meant, kept) = held(figure);
        let _ = writeln!(
            text,
            "| {measure} | {peers} | {median:.2} {unit} | {least:.2} | {p99:.2} | {samples} | {meant} | {kept} |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_held_by_the_99th_percentile() {
        let of = |slow: usize| {
            let values = (0..200).map(|n| if n < slow { 11.0 } else { 1.0 }).collect();
            Samples { measure: "peer change to map".into(), peers: 5, unit: "ms".into(), values }.figure()
        };
        assert_eq!((of(2).p99, of(3).p99, of(3).median), (1.0, 11.0, 1.0));
        assert!(table(&[of(2)]).ends_with("| 200 | <= 10 ms | yes |\n"));
        assert!(table(&[of(3)]).contains("**no**"));
    }
}
