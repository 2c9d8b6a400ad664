//! `policy show`: a compiled policy, rule by rule, read back from the kernel's own trie.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use sgp_common::limits::POLICY_KEYS_MAX;
use sgp_common::policy::RuleKey;
use sgp_common::{Direction, Family};

use super::flows::{is_live, monotonic_ns, rule_key};
use super::view::{View, table};
use crate::domain::groups::GroupSetId;
use crate::domain::readback::{Key, Row, rows};
use crate::io::kernel::maps::{Maps, digest, policy_name};
use crate::io::telemetry::direction;

/// What can be done with policies.
#[derive(Subcommand)]
pub(super) enum Policy {
    /// The rules that judge a pod, as the kernel holds them
    #[command(
        after_help = "Examples:\n  sgp-agent policy show shop/cart-0\n  sgp-agent policy show shop/cart-0 -o wide\n  sgp-agent policy show shop/cart-0 --json"
    )]
    Show(Shown),
}

/// Whose policy.
#[derive(clap::Args)]
pub(super) struct Shown {
    /// The pod, as NAMESPACE/NAME
    pod: String,
    #[command(flatten)]
    view: View,
}

/// A rule, by the words of `aws ec2 describe-security-group-rules`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    index: u16,
    direction: &'static str,
    family: &'static str,
    rule_id: String,
    group_id: String,
    service: Vec<String>,
    remote: Vec<String>,
    /// Live flows that it let in.
    flows: u64,
    /// Their packets, both ways.
    packets: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    policy: String,
    group_set: String,
    digest: String,
    keys: usize,
    keys_limit: u32,
    rules: Vec<Rule>,
}

pub(super) fn print(shown: &Shown) -> Result<()> {
    let maps = shown.view.maps()?;
    let id = maps.endpoint_of(&shown.pod)?;
    let endpoint = maps.endpoints.get(&id.0, 0).with_context(|| format!("reading the endpoint of {}", shown.pod))?;
    let set = GroupSetId(endpoint.group_set);
    let trie =
        maps.policy(set).with_context(|| format!("pod {} has no policy installed: all its packets drop", shown.pod))?;
    let keys: Vec<Key> =
        trie.iter().flatten().map(|(key, answer)| (key.prefix_len(), key.data(), answer.rules)).collect();
    let policy_digest = digest(&trie);
    let hits = hits(&maps, policy_digest)?;
    let shape = Shape {
        policy: policy_name(set),
        group_set: maps.set_name(set),
        digest: format!("{policy_digest:016x}"),
        keys: keys.len(),
        keys_limit: POLICY_KEYS_MAX,
        rules: rows(&keys).into_iter().map(|row| named(&maps, policy_digest, row, &hits)).collect(),
    };
    let wide = shown.view.is_wide();
    shown.view.one(&shape, |shape| text(shape, if wide { 9 } else { 6 }))
}

/// Live flows and their packets, by the rule that let them in.
fn hits(maps: &Maps, policy_digest: u64) -> Result<BTreeMap<RuleKey, (u64, u64)>> {
    let now_ns = monotonic_ns()?;
    let mut hits: BTreeMap<RuleKey, (u64, u64)> = BTreeMap::new();
    for (key, flow) in maps.flows.iter().flatten().filter(|(_, flow)| flow.policy_digest == policy_digest) {
        if is_live(maps, &key, &flow, now_ns) {
            let hit = hits.entry(rule_key(&key, &flow)).or_default();
            *hit = (hit.0 + 1, hit.1 + flow.packets_in + flow.packets_out);
        }
    }
    Ok(hits)
}

fn named(maps: &Maps, policy_digest: u64, row: Row, hits: &BTreeMap<RuleKey, (u64, u64)>) -> Rule {
    let key =
        RuleKey { policy_digest, rule: row.index, direction: row.direction, family: row.family, reserved: [0; 4] };
    let (rule_id, group_id) = maps.rule_name(&key).unwrap_or_else(|| ("-".into(), "-".into()));
    let (flows, packets) = hits.get(&key).copied().unwrap_or_default();
    Rule {
        index: row.index,
        direction: direction(row.direction),
        family: if row.family == Family::V4 { "IPv4" } else { "IPv6" },
        rule_id,
        group_id,
        service: row.service,
        remote: row.remote.into_iter().map(|remote| by_groups(maps, remote)).collect(),
        flows,
        packets,
    }
}

/// A group set's groups in the place of its id, where they are known here.
fn by_groups(maps: &Maps, remote: String) -> String {
    let set = remote.strip_prefix("set ").and_then(|id| u64::from_str_radix(id, 16).ok());
    set.map_or(remote, |set| maps.set_name(GroupSetId(set)))
}

fn text(shape: &Shape, columns: usize) -> String {
    let rules = |way: Direction| shape.rules.iter().filter(move |rule| rule.direction == direction(way)).count();
    let mut text = format!(
        "policy {} of {}: {} inbound and {} outbound rules, {} of {} keys\n",
        shape.policy,
        shape.group_set,
        rules(Direction::Inbound),
        rules(Direction::Outbound),
        shape.keys,
        shape.keys_limit
    );
    let header = ["DIRECTION", "RULE", "GROUP", "SERVICE", "REMOTE", "FLOWS", "FAMILY", "#", "PACKETS"];
    let cells = shape.rules.iter().map(|rule| {
        let all = [
            rule.direction.to_owned(),
            rule.rule_id.clone(),
            rule.group_id.clone(),
            rule.service.join(","),
            rule.remote.join(","),
            rule.flows.to_string(),
            rule.family.to_owned(),
            rule.index.to_string(),
            rule.packets.to_string(),
        ];
        all.into_iter().take(columns).collect::<Vec<_>>()
    });
    let _ = write!(text, "{}", table(&header[..columns], cells));
    text
}
