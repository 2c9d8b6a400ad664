//! Reclaims memory. Never decides a verdict: what it takes away was over already.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use sgp_common::endpoint::Endpoint;
use sgp_common::flow::{Flow, FlowKey};
use sgp_common::snat::{SnatEntry, SnatKey};

use super::maps::{Maps, each, gone};
use super::policies;

/// What a sweep reclaimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that had been idle too long, or whose endpoint is gone.
    pub flows: usize,
    /// Ports of translated flows that are no more.
    pub snat: usize,
    /// Names of rules nothing speaks of.
    pub rule_names: usize,
}

/// Sweeps once. A flow that a packet refreshes between being read and being removed is lost and judged
/// again by that conversation's next packet: accepted, since it had expired.
///
/// # Errors
/// Where a map cannot be read or written.
pub(super) fn sweep(maps: &mut Maps, suspects: &mut BTreeSet<SnatKey>) -> Result<Swept> {
    let now_ns = monotonic_ns()?;
    let endpoints: BTreeMap<u64, Endpoint> = maps.endpoints.iter().flatten().collect();
    let mut live: BTreeMap<u64, u64> = endpoints.keys().map(|id| (*id, 0)).collect();
    let (mut over, mut digests): (Vec<(FlowKey, u16)>, _) = (Vec::new(), BTreeSet::new());
    let see = |key: FlowKey, flow: Flow| match (live.get_mut(&key.endpoint), endpoints.get(&key.endpoint)) {
        (Some(count), Some(endpoint)) if !flow.expired(&key, &endpoint.timeouts, now_ns) => {
            *count += 1;
            digests.insert(flow.policy_digest);
        }
        _ => over.push((key, flow.nat_port)),
    };
    each(&maps.flows, see).context("reading FLOWS")?;
    for (key, nat_port) in &over {
        gone(maps.flows.remove(key)).context("removing a flow that is over")?;
        if *nat_port != 0 {
            gone(maps.snat.remove(&SnatKey::of(key, *nat_port))).context("giving a port back")?;
        }
    }
    let snat = forget_ports(maps, suspects)?;
    for (id, endpoint) in &endpoints {
        let count = live.get(id).copied().unwrap_or_default();
        maps.flow_counts.set(endpoint.vlan_id.into(), count, 0).context("writing an endpoint's count of flows")?;
    }
    Ok(Swept { flows: over.len(), snat, rule_names: policies::forget_names(maps, digests)? })
}

/// Gives back ports that no flow has, if the last sweep saw the same: the data path takes the port first and
/// remembers the flow then. None is given back twice, since an entry is only ever replaced by the same flow's.
fn forget_ports(maps: &mut Maps, suspects: &mut BTreeSet<SnatKey>) -> Result<usize> {
    let orphan = |key: &SnatKey, entry: &SnatEntry| {
        let flow = maps.flows.get(&entry.flow(key), 0);
        !flow.is_ok_and(|flow| flow.nat_port == key.nat_port)
    };
    let mut orphans: BTreeSet<SnatKey> = BTreeSet::new();
    let see = |key, entry| {
        if orphan(&key, &entry) {
            orphans.insert(key);
        }
    };
    each(&maps.snat, see).context("reading SNAT")?;
    let stale: Vec<SnatKey> = orphans.intersection(suspects).copied().collect();
    for key in &stale {
        gone(maps.snat.remove(key)).context("giving a port back")?;
    }
    *suspects = orphans;
    Ok(stale.len())
}

fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the monotonic clock")?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
