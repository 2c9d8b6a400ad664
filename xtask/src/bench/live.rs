//! Live traffic through nodes: the benchmark `live` of sgp-agent, and figures out of what it writes.

use anyhow::Result;

use super::figures::median;
use crate::build::cargo;

/// A configuration and a measure, as the benchmark writes them; a value for each round.
#[derive(serde::Deserialize, Clone, Debug)]
pub(super) struct Samples {
    configuration: String,
    measure: String,
    unit: String,
    values: Vec<f64>,
    /// Of plain forwarding, each taken beside the value of the same round.
    plain: Vec<f64>,
}

/// What is said of them.
#[derive(serde::Serialize, Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) configuration: String,
    pub(super) measure: String,
    /// Median, a second.
    pub(super) median: f64,
    /// Median of plain forwarding beside it.
    pub(super) plain_median: f64,
    /// Of what a second has so many.
    pub(super) unit: String,
    /// Median of the rounds' ratios to plain forwarding, and the least and the most of them; above 1 is faster.
    pub(super) ratio: f64,
    pub(super) least_ratio: f64,
    pub(super) most_ratio: f64,
}

/// Whether `--only` asks for something live: there names begin so.
pub(super) fn is_all_of(only: &str) -> bool {
    only.starts_with("live")
}

/// Measures all whose name, which begins with `live`, contains this.
pub(super) fn measure(only: &str, rounds: usize, turns: usize) -> Result<Vec<Figure>> {
    let (floor, out) = (cargo::root().join("target/bpf/floor.bpf.o"), super::directory()?.join("live.json"));
    let mut bench = cargo::command();
    bench.args(["bench", "--quiet", "--profile", "dev"]).args(cargo::HOST_PACKAGES).args(["--bench", "live", "--"]);
    bench.arg("--floor").arg(floor).arg("--out").arg(&out).args(["--only", only]);
    bench.args(["--rounds", &rounds.to_string(), "--turns", &turns.to_string()]);
    let samples: Vec<Samples> = super::written("live", &mut bench, &out)?;
    Ok(samples.into_iter().map(Samples::figure).collect())
}

impl Samples {
    /// A round's value is held against the same round's plain forwarding, since noise comes and goes.
    fn figure(self) -> Figure {
        let ratios: Vec<f64> = self.values.iter().zip(&self.plain).map(|(value, plain)| value / plain).collect();
        Figure {
            median: median(&self.values),
            plain_median: median(&self.plain),
            ratio: median(&ratios),
            least_ratio: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            most_ratio: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            configuration: self.configuration,
            measure: self.measure,
            unit: self.unit,
        }
    }
}

impl Figure {
    /// `0.83`, and `0.80-0.86` for the spread.
    pub(super) fn shown(&self) -> [String; 2] {
        [format!("{:.2}", self.ratio), format!("{:.2}-{:.2}", self.least_ratio, self.most_ratio)]
    }

    /// `845 k packets`: a second.
    pub(super) fn rate(&self) -> String {
        let (value, scale) = match self.median {
            median if median >= 1e9 => (median / 1e9, "G "),
            median if median >= 1e6 => (median / 1e6, "M "),
            median => (median / 1e3, "k "),
        };
        let digits = if value < 10.0 {
            2
        } else if value < 100.0 {
            1
        } else {
            0
        };
        format!("{value:.digits$} {scale}{}", self.unit)
    }
}

/// Names in the order in which they first come.
pub(super) fn distinct<'a>(figures: &'a [Figure], name: impl Fn(&'a Figure) -> &'a str) -> Vec<&'a str> {
    figures.iter().map(name).fold(Vec::new(), |mut all, name| {
        if !all.contains(&name) {
            all.push(name);
        }
        all
    })
}

/// A figure of this measure: for tests.
#[cfg(test)]
pub(super) fn sample(measure: &str) -> Figure {
    let samples = Samples {
        configuration: "c".into(),
        measure: measure.into(),
        unit: "packets".into(),
        values: vec![50.0, 900.0, 110.0],
        plain: vec![100.0, 1000.0, 100.0],
    };
    samples.figure()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_held_against_plain_forwarding_of_its_own_round() {
        let figure = sample("m");
        assert_eq!((figure.least_ratio, figure.ratio, figure.most_ratio), (0.5, 0.9, 1.1));
        assert_eq!((figure.median, figure.plain_median), (110.0, 100.0));
        assert_eq!(figure.shown(), ["0.90", "0.50-1.10"]);
    }

    #[test]
    fn rates_are_short_enough_to_read() {
        let rate = |median: f64| Figure { median, ..sample("m") }.rate();
        let all = [845_123.0, 1_655_413.0, 14_906.0].map(rate);
        assert_eq!(all, ["845 k packets", "1.66 M packets", "14.9 k packets"]);
    }

    #[test]
    fn names_stand_in_the_order_of_the_run() {
        let all = ["b", "a", "b"].map(sample);
        assert_eq!(distinct(&all, |figure| &figure.measure), ["b", "a"]);
    }
}
