//! `snat`: what leaves the VPC under the node's address, and how much room is left.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use sgp_common::Addr;
use sgp_common::limits::SNAT_MAX;
use sgp_common::snat::{SnatEntry, SnatKey, SnatPolicy};

use super::view::{Target, table};
use crate::domain::groups::{EndpointId, protocol_name};
use crate::io::kernel::maps::Maps;
use crate::io::telemetry::address;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Translated {
    pod: String,
    protocol: String,
    local: String,
    remote: String,
    nat_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Snat {
    /// The node's address; `None` while the primary interface is not known.
    node_address: Option<String>,
    judged_by: Option<&'static str>,
    used: usize,
    limit: u32,
    ports: u32,
    /// The destination that most ports are taken towards, and how many.
    busiest: Option<(String, usize)>,
    excluded: Vec<String>,
    flows: Vec<Translated>,
}

pub(super) fn print(target: &Target) -> Result<()> {
    let maps = target.view.maps()?;
    let only = target.pod.as_deref().map(|pod| maps.endpoint_of(pod)).transpose()?;
    let entries: Vec<(SnatKey, SnatEntry)> = maps.snat.iter().flatten().collect();
    let mut snat = summary(&maps, &entries);
    let wanted = entries.iter().filter(|(_, entry)| only.is_none_or(|only| only.0 == entry.endpoint));
    snat.flows = wanted.map(|(key, entry)| translated(&maps, key, entry)).collect();
    snat.flows.sort_by(|a, b| (&a.pod, &a.remote, a.nat_port).cmp(&(&b.pod, &b.remote, b.nat_port)));
    target.view.one(&snat, text)
}

fn summary(maps: &Maps, entries: &[(SnatKey, SnatEntry)]) -> Snat {
    let node = maps.node.get(&0, 0).ok().filter(|node| node.ifindex != 0);
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for (key, _) in entries {
        *taken.entry(remote(key)).or_default() += 1;
    }
    Snat {
        node_address: node.map(|node| address(&node.addr).to_string()),
        judged_by: node.map(|node| judges(node.policy)),
        used: entries.len(),
        limit: SNAT_MAX,
        ports: node.map_or(0, |node| u32::from(node.last_port.saturating_sub(node.first_port)) + 1),
        busiest: taken.into_iter().max_by_key(|(_, count)| *count),
        excluded: maps.excluded.keys().flatten().map(|key| prefix((key.prefix_len(), key.data()))).collect(),
        flows: Vec::new(),
    }
}

/// A network as people write it.
pub(super) fn prefix((length, addr): (u32, Addr)) -> String {
    let addr = address(&addr);
    format!("{addr}/{}", if addr.is_ipv4() { length.saturating_sub(96) } else { length })
}

/// Whose groups judge what leaves translated.
pub(super) fn judges(policy: SnatPolicy) -> &'static str {
    match policy {
        SnatPolicy::Node => "the node's groups",
        SnatPolicy::Pod => "the pod's groups",
        SnatPolicy::Both => "the pod's and the node's groups",
    }
}

fn remote(key: &SnatKey) -> String {
    format!("{}:{}", address(&key.remote_addr), key.remote_port)
}

fn translated(maps: &Maps, key: &SnatKey, entry: &SnatEntry) -> Translated {
    Translated {
        pod: maps.pod_name(EndpointId(entry.endpoint)),
        protocol: protocol_name(key.protocol),
        local: format!("{}:{}", address(&entry.local_addr), entry.local_port),
        remote: remote(key),
        nat_port: key.nat_port,
    }
}

fn text(snat: &Snat) -> String {
    let Some(node) = &snat.node_address else {
        return "nothing is translated: the primary interface is not known to the data path (strict mode, or no agent has told it yet)".into();
    };
    let busiest = snat
        .busiest
        .as_ref()
        .map_or("none".to_owned(), |(remote, count)| format!("{remote} holds {count} of {} ports", snat.ports));
    let head = format!(
        "under      {node}, judged by {}\nflows      {} of {}\nbusiest    {busiest}\nuntouched  {}",
        snat.judged_by.unwrap_or("nobody"),
        snat.used,
        snat.limit,
        snat.excluded.join(" ")
    );
    let rows = snat.flows.iter().map(|flow| {
        let port = flow.nat_port.to_string();
        vec![flow.pod.clone(), flow.protocol.clone(), flow.local.clone(), flow.remote.clone(), port]
    });
    if snat.flows.is_empty() {
        return head;
    }
    format!("{head}\n\n{}", table(&["POD", "PROTO", "LOCAL", "REMOTE", "NAT PORT"], rows))
}
