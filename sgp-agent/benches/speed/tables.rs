//! What a benchmark does to the tables of the data path between two figures.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_common::flow::{Flow, FlowKey};
use sgp_common::limits::VLAN_IDS_MAX;
use sgp_common::pins::map;
use sgp_common::snat::{SnatEntry, SnatKey};

/// Flows, how many each endpoint has, and translated ports.
pub(crate) struct Tables {
    flows: HashMap<MapData, FlowKey, Flow>,
    counts: Array<MapData, u64>,
    snat: HashMap<MapData, SnatKey, SnatEntry>,
}

impl Tables {
    /// Those that are pinned here.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let map = |name| -> Result<Map> { Ok(Map::from_map_data(MapData::from_pin(PinDirs::new(dir).map(name))?)?) };
        let (flows, counts, snat) = (map(map::FLOWS)?, map(map::FLOW_COUNTS)?, map(map::SNAT)?);
        Ok(Self { flows: flows.try_into()?, counts: counts.try_into()?, snat: snat.try_into()? })
    }

    /// Forgets every flow.
    pub(crate) fn forget(&mut self) -> Result<()> {
        let keys: Vec<FlowKey> = self.flows.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| self.flows.remove(key)).context("emptying FLOWS")?;
        let keys: Vec<SnatKey> = self.snat.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| self.snat.remove(key)).context("emptying SNAT")?;
        self.uncount()
    }

    /// Lets every pod open as many flows as if it had none.
    pub(crate) fn uncount(&mut self) -> Result<()> {
        (0..VLAN_IDS_MAX).try_for_each(|vlan_id| self.counts.set(vlan_id, 0, 0)).context("writing FLOW_COUNTS")
    }

    /// How many flows there are.
    pub(crate) fn flows(&self) -> usize {
        self.flows.keys().count()
    }
}
