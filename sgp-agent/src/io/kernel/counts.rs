//! What the data path counts of each endpoint: at its branch's VLAN id, which is another's when the branch is gone.

use anyhow::{Context, Result};
use aya::maps::PerCpuValues;
use aya::util::nr_cpus;
use sgp_common::event::{Counter, Counts, REASONS};
use sgp_common::{Direction, DropReason};

use super::maps::Maps;
use crate::domain::groups::EndpointId;

/// Packets that were judged alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Whose; `None` where no endpoint was found.
    pub endpoint: Option<EndpointId>,
    /// The pod's point of view.
    pub direction: Direction,
    /// Why they were dropped; `None` if they were not.
    pub reason: Option<DropReason>,
    /// How many.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
}

impl Maps {
    /// All that has been counted.
    pub fn counted(&self) -> Vec<Counted> {
        // The primary interface is an endpoint without a VLAN, of which nothing is counted.
        let branches = self.endpoints.iter().flatten().filter(|(_, endpoint)| endpoint.vlan_id != 0);
        let known = branches.map(|(id, endpoint)| (Some(EndpointId(id)), endpoint.vlan_id));
        known.chain([(None, 0)]).flat_map(|(id, vlan_id)| self.counted_at(id, vlan_id)).collect()
    }

    fn counted_at(&self, endpoint: Option<EndpointId>, vlan_id: u16) -> Vec<Counted> {
        let Ok(cpus) = self.counters.get(&u32::from(vlan_id), 0) else { return Vec::new() };
        let cell = |direction, code: usize| {
            let cells = cpus.iter().map(|cpu| cell(cpu, direction, code));
            let (packets, bytes) = cells.fold((0, 0), |sum, cell| (sum.0 + cell.packets, sum.1 + cell.bytes));
            Counted { endpoint, direction, reason: DropReason::from_code(code as u8), packets, bytes }
        };
        let directions = [Direction::Inbound, Direction::Outbound].into_iter();
        let cells = directions.flat_map(|direction| (0..REASONS).map(move |code| (direction, code)));
        cells.map(|(direction, code)| cell(direction, code)).filter(|counted| counted.packets != 0).collect()
    }

    /// Flows of an endpoint, as the data path counts them.
    pub fn flows_of(&self, vlan_id: u16) -> u64 {
        self.flow_counts.get(&u32::from(vlan_id), 0).unwrap_or_default()
    }

    /// Sampled events that were lost since the maps were made, because nobody emptied the ring in time.
    pub fn lost_events(&self) -> u64 {
        self.events_lost.get(&0, 0).map_or(0, |cpus| cpus.iter().sum())
    }

    /// Begins to count for a branch that has taken this VLAN id.
    ///
    /// # Errors
    /// Where a map cannot be written.
    pub(super) fn count_anew(&mut self, vlan_id: u16) -> Result<()> {
        let cpus = nr_cpus().map_err(|(path, error)| error_of(path, error))?;
        let nothing = PerCpuValues::try_from(vec![Counts::default(); cpus]).context("one value for each CPU")?;
        self.counters.set(u32::from(vlan_id), nothing, 0).context("writing COUNTERS")?;
        self.flow_counts.set(u32::from(vlan_id), 0, 0).context("writing FLOW_COUNTS")
    }
}

fn cell(counts: &Counts, direction: Direction, code: usize) -> Counter {
    match direction {
        Direction::Inbound => counts.inbound[code],
        Direction::Outbound => counts.outbound[code],
    }
}

fn error_of(path: &str, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("counting the CPUs in {path}"))
}
