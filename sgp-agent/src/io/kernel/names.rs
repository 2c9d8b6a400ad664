//! Names of what stands in the maps, by the maps alone: no API server is asked.

use std::collections::BTreeSet;

use sgp_common::addr::{is_v4_mapped, prefix_name};
use sgp_common::event::Event;
use sgp_common::limits::RULES_MAX;
use sgp_common::policy::RuleKey;
use sgp_common::{Addr, Direction, Family};

use super::maps::{Maps, digest, text};
use crate::domain::flow_record::EventNames;
use crate::domain::groups::{EndpointId, GroupSetId};

impl Maps {
    /// Who has an address: a pod of this node, or whoever carries a group set; `None` for strangers.
    pub fn peer_name(&self, addr: &Addr) -> Option<String> {
        if let Ok(id) = self.local.get(addr, 0) {
            return Some(self.pod_name(EndpointId(id)));
        }
        self.group_set_of(addr).map(|set| self.set_name(set))
    }

    /// The groups that an address carries, as the programs look for them: by itself or, of IPv6, by its delegated prefix.
    pub fn group_set_of(&self, addr: &Addr) -> Option<GroupSetId> {
        let prefix = (!is_v4_mapped(addr)).then(|| prefix_name(addr));
        let names = [Some(*addr), prefix].into_iter().flatten();
        names.filter_map(|name| self.peers.get(&name, 0).ok()).map(|peer| GroupSetId(peer.group_set)).next()
    }

    /// A group set by its groups, as far as a policy for it is installed here, else by its id.
    pub fn set_name(&self, set: GroupSetId) -> String {
        let groups = self.policy(set).map(|trie| self.groups_of(digest(&trie))).unwrap_or_default();
        if groups.is_empty() { format!("set {:016x}", set.0) } else { groups.into_iter().collect::<Vec<_>>().join(",") }
    }

    /// Groups that have rules in a policy. Rules are numbered from 0 in each direction and family, so that few lookups do:
    /// the map holds the rules of all policies.
    fn groups_of(&self, policy_digest: u64) -> BTreeSet<String> {
        let axes =
            [Direction::Inbound, Direction::Outbound].into_iter().flat_map(|d| [(d, Family::V4), (d, Family::V6)]);
        let key = |direction, family, rule| RuleKey { policy_digest, rule, direction, family, reserved: [0; 4] };
        let rules = axes.flat_map(|(direction, family)| {
            (0..RULES_MAX as u16).map_while(move |rule| self.rule_name(&key(direction, family, rule)))
        });
        rules.map(|(_, group)| group).collect()
    }

    /// Names of what an event is about.
    pub fn event_names(&self, event: &Event) -> EventNames {
        let is_v4 = is_v4_mapped(&event.local_addr);
        let family = if is_v4 { Family::V4 } else { Family::V6 };
        let key = RuleKey {
            policy_digest: event.policy_digest,
            rule: event.rule,
            direction: event.direction,
            family,
            reserved: [0; 4],
        };
        EventNames {
            pod: if event.endpoint == 0 { String::new() } else { self.pod_name(EndpointId(event.endpoint)) },
            interface_id: self.names.get(&event.endpoint, 0).map(|name| text(&name.interface_id)).unwrap_or_default(),
            peer: self.peer_name(&event.remote_addr),
            rule: self.rule_name(&key),
        }
    }
}
