//! Reclaims memory. Never decides a verdict: what it takes away was over already.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use sgp_common::endpoint::Timeouts;
use sgp_common::flow::FlowKey;
use sgp_common::snat::{SnatEntry, SnatKey};

use super::maps::{Maps, gone};
use super::policies;

/// What a sweep reclaimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows that had been idle too long, or whose endpoint is gone.
    pub flows: usize,
    /// Ports of translated flows that are no more.
    pub snat: usize,
    /// Counters of endpoints that are gone.
    pub counters: usize,
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
    let timeouts: BTreeMap<u64, Timeouts> =
        maps.endpoints.iter().flatten().map(|(id, endpoint)| (id, endpoint.timeouts)).collect();
    let mut live: BTreeMap<u64, u64> = timeouts.keys().map(|id| (*id, 0)).collect();
    let mut over: Vec<(FlowKey, u16)> = Vec::new();
    for (key, flow) in maps.flows.iter().flatten() {
        match (live.get_mut(&key.endpoint), timeouts.get(&key.endpoint)) {
            (Some(count), Some(timeouts)) if !flow.expired(&key, timeouts, now_ns) => *count += 1,
            _ => over.push((key, flow.nat_port)),
        }
    }
    for (key, nat_port) in &over {
        gone(maps.flows.remove(key)).context("removing a flow that is over")?;
        if *nat_port != 0 {
            gone(maps.snat.remove(&SnatKey::of(key, *nat_port))).context("giving a port back")?;
        }
    }
    let snat = forget_ports(maps, suspects)?;
    count_flows(maps, &live)?;
    let counters = forget_counters(maps, &live)?;
    Ok(Swept { flows: over.len(), snat, counters, rule_names: policies::forget_names(maps)? })
}

/// Gives back ports that no flow has, if the last sweep saw the same: the data path takes the port first and
/// remembers the flow then. None is given back twice, since an entry is only ever replaced by the same flow's.
fn forget_ports(maps: &mut Maps, suspects: &mut BTreeSet<SnatKey>) -> Result<usize> {
    let orphan = |key: &SnatKey, entry: &SnatEntry| {
        let flow = maps.flows.get(&entry.flow(key), 0);
        !flow.is_ok_and(|flow| flow.nat_port == key.nat_port)
    };
    let orphans: BTreeSet<SnatKey> =
        maps.snat.iter().flatten().filter(|(key, entry)| orphan(key, entry)).map(|(key, _)| key).collect();
    let stale: Vec<SnatKey> = orphans.intersection(suspects).copied().collect();
    for key in &stale {
        gone(maps.snat.remove(key)).context("giving a port back")?;
    }
    *suspects = orphans;
    Ok(stale.len())
}

fn count_flows(maps: &mut Maps, live: &BTreeMap<u64, u64>) -> Result<()> {
    let gone_endpoints: Vec<u64> = maps.flow_counts.keys().flatten().filter(|id| !live.contains_key(id)).collect();
    for id in gone_endpoints {
        gone(maps.flow_counts.remove(&id)).context("removing an endpoint's count of flows")?;
    }
    for (id, count) in live {
        maps.flow_counts.insert(id, count, 0).context("writing an endpoint's count of flows")?;
    }
    Ok(())
}

fn forget_counters(maps: &mut Maps, live: &BTreeMap<u64, u64>) -> Result<usize> {
    let known = |id: u64| id == 0 || live.contains_key(&id);
    let stale: Vec<_> = maps.counters.keys().flatten().filter(|key| !known(key.endpoint)).collect();
    for key in &stale {
        gone(maps.counters.remove(key)).context("removing a counter")?;
    }
    Ok(stale.len())
}

fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the monotonic clock")?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}
