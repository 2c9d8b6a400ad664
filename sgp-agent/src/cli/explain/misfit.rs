//! Why a packet does not fit: whom the rules would let in, who this is instead, and what is full.

use std::collections::BTreeMap;
use std::path::Path;

use sgp_common::limits::{ENDPOINT_FLOWS_MAX, FLOWS_MAX};
use sgp_common::{Addr, DropReason};

use super::answer::{Asked, Named};
use super::case::{Case, Decided};
use crate::domain::groups::{EndpointId, GroupSetId};
use crate::domain::readback::{Key, rows};
use crate::io::kernel::maps::{Maps, count, digest};
use crate::io::telemetry::address;
use crate::telemetry::state::AgentState;

/// Names by the maps, and of group sets that no pod of this node has by what the agent wrote last.
pub(super) struct Names<'a> {
    maps: &'a Maps,
    sets: BTreeMap<String, Vec<String>>,
}

impl<'a> Names<'a> {
    /// Without the agent's word there are only the maps'.
    pub(super) fn of(maps: &'a Maps, runtime_dir: &Path) -> Self {
        let state = AgentState::read(runtime_dir).ok().flatten();
        Self { maps, sets: state.map(|state| state.group_sets).unwrap_or_default() }
    }

    /// The groups of a set.
    pub(super) fn set(&self, set: GroupSetId) -> String {
        self.sets.get(&format!("{:016x}", set.0)).map_or_else(|| self.maps.set_name(set), |groups| groups.join(","))
    }

    /// Who has an address, and which groups it carries.
    pub(super) fn peer(&self, addr: &Addr) -> Option<String> {
        let set = self.maps.group_set_of(addr).map(|set| self.set(set));
        let pod = self.maps.local.get(addr, 0).ok().map(|id| self.maps.pod_name(EndpointId(id)));
        match (pod, set) {
            (Some(pod), Some(set)) => Some(format!("{pod} of {set}")),
            (pod, set) => pod.or(set),
        }
    }
}

impl Case<'_> {
    /// Of the rules that allow the service: whom each lets in, and who this is instead.
    pub(super) fn who_is_wanted(&self, asked: &Asked) -> String {
        let Some(trie) = self.maps.policy(asked.set) else { return String::new() };
        let keys: Vec<Key> =
            trie.iter().flatten().map(|(key, answer)| (key.prefix_len(), key.data(), answer.rules)).collect();
        let policy_digest = digest(&trie);
        let mine = rows(&keys).into_iter().filter(|row| {
            let named = self.named(policy_digest, row.index);
            row.direction == self.direction
                && row.family == self.packet.family
                && asked.rules_allowing_service.as_ref().is_some_and(|rules| rules.contains(&named))
        });
        let wanted: Vec<String> =
            mine.map(|row| self.wants(&self.named(policy_digest, row.index), row.remote)).collect();
        let remote = self.packet.remote(self.direction);
        let is = self.names.peer(remote).unwrap_or_else(|| "no member of a known group".to_owned());
        format!("{}; {} is {is}", wanted.join(", "), address(remote))
    }

    fn wants(&self, rule: &Named, remote: Vec<String>) -> String {
        let set = |text: &String| u64::from_str_radix(text.strip_prefix("set ")?, 16).ok();
        let named =
            remote.iter().map(|text| set(text).map_or_else(|| text.clone(), |id| self.names.set(GroupSetId(id))));
        let whom = named.collect::<Vec<_>>().join(" or ");
        let whom = if whom.is_empty() { "nobody there is".to_owned() } else { whom };
        format!("{} is for {whom}", rule.rule_id)
    }
}

impl Decided {
    /// What the rules allow needs room among the flows.
    pub(super) fn within_limits(self, case: &Case<'_>) -> Self {
        let held = case.maps.flows_of(case.endpoint.vlan_id);
        if self.reason.is_some() || held < u64::from(ENDPOINT_FLOWS_MAX) {
            return self.within_the_table(case);
        }
        let why = format!(
            "rules allow it, but the pod holds {held} flows of {ENDPOINT_FLOWS_MAX}, its share of the node's: `sgp-agent flows --pod` shows which"
        );
        case.refused(DropReason::EndpointFlowLimit, &why)
    }

    fn within_the_table(self, case: &Case<'_>) -> Self {
        let is_full = || count(&case.maps.flows).is_ok_and(|held| held >= FLOWS_MAX as usize);
        if self.reason.is_some() || !is_full() {
            return self;
        }
        let why = format!(
            "rules allow it, but the node's table of {FLOWS_MAX} flows is full: `sgp-agent endpoints` shows who fills it"
        );
        case.refused(DropReason::FlowTableFull, &why)
    }
}
