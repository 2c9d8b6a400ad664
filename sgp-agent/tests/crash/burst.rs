//! Many pods at once, in virtual time: our planner and dispatcher beside AWS's controller (`aws.rs`), before one
//! modelled EC2.
//!
//! Modelled, not measured: how long a call takes (`latency`), and EC2's throttling as AWS documents it for actions
//! that change something: 50 at once and 5 a second, each action by itself, for the whole account.

use std::collections::BTreeMap;
use std::time::Duration;

use sgp_agent::domain::branches::BranchSettings;
use sgp_agent::domain::failure::Failure;

use crate::aws;
use crate::mishaps::{Effect, Fault, Mishaps, Scope};
use crate::sim::Sim;
use crate::tell;

/// Tokens of each action.
pub(crate) struct Buckets {
    size: f64,
    per_second: f64,
    left: BTreeMap<&'static str, (f64, Duration)>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self::new(50.0, 5.0)
    }
}

impl Buckets {
    pub(crate) fn new(size: f64, per_second: f64) -> Self {
        Self { size, per_second, left: BTreeMap::new() }
    }

    /// Whether a call passes. Calls are asked about in the order of their times, more or less.
    pub(crate) fn take(&mut self, action: &'static str, now: Duration) -> bool {
        let (left, since) = self.left.get(action).copied().unwrap_or((self.size, now));
        let left = (left + now.saturating_sub(since).as_secs_f64() * self.per_second).min(self.size);
        let passes = left >= 1.0;
        self.left.insert(action, (if passes { left - 1.0 } else { left }, now.max(since)));
        passes
    }
}

/// How long a call takes, and what EC2 says to too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Always the same, and never too many.
    Even,
    /// As `burst.rs` models EC2.
    Modelled,
}

/// What EC2 says to too many.
pub(crate) fn throttled() -> Fault {
    let failure = Failure::of("RequestLimitExceeded", 503, "Request limit exceeded.");
    Fault { from: 0, scope: Scope::Kind, lasting: Duration::ZERO, failure, effect: Effect::None }
}

/// How long a call takes: a mean for each action, and up to a third more or less.
pub(crate) fn latency(action: Option<&str>, number: usize) -> Duration {
    let mean_ms: u64 = match action {
        Some("CreateNetworkInterface") => 700,
        Some("AssociateTrunkInterface" | "DisassociateTrunkInterface") => 500,
        Some("DeleteNetworkInterface") => 400,
        Some(_) => 300,
        None => 20,
    };
    let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    Duration::from_millis(mean_ms * 2 / 3 + spread * mean_ms * 2 / 3 / (1 << 32))
}

/// What a run comes to.
pub(crate) struct Outcome {
    /// When the last pod had its annotation, from when all were created.
    pub(crate) last: Duration,
    /// EC2 calls that change something, from then on.
    pub(crate) calls: usize,
    /// Of these, throttled ones.
    pub(crate) throttled: usize,
}

/// `count` pods at once, on a node that carries as many branches; `ready` of them stand already.
fn ours(count: u32, ready: u32) -> Outcome {
    let settings =
        BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, minimum: ready, ..BranchSettings::default() };
    let mut sim = Sim::new(settings, count, Mishaps::default());
    sim.pace = Pace::Modelled;
    sim.run_to_rest().expect("the pool is filled");
    let (begun, asked) = (sim.now, sim.asked.len());
    for number in 0..count {
        sim.node.create(&format!("a-{number}"));
    }
    sim.run_to_rest().expect("all have their branches");
    assert_eq!(sim.annotated.len(), count as usize);
    outcome(&sim, begun, asked)
}

fn outcome(sim: &Sim, begun: Duration, asked: usize) -> Outcome {
    let last = sim.annotated.values().max().copied().unwrap_or_default() - begun;
    let until = begun + last;
    let calls = sim.asked[asked..].iter().filter(|(at, step)| *at <= until && step.action().is_some()).count();
    Outcome { last, calls, throttled: sim.throttled }
}

/// Nine pods on a full m5.large are replaced by nine new ones at once.
fn ours_replaced() -> Outcome {
    let settings = BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, ..BranchSettings::default() };
    let mut sim = Sim::new(settings, 9, Mishaps::default());
    sim.pace = Pace::Modelled;
    for number in 0..9 {
        sim.node.create(&format!("a-{number}"));
    }
    sim.run_to_rest().expect("nine run");
    let (begun, asked) = (sim.now, sim.asked.len());
    for number in 0..9 {
        sim.node.delete(&format!("a-{number}"));
        sim.node.create(&format!("b-{number}"));
    }
    sim.run_to_rest().expect("nine others run");
    assert_eq!(sim.annotated.len(), 18);
    outcome(&sim, begun, asked)
}

fn row(what: &str, pods: u32, outcome: &Outcome) -> Outcome {
    let (last, calls) = (outcome.last.as_secs_f64(), outcome.calls as f64 / f64::from(pods));
    tell(&format!("  {what:<58} {last:>7.1} s  {calls:>5.2} calls a pod  {:>3} throttled", outcome.throttled));
    Outcome { ..*outcome }
}

#[test]
fn a_burst_of_pods_has_its_branches_sooner_and_by_fewer_calls_than_by_awss_algorithm() {
    tell("time to the last annotated pod (virtual; latency and throttling are modelled)");
    for pods in [10, 50, 120] {
        let aws = row(&format!("{pods} pods at once, AWS's algorithm"), pods, &aws::burst(pods));
        let cold = row(&format!("{pods} pods at once, cold"), pods, &ours(pods, 0));
        let warm = row(&format!("{pods} pods at once, {pods} warm"), pods, &ours(pods, pods));
        assert!(cold.last < aws.last && warm.last <= cold.last, "{pods} pods");
        assert!(cold.calls < aws.calls && warm.calls < aws.calls, "{pods} pods");
    }
    let aws = row("a full m5.large: 9 pods replaced at once, AWS's algorithm", 9, &aws::replaced());
    let reused = row("a full m5.large: 9 pods replaced at once", 9, &ours_replaced());
    assert!(reused.last < aws.last);
    // The cool-down, and two calls side by side.
    assert!(reused.last < Duration::from_secs(62), "{:?}", reused.last);
}

#[test]
fn a_pod_waits_for_no_more_than_it_must() {
    // One call's time where a branch is warm, two where it is not; and what the dispatcher adds.
    let (warm, cold) = (ours(1, 1), ours(1, 0));
    tell(&format!(
        "one pod: warm after {:?} and {} calls, cold after {:?} and {} calls",
        warm.last, warm.calls, cold.last, cold.calls
    ));
    assert!(warm.last < Duration::from_millis(700) && warm.calls == 2, "{:?}, {} calls", warm.last, warm.calls);
    assert!(cold.last < Duration::from_millis(2000) && cold.calls == 2, "{:?}, {} calls", cold.last, cold.calls);
}
