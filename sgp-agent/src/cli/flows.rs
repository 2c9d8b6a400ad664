//! `flows`: tracked conversations, each with the rule that let it in.

use anyhow::Result;
use serde::Serialize;
use sgp_common::Family;
use sgp_common::flow::{Flow, FlowKey};
use sgp_common::policy::RuleKey;

use super::view::Target;
use crate::domain::groups::EndpointId;
use crate::io::kernel::maps::Maps;
use crate::io::telemetry::{address, direction};

/// One flow, as people and scripts see it.
#[derive(Serialize)]
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
        }
    }
}

fn rule_key(key: &FlowKey, flow: &Flow) -> RuleKey {
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

pub(super) fn print(target: &Target) -> Result<()> {
    let (maps, now_ns) = (target.view.maps()?, monotonic_ns()?);
    let only = target.pod.as_deref().map(|pod| maps.endpoint_of(pod)).transpose()?;
    let live = |(key, flow): &(FlowKey, Flow)| is_live(&maps, key, flow, now_ns);
    let wanted = |(key, _): &(FlowKey, Flow)| only.is_none_or(|only| only.0 == key.endpoint);
    let flows = maps.flows.iter().flatten().filter(live).filter(wanted);
    let rows: Vec<Row> = flows.map(|(key, flow)| Row::of(&maps, &key, &flow, now_ns)).collect();
    let header = ["POD", "OPENED", "PROTO", "LOCAL", "REMOTE", "STATE", "IDLE", "IN", "OUT", "RULE", "GROUP"];
    target.view.rows(&header, &rows, |row| {
        vec![
            row.pod.clone(),
            row.opened.to_owned(),
            row.protocol.to_string(),
            row.local.clone(),
            row.remote.clone(),
            row.state.clone(),
            format!("{}s", row.idle_seconds),
            row.packets_in.to_string(),
            row.packets_out.to_string(),
            row.rule_id.clone().unwrap_or_else(|| "-".into()),
            row.group_id.clone().unwrap_or_else(|| "-".into()),
        ]
    })
}
