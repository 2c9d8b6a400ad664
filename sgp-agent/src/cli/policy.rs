//! `policy show`: a compiled policy, rule by rule, read back from the kernel's own trie.

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use sgp_common::Family;
use sgp_common::policy::RuleKey;

use super::view::View;
use crate::domain::groups::GroupSetId;
use crate::domain::readback::{Key, Row, rows};
use crate::io::kernel::maps::{Maps, digest};
use crate::io::telemetry::direction;

/// What can be done with policies.
#[derive(Subcommand)]
pub(super) enum Policy {
    /// The rules that judge a pod, as the kernel holds them
    #[command(
        after_help = "Examples:\n  sgp-agent policy show shop/cart-0\n  sgp-agent policy show shop/cart-0 --json"
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
    let rules: Vec<Rule> = rows(&keys).into_iter().map(|row| named(&maps, policy_digest, row)).collect();
    shown.view.rows(&["DIRECTION", "FAMILY", "#", "RULE", "GROUP", "SERVICE", "REMOTE"], &rules, |rule| {
        vec![
            rule.direction.to_owned(),
            rule.family.to_owned(),
            rule.index.to_string(),
            rule.rule_id.clone(),
            rule.group_id.clone(),
            rule.service.join(","),
            rule.remote.join(","),
        ]
    })
}

fn named(maps: &Maps, policy_digest: u64, row: Row) -> Rule {
    let key =
        RuleKey { policy_digest, rule: row.index, direction: row.direction, family: row.family, reserved: [0; 4] };
    let (rule_id, group_id) = maps.rule_name(&key).unwrap_or_else(|| ("-".into(), "-".into()));
    Rule {
        index: row.index,
        direction: direction(row.direction),
        family: if row.family == Family::V4 { "IPv4" } else { "IPv6" },
        rule_id,
        group_id,
        service: row.service,
        remote: row.remote,
    }
}
