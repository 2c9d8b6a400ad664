//! `endpoints`: every pod with a branch on this node.

use anyhow::Result;
use serde::Serialize;
use sgp_common::addr::UNSPECIFIED;

use super::view::View;
use crate::domain::groups::GroupSetId;
use crate::domain::wiring::mac_text;
use crate::io::kernel::maps::{digest, policy_name, text};
use crate::io::telemetry::address;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    pod: String,
    interface_id: String,
    vlan_id: u16,
    addresses: Vec<String>,
    mac: String,
    policy: String,
    policy_digest: String,
    flows: u64,
}

pub(super) fn print(view: &View) -> Result<()> {
    let maps = view.maps()?;
    let mut rows = Vec::new();
    for (id, endpoint) in maps.endpoints.iter().flatten() {
        let set = GroupSetId(endpoint.group_set);
        let addresses = [endpoint.ipv4, endpoint.ipv6].into_iter().filter(|addr| *addr != UNSPECIFIED);
        rows.push(Row {
            pod: maps.pod_name(crate::domain::groups::EndpointId(id)),
            interface_id: maps.names.get(&id, 0).map(|name| text(&name.interface_id)).unwrap_or_default(),
            vlan_id: endpoint.vlan_id,
            addresses: addresses.map(|addr| address(&addr).to_string()).collect(),
            mac: mac_text(&endpoint.pod_mac),
            policy: policy_name(set),
            policy_digest: maps.policy(set).map_or_else(|| "none".into(), |trie| format!("{:016x}", digest(&trie))),
            flows: maps.flows_of(endpoint.vlan_id),
        });
    }
    rows.sort_by(|a, b| a.pod.cmp(&b.pod));
    view.rows(&["POD", "BRANCH", "VLAN", "ADDRESS", "MAC", "POLICY", "DIGEST", "FLOWS"], &rows, |row| {
        vec![
            row.pod.clone(),
            row.interface_id.clone(),
            row.vlan_id.to_string(),
            row.addresses.join(","),
            row.mac.clone(),
            row.policy.clone(),
            row.policy_digest.clone(),
            row.flows.to_string(),
        ]
    })
}
