//! What the agent counts of its own work, in Prometheus's terms. AWS's names where its controller has the same metric
//! (facts 1.9); OpenMetrics adds `_total` to its counters.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::domain::branches::{CloudStep, Purpose};
use crate::domain::failure::Failure;

/// Labels of one time series.
pub type Labels = Vec<(&'static str, String)>;

/// The one label of a look at EC2: several Describe calls, counted as one.
const LOOK: &str = "Describe";

/// Everything the agent counts itself; what the data path counts stands in its maps (`pinned`).
pub struct Metrics {
    registry: Registry,
    rounds: Family<Labels, Counter>,
    round_seconds: Histogram,
    synced: Gauge<f64, AtomicU64>,
    described: Gauge<f64, AtomicU64>,
    answered: Gauge<f64, AtomicU64>,
    refused: Gauge,
    members: Gauge,
    slices: Gauge,
    published: Gauge<f64, AtomicU64>,
    peers_written: Counter,
    calls: Family<Labels, Counter>,
    call_errors: Family<Labels, Counter>,
    branch_latency: Family<Labels, Histogram>,
    branch_errors: Family<Labels, Counter>,
    trunk_errors: Family<Labels, Counter>,
    associated: Counter,
    not_associated: Counter,
}

/// Since 1970.
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn milliseconds() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            rounds: Family::default(),
            round_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            synced: Gauge::default(),
            described: Gauge::default(),
            answered: Gauge::default(),
            refused: Gauge::default(),
            members: Gauge::default(),
            slices: Gauge::default(),
            published: Gauge::default(),
            peers_written: Counter::default(),
            calls: Family::default(),
            call_errors: Family::default(),
            branch_latency: Family::new_with_constructor(milliseconds),
            branch_errors: Family::default(),
            trunk_errors: Family::default(),
            associated: Counter::default(),
            not_associated: Counter::default(),
        };
        metrics.register_rounds();
        metrics.register_cloud();
        metrics.register_members();
        metrics
    }
}

impl Metrics {
    fn register_rounds(&mut self) {
        let info: Family<Labels, Gauge> = Family::default();
        info.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        let registry = &mut self.registry;
        registry.register("sgp_build_info", "The agent's version", info);
        registry.register("sgp_rounds", "Rounds of reconciliation, by outcome", self.rounds.clone());
        let help = "Seconds that a round took which left the kernel as desired";
        registry.register("sgp_round_duration_seconds", help, self.round_seconds.clone());
        let help = "Unix time of the last round that left the kernel as desired";
        registry.register("sgp_last_sync_timestamp_seconds", help, self.synced.clone());
        let help = "Unix time at which EC2 was asked what it last answered";
        registry.register("sgp_ec2_last_answer_timestamp_seconds", help, self.described.clone());
        let help = "Unix time of the API server's last answer";
        registry.register("sgp_kubernetes_last_answer_timestamp_seconds", help, self.answered.clone());
        registry.register("sgp_refused", "Objects that cannot be had as asked for now", self.refused.clone());
    }

    fn register_members(&mut self) {
        let registry = &mut self.registry;
        let help = "Addresses whose groups the controller publishes";
        registry.register("sgp_membership_addresses", help, self.members.clone());
        registry.register("sgp_membership_slices", "Slices that the controller publishes", self.slices.clone());
        let help = "Unix time of the last sign that somebody looks after the slices";
        registry.register("sgp_membership_last_heard_timestamp_seconds", help, self.published.clone());
        let help = "Peers written because of a slice, without a round";
        registry.register("sgp_membership_peer_writes", help, self.peers_written.clone());
    }

    fn register_cloud(&mut self) {
        let registry = &mut self.registry;
        registry.register("ec2_api_req_count", "Requests to EC2, by operation", self.calls.clone());
        registry.register("ec2_api_err_count", "Requests to EC2 that failed, by code", self.call_errors.clone());
        let help = "Milliseconds that a step for a branch or the trunk took";
        registry.register("branch_provider_operation_latency", help, self.branch_latency.clone());
        let help = "Steps for branches that failed";
        registry.register("branch_provider_operations_err_count", help, self.branch_errors.clone());
        let help = "Steps for the trunk that failed";
        registry.register("trunk_eni_operations_err_count", help, self.trunk_errors.clone());
        let help = "Branches that were associated with the trunk";
        registry.register("branch_eni_opeartions_success_count", help, self.associated.clone());
        let help = "Associations with the trunk that failed";
        registry.register("branch_eni_opeartions_failure_count", help, self.not_associated.clone());
    }

    /// Exports one more source.
    pub fn add(&mut self, collector: impl Collector) {
        self.registry.register_collector(Box::new(collector));
    }

    /// A round ended; `None` if it failed.
    pub fn round(&self, took: Option<Duration>, refused: usize) {
        let outcome = if took.is_some() { "ok" } else { "failed" };
        self.rounds.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
        if let Some(took) = took {
            self.round_seconds.observe(took.as_secs_f64());
            self.synced.set(unix_time().as_secs_f64());
            self.refused.set(refused.try_into().unwrap_or(i64::MAX));
        }
    }

    /// When the API server answered last, if it ever did.
    pub fn heard_of_kubernetes(&self, answered: Option<Instant>) {
        if let Some(at) = answered {
            self.answered.set(unix_time().saturating_sub(at.elapsed()).as_secs_f64());
        }
    }

    /// What is published, and when somebody who looks after it was heard.
    pub fn members(&self, slices: usize, addresses: usize, heard: Option<Instant>) {
        self.slices.set(slices.try_into().unwrap_or(i64::MAX));
        self.members.set(addresses.try_into().unwrap_or(i64::MAX));
        if let Some(at) = heard {
            self.published.set(unix_time().saturating_sub(at.elapsed()).as_secs_f64());
        }
    }

    /// Peers went into the kernel without a round.
    pub fn peers_written(&self, count: usize) {
        self.peers_written.inc_by(count.try_into().unwrap_or(u64::MAX));
    }

    /// EC2 was looked at.
    pub fn looked<T, E>(&self, outcome: &Result<T, E>) {
        self.call(LOOK, outcome.is_ok(), "");
        if outcome.is_ok() {
            self.described.set(unix_time().as_secs_f64());
        }
    }

    fn call(&self, operation: &str, succeeded: bool, code: &str) {
        let operation = ("operation", operation.to_owned());
        self.calls.get_or_create(&vec![operation.clone()]).inc();
        if !succeeded {
            let code = if code.is_empty() { "none" } else { code };
            self.call_errors.get_or_create(&vec![operation, ("code", code.to_owned())]).inc();
        }
    }

    /// A step beside the loop ended.
    pub fn step(&self, step: &CloudStep, failure: Option<&Failure>, took: Duration) {
        if let Some(action) = step.action() {
            self.call(action, failure.is_none(), failure.map_or("", |failure| &failure.code));
        }
        let operation = step.operation().to_owned();
        let labels = vec![("branch_provider_operation", operation.clone()), ("resource_count", "1".to_owned())];
        self.branch_latency.get_or_create(&labels).observe(took.as_secs_f64() * 1000.0);
        let errors = if step.purpose() == Purpose::Node { &self.trunk_errors } else { &self.branch_errors };
        if failure.is_some() {
            errors.get_or_create(&vec![("operation", operation)]).inc();
        }
        match (step, failure) {
            (CloudStep::Associate { .. }, None) => self.associated.inc(),
            (CloudStep::Associate { .. }, Some(_)) => self.not_associated.inc(),
            _ => 0,
        };
    }

    /// All of it, as Prometheus reads it.
    ///
    /// # Errors
    /// Where a collector fails.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
