//! What the data path is meant to cost, and whether it does.

use super::figures::Figure;
use super::live;

/// The most a case may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    /// Nanoseconds.
    Ns(f64),
    /// Times its floor.
    Floors(f64),
}

/// Cases by how their names begin, and the most they may cost.
const TARGETS: [(&str, Limit); 11] = [
    ("established, 1 flow", Limit::Ns(75.0)),
    ("established, 65536 flows", Limit::Floors(1.15)),
    ("established, 262144 flows", Limit::Floors(1.15)),
    ("new flow, 1 rule", Limit::Floors(1.25)),
    ("new flow, 60 rules", Limit::Floors(1.25)),
    ("new flow, 300 rules", Limit::Floors(1.25)),
    ("new flow, 1000 rules", Limit::Floors(1.25)),
    ("new flow, 10000 prefixes", Limit::Floors(1.6)),
    ("denied, 1 rule,", Limit::Ns(150.0)),
    ("denied, 1000 rules,", Limit::Ns(200.0)),
    ("from the driver: denied by XDP", Limit::Floors(0.5)),
];

/// What a case is meant to cost, if anything is said of it.
pub(super) fn of(figure: &Figure) -> Option<Limit> {
    TARGETS.into_iter().find(|(name, _)| figure.case.starts_with(name)).map(|(_, limit)| limit)
}

impl Limit {
    /// Whether a case keeps to it.
    pub(super) fn is_kept_by(self, figure: &Figure) -> bool {
        match self {
            Self::Ns(most) => figure.median_ns <= most,
            Self::Floors(most) => figure.ratio.is_some_and(|ratio| ratio <= most),
        }
    }

    /// `75 ns` or `1.15 x`.
    pub(super) fn shown(self) -> String {
        match self {
            Self::Ns(most) => format!("{most:.0} ns"),
            Self::Floors(most) => format!("{most} x"),
        }
    }
}

/// Measures of live traffic, and the least that ours are meant to reach of plain forwarding: in the VPC, and translated.
const LIVE_TARGETS: [(&str, [Option<f64>; 2]); 8] = [
    ("out, 1024 flows", [Some(1.15), Some(1.05)]),
    ("out, 65536 flows", [Some(0.95), Some(0.85)]),
    ("in, 1024 flows", [Some(1.35), None]),
    ("new flows", [Some(0.80), Some(0.50)]),
    ("TCP, 1 stream", [Some(0.97); 2]),
    ("TCP, 4 streams", [Some(0.97); 2]),
    ("connections", [Some(0.97); 2]),
    ("requests", [Some(1.0); 2]),
];

/// What a figure of live traffic is meant to be at least; nothing is said of others' configurations.
pub(super) fn least(figure: &live::Figure) -> Option<f64> {
    let ours = figure.configuration.strip_prefix("ours")?;
    let (_, least) = LIVE_TARGETS.into_iter().find(|(measure, _)| *measure == figure.measure)?;
    least[usize::from(ours.contains("SNAT"))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_traffic_of_ours_is_held_to_what_is_said_of_its_measure() {
        let least = |configuration: &str, measure: &str| {
            super::least(&live::Figure { configuration: configuration.into(), ..live::sample(measure) })
        };
        assert_eq!(least("ours, strict, 60 rules", "out, 1024 flows"), Some(1.15));
        assert_eq!(least("ours, standard, 60 rules, SNAT", "new flows"), Some(0.50));
        assert_eq!(least("ours, standard, 60 rules, SNAT", "in, 1024 flows"), None);
        assert_eq!(least("bare redirect", "requests"), None);
    }

    fn figure(case: &str, median_ns: f64, ratio: Option<f64>) -> Figure {
        Figure { case: case.into(), median_ns, least_ns: median_ns, most_ns: median_ns, floor: None, ratio }
    }

    #[test]
    fn a_case_is_held_to_what_is_said_of_it() {
        let limit = |case: &str| of(&figure(case, 0.0, None));
        assert_eq!(limit("established, 1 flow, in"), Some(Limit::Ns(75.0)));
        assert_eq!(limit("new flow, 1000 rules"), Some(Limit::Floors(1.25)));
        assert_eq!(limit("denied, 1000 rules, 1 sender"), Some(Limit::Ns(200.0)));
        assert_eq!(limit("floor: parse"), None);
    }

    #[test]
    fn a_limit_without_a_floor_is_not_kept() {
        assert!(Limit::Floors(1.2).is_kept_by(&figure("c", 9.0, Some(1.2))));
        assert!(!Limit::Floors(1.2).is_kept_by(&figure("c", 9.0, None)));
        assert!(!Limit::Ns(8.0).is_kept_by(&figure("c", 9.0, Some(1.0))));
    }
}
