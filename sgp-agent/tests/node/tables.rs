//! What a test does to the tables of the data path behind its back.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use sgp_agent::io::kernel::maps::{Maps, PinDirs};
use sgp_common::flow::{Flow, FlowKey, FlowState};
use sgp_common::limits::ENDPOINT_FLOWS_MAX;
use sgp_common::pins::{map, program};
use sgp_common::snat::{SnatEntry, SnatKey};

use super::Node;

impl Node {
    /// Another flow to the same service takes a port.
    pub(crate) fn take_port(&mut self, like: &SnatKey, nat_port: u16) {
        let entry = SnatEntry { endpoint: 1, local_addr: [1; 16].into(), local_port: nat_port, reserved: [0; 6] };
        let mut snat: HashMap<_, SnatKey, SnatEntry> = self.map(map::SNAT);
        // What is taken already stays taken.
        drop(snat.insert(SnatKey { nat_port, ..*like }, entry, 1));
    }

    /// A pod has all the flows that one may have.
    pub(crate) fn has_as_many_flows_as_it_may(&mut self, pod: usize) {
        let vlan_id = u32::from(self.pods[pod].vlan_id);
        self.maps.flow_counts.set(vlan_id, u64::from(ENDPOINT_FLOWS_MAX), 0).expect("FLOW_COUNTS");
    }

    /// Time goes by for flows that are closed; others stand.
    pub(crate) fn forget_flows_that_are_closed(&mut self) {
        self.each_flow(|flow| {
            if flow.state == FlowState::Closed { Some(Flow { last_seen_ns: 0, ..flow }) } else { Some(flow) }
        });
    }

    /// So much time goes by for all flows at once.
    pub(crate) fn let_time_pass(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).expect("no more than some centuries");
        self.each_flow(|flow| Some(Flow { last_seen_ns: flow.last_seen_ns.saturating_sub(ns), ..flow }));
    }

    /// Flows are lost, as to a full table's owner that removed them by hand.
    pub(crate) fn lose_flows(&mut self) {
        self.each_flow(|_| None);
    }

    fn each_flow(&mut self, change: impl Fn(Flow) -> Option<Flow>) {
        let mut flows: HashMap<_, FlowKey, Flow> = self.map(map::FLOWS);
        for (key, flow) in flows.iter().flatten().collect::<Vec<_>>() {
            match change(flow) {
                Some(flow) => flows.insert(key, flow, 0).expect("FLOWS"),
                None => flows.remove(&key).expect("FLOWS"),
            }
        }
    }

    /// Looks at what is pinned now, after another layout was taken over.
    pub(crate) fn look_again(&mut self) {
        self.maps = Maps::open(&PinDirs::new(&self.dir)).expect("pinned maps");
        self.programs = program::ALL.into_iter().map(|name| (name, self.program(name))).collect();
    }

    fn map<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> HashMap<MapData, K, V> {
        let data = MapData::from_pin(PinDirs::new(&self.dir).map(name)).expect("a pin");
        Map::from_map_data(data).expect("a map").try_into().expect("a hash map")
    }
}

/// Whether anything is pinned below a directory.
pub(crate) fn pins(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|entry| if entry.path().is_dir() { pins(&entry.path()) } else { 1 }).sum()
}
