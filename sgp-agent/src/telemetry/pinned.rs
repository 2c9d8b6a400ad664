//! What the data path counts, read from its maps at each scrape: the agent adds nothing up.

use std::collections::BTreeMap;
use std::fmt::{Debug, Error, Formatter, Result};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use sgp_common::DropReason;
use sgp_common::limits;
use sgp_common::pins::map;
use sgp_common::snat::SnatEntry;

use super::metrics::Labels;
use crate::domain::groups::EndpointId;
use crate::io::kernel::attached;
use crate::io::kernel::maps::{self, Maps, PinDirs};
use crate::io::telemetry::direction;

/// The pinned maps of a node.
pub struct Pinned {
    maps: Maps,
    dirs: PinDirs,
}

impl Debug for Pinned {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "the maps below {}", self.dirs.root.display())
    }
}

impl Pinned {
    /// Opens them.
    ///
    /// # Errors
    /// As `Maps::open`.
    pub fn open(dirs: &PinDirs) -> anyhow::Result<Self> {
        Ok(Self { maps: Maps::open(dirs)?, dirs: dirs.clone() })
    }

    fn pod(&self, endpoint: u64) -> String {
        if endpoint == 0 { String::new() } else { self.maps.pod_name(EndpointId(endpoint)) }
    }

    /// Packets and bytes by pod, direction and reason.
    fn verdicts(&self) -> Vec<(Labels, u64, u64)> {
        let series = self.maps.counted().into_iter().map(|counted| {
            let labels = vec![
                ("pod", counted.endpoint.map_or_else(String::new, |id| self.maps.pod_name(id))),
                ("direction", direction(counted.direction).to_owned()),
                ("reason", counted.reason.map_or("allowed", DropReason::name).to_owned()),
            ];
            (labels, counted.packets, counted.bytes)
        });
        series.collect()
    }

    fn snat_by_pod(&self) -> std::result::Result<Vec<(Labels, u64)>, Error> {
        let mut pods: BTreeMap<u64, u64> = BTreeMap::new();
        let see = |_, entry: SnatEntry| *pods.entry(entry.endpoint).or_default() += 1;
        maps::each(&self.maps.snat, see).map_err(|_| Error)?;
        Ok(pods.into_iter().map(|(id, count)| (vec![("pod", self.pod(id))], count)).collect())
    }

    fn flows_by_pod(&self) -> Vec<(Labels, u64)> {
        let branches = self.maps.endpoints.iter().flatten().filter(|(_, endpoint)| endpoint.vlan_id != 0);
        branches.map(|(id, endpoint)| (vec![("pod", self.pod(id))], self.maps.flows_of(endpoint.vlan_id))).collect()
    }

    fn attached(&self) -> std::result::Result<Vec<(Labels, u64)>, Error> {
        let (links, _) = attached(&self.dirs).map_err(|_| Error)?;
        let (alive, dead): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.ifindex != 0);
        let state = |word: &str, count: usize| (vec![("state", word.to_owned())], count as u64);
        Ok(vec![state("attached", alive.len()), state("detached", dead.len())])
    }
}

/// Entries and room of each map that can fill up.
///
/// # Errors
/// Where a map cannot be read.
pub fn fill(maps: &Maps) -> anyhow::Result<Vec<(&'static str, usize, u32)>> {
    Ok(vec![
        (map::ENDPOINTS, maps.endpoints.keys().flatten().count(), limits::ENDPOINTS_MAX),
        (map::POLICIES, maps.policies.keys().flatten().count(), limits::POLICIES_MAX),
        (map::PEERS, maps::count(&maps.peers)?, limits::PEERS_MAX),
        (map::FLOWS, maps::count(&maps.flows)?, limits::FLOWS_MAX),
        (map::SNAT, maps::count(&maps.snat)?, limits::SNAT_MAX),
        (map::RULE_NAMES, maps.rule_names.keys().flatten().count(), limits::RULE_NAMES_MAX),
    ])
}

impl Collector for Pinned {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result {
        let (verdicts, fill) = (self.verdicts(), fill(&self.maps).map_err(|_| Error)?);
        let packets = verdicts.iter().map(|(labels, packets, _)| (labels.clone(), *packets)).collect();
        counters(&mut encoder, "sgp_packets", "Packets judged, by pod, direction and reason", packets)?;
        let bytes = verdicts.into_iter().map(|(labels, _, bytes)| (labels, bytes)).collect();
        counters(&mut encoder, "sgp_packet_bytes", "Bytes of the packets judged", bytes)?;
        let help = "Sampled events lost, because the ring was full; counters have their packets";
        let lost = encoder.encode_descriptor("sgp_events_lost", help, None, MetricType::Counter)?;
        ConstCounter::new(self.maps.lost_events()).encode(lost)?;
        gauges(&mut encoder, "sgp_flows", "Tracked flows of a pod, as the last sweep counted", self.flows_by_pod())?;
        gauges(&mut encoder, "sgp_snat_flows", "Translated flows of a pod", self.snat_by_pod()?)?;
        let label = |name: &str| vec![("map", name.to_owned())];
        let entries = fill.iter().map(|(name, used, _)| (label(name), *used as u64)).collect();
        gauges(&mut encoder, "sgp_map_entries", "Entries of a map of the data path", entries)?;
        let limits = fill.iter().map(|(name, _, limit)| (label(name), u64::from(*limit))).collect();
        gauges(&mut encoder, "sgp_map_limit", "Entries that a map of the data path has room for", limits)?;
        gauges(
            &mut encoder,
            "sgp_programs",
            "Attachments of programs; detached: the interface is gone",
            self.attached()?,
        )
    }
}

fn counters(encoder: &mut DescriptorEncoder, name: &str, help: &str, series: Vec<(Labels, u64)>) -> Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    series.into_iter().try_for_each(|(labels, value)| ConstCounter::new(value).encode(family.encode_family(&labels)?))
}

fn gauges(encoder: &mut DescriptorEncoder, name: &str, help: &str, series: Vec<(Labels, u64)>) -> Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    series.into_iter().try_for_each(|(labels, value)| ConstGauge::new(value).encode(family.encode_family(&labels)?))
}
