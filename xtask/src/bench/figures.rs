//! From samples to figures.

use std::collections::BTreeMap;

/// A case and its samples, as the benchmark writes them: nanoseconds a packet, one for each round.
#[derive(serde::Deserialize, Clone, Debug)]
pub(super) struct Samples {
    pub(super) case: String,
    pub(super) floor: Option<String>,
    pub(super) ns: Vec<f64>,
}

/// What is said of a case.
#[derive(serde::Serialize, Clone, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) case: String,
    /// Of its samples.
    pub(super) median_ns: f64,
    pub(super) least_ns: f64,
    pub(super) most_ns: f64,
    /// The case it is held against, and how many times its cost this one's is: the median of the rounds' ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) floor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
}

/// The figures of all cases. A round's sample is held against the same round's floor, since noise comes and goes.
pub(super) fn figures(all: Vec<Samples>) -> Vec<Figure> {
    let by_name: BTreeMap<String, Vec<f64>> =
        all.iter().map(|samples| (samples.case.clone(), samples.ns.clone())).collect();
    let figure = |samples: Samples| {
        let ratio = samples.floor.as_ref().and_then(|floor| ratio(&samples.ns, by_name.get(floor)?));
        Figure {
            median_ns: median(&samples.ns),
            least_ns: samples.ns.iter().copied().fold(f64::INFINITY, f64::min),
            most_ns: samples.ns.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            case: samples.case,
            floor: samples.floor,
            ratio,
        }
    };
    all.into_iter().map(figure).collect()
}

/// The median of the ratios of samples that were taken one after the other; `None` where a floor is too small to divide by.
pub(super) fn ratio(above: &[f64], below: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
    (below.iter().all(|ns| *ns >= 5.0) && !ratios.is_empty()).then(|| median(&ratios))
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(case: &str, floor: Option<&str>, ns: &[f64]) -> Samples {
        Samples { case: case.into(), floor: floor.map(str::to_owned), ns: ns.into() }
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two() {
        assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])], [2.0, 2.5]);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_case_is_held_against_its_floor_round_by_round() {
        let all =
            figures(vec![samples("f", None, &[10.0, 100.0, 10.0]), samples("c", Some("f"), &[20.0, 200.0, 40.0])]);
        assert_eq!((all[0].ratio, all[1].ratio), (None, Some(2.0)));
        assert_eq!((all[1].least_ns, all[1].median_ns, all[1].most_ns), (20.0, 40.0, 200.0));
    }

    #[test]
    fn nothing_is_divided_by_a_floor_of_nothing() {
        let all = figures(vec![samples("f", None, &[1.0]), samples("c", Some("f"), &[20.0])]);
        assert_eq!(all[1].ratio, None);
    }
}
