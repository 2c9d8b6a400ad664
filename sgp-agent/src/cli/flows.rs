//! `flows`: tracked conversations, each with the rule that let it in.

use std::io::IsTerminal;
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sgp_common::Family;
use sgp_common::flow::{Flow, FlowKey, Tracking};
use sgp_common::policy::RuleKey;

use super::view::Target;
use crate::domain::groups::{EndpointId, protocol_name};
use crate::io::kernel::maps::Maps;
use crate::io::telemetry::{address, direction};

/// One flow, as people and scripts see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pod: String,
    opened: &'static str,
    protocol: u8,
    local: String,
    remote: String,
    state: String,
    idle_seconds: u64,
    packets_in: u64,
    packets_out: u64,
    bytes_in: u64,
    bytes_out: u64,
    rule_id: Option<String>,
    group_id: Option<String>,
    /// The pod or group set at the other end.
    peer: Option<String>,
    /// Whether it outlives its rule, as EC2 would have it.
    tracked: bool,
    /// Its port under the node's address; 0 if it keeps its own.
    nat_port: u16,
}

impl Row {
    /// With names in the place of numbers.
    pub(super) fn of(maps: &Maps, key: &FlowKey, flow: &Flow, now_ns: u64) -> Self {
        let rule = maps.rule_name(&rule_key(key, flow));
        let (rule_id, group_id) = rule.unzip();
        Self {
            pod: maps.pod_name(EndpointId(key.endpoint)),
            opened: direction(flow.opened),
            protocol: key.protocol,
            local: format!("{}:{}", address(&key.local_addr), key.local_port),
            remote: format!("{}:{}", address(&key.remote_addr), key.remote_port),
            state: format!("{:?}", flow.state),
            idle_seconds: now_ns.saturating_sub(flow.last_seen_ns) / 1_000_000_000,
            packets_in: flow.packets_in,
            packets_out: flow.packets_out,
            bytes_in: flow.bytes_in,
            bytes_out: flow.bytes_out,
            rule_id,
            group_id,
            peer: maps.peer_name(&key.remote_addr),
            tracked: flow.tracking == Tracking::Tracked,
            nat_port: flow.nat_port,
        }
    }

    /// In one line.
    pub(super) fn sentence(&self) -> String {
        let rule = self.rule_id.as_deref().unwrap_or("no rule");
        let tracked = if self.tracked { "tracked" } else { "untracked" };
        format!(
            "{} -> {} {} for {} s idle, {tracked}, by {rule}",
            self.local, self.remote, self.state, self.idle_seconds
        )
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let yes_or_no = if self.tracked { "yes" } else { "no" };
        vec![
            self.pod.clone(),
            self.opened.to_owned(),
            protocol_name(self.protocol),
            self.local.clone(),
            self.remote.clone(),
            or_dash(&self.peer),
            self.state.clone(),
            format!("{}s", self.idle_seconds),
            or_dash(&self.rule_id),
            or_dash(&self.group_id),
            yes_or_no.to_owned(),
            if self.nat_port == 0 { "-".into() } else { self.nat_port.to_string() },
            self.packets_in.to_string(),
            self.packets_out.to_string(),
            self.bytes_in.to_string(),
            self.bytes_out.to_string(),
        ]
    }
}

/// The rule that let a flow in.
pub(super) fn rule_key(key: &FlowKey, flow: &Flow) -> RuleKey {
    let family = if address(&key.remote_addr).is_ipv4() { Family::V4 } else { Family::V6 };
    RuleKey { policy_digest: flow.policy_digest, rule: flow.rule, direction: flow.opened, family, reserved: [0; 4] }
}

/// The clock of `last_seen_ns`.
///
/// # Errors
/// Never, on Linux.
pub(super) fn monotonic_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs())
}

/// Whether a packet of this flow would still pass by it. A flow of no endpoint is over.
pub(super) fn is_live(maps: &Maps, key: &FlowKey, flow: &Flow, now_ns: u64) -> bool {
    let endpoint = maps.endpoints.get(&key.endpoint, 0);
    endpoint.is_ok_and(|endpoint| !flow.expired(key, &endpoint.timeouts, now_ns))
}

/// Whose flows, and whether to go on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  sgp-agent flows
  sgp-agent flows --pod shop/cart-0 -o wide
  sgp-agent flows --watch 1")]
pub(super) struct Watched {
    /// Print them anew every so many seconds
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<NonZeroU16>,
    #[command(flatten)]
    target: Target,
}

/// Once, or until a signal ends it.
pub(super) fn print(watched: &Watched) -> Result<()> {
    let Some(every) = watched.watch else { return once(&watched.target) };
    loop {
        if std::io::stdout().is_terminal() {
            // Home, and what was below is gone (ECMA-48).
            print!("\x1b[H\x1b[2J");
        }
        once(&watched.target)?;
        std::thread::sleep(Duration::from_secs(every.get().into()));
    }
}

fn once(target: &Target) -> Result<()> {
    let (maps, now_ns) = (target.view.maps()?, monotonic_ns()?);
    let only = target.pod.as_deref().map(|pod| maps.endpoint_of(pod)).transpose()?;
    let live = |(key, flow): &(FlowKey, Flow)| is_live(&maps, key, flow, now_ns);
    let wanted = |(key, _): &(FlowKey, Flow)| only.is_none_or(|only| only.0 == key.endpoint);
    let flows = maps.flows.iter().flatten().filter(live).filter(wanted);
    let mut rows: Vec<Row> = flows.map(|(key, flow)| Row::of(&maps, &key, &flow, now_ns)).collect();
    rows.sort_by(|a, b| (&a.pod, &a.remote, &a.local).cmp(&(&b.pod, &b.remote, &b.local)));
    let header = ["POD", "OPENED", "PROTO", "LOCAL", "REMOTE", "PEER", "STATE", "IDLE", "RULE"];
    let more = ["GROUP", "TRACKED", "NAT PORT", "IN", "OUT", "BYTES IN", "BYTES OUT"];
    target.view.wide_rows((&header, &more), &rows, Row::cells)
}
