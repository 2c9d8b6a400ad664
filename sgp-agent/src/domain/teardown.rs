//! Which rules and branches of a node are one pod's, told by the rules themselves: whoever made them, in
//! whichever mode, and however much of the rest is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::branches::VLAN_IDS;
use super::routing::{Packets, RoutingRule};
use super::wiring::{
    CLOSED_PRIORITY, FROM_POD_PRIORITY, OWN_WAY_PRIORITY, STRICT_PRIORITY, TABLE_BASE, TO_POD_PRIORITY,
    branch_interface,
};

/// What a pod is known by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Names of its host veths that are no other pod's; they may be gone.
    pub hosts: BTreeSet<String>,
    /// Addresses that are no other pod's by now.
    pub addresses: BTreeSet<IpAddr>,
}

/// What of a node is one pod's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Its rules, in the order in which they go: last those by which the rest is found again.
    pub rules: Vec<RoutingRule>,
    /// VLAN ids of its branches, which no other pod's rules lead to.
    pub vlan_ids: BTreeSet<u16>,
}

impl Share {
    /// Picks a pod's from all rules of a node.
    pub fn of(marks: &Marks, rules: &[RoutingRule]) -> Self {
        let (own, others): (Vec<&RoutingRule>, Vec<&RoutingRule>) = rules.iter().partition(|rule| marks.name(rule));
        let taken: BTreeSet<u16> = others.into_iter().filter(|rule| !is_of_branch(rule)).filter_map(vlan_of).collect();
        let vlan_ids: BTreeSet<u16> =
            own.iter().filter_map(|rule| vlan_of(rule)).filter(|id| !taken.contains(id)).collect();
        let of_branch = rules.iter().filter(|rule| is_of_branch(rule));
        let of_branch = of_branch.filter(|rule| vlan_of(rule).is_some_and(|id| vlan_ids.contains(&id)));
        let (finders, found): (Vec<&RoutingRule>, Vec<&RoutingRule>) =
            own.into_iter().partition(|rule| vlan_of(rule).is_some());
        Self { rules: of_branch.chain(found).chain(finders).cloned().collect(), vlan_ids }
    }
}

impl Marks {
    fn name(&self, rule: &RoutingRule) -> bool {
        match (rule.priority, &rule.packets) {
            (STRICT_PRIORITY, Packets::CameBy(host)) => self.hosts.contains(host),
            (TO_POD_PRIORITY, Packets::To(net)) => {
                self.addresses.contains(&net.addr()) && *net == IpNet::from(net.addr())
            }
            (OWN_WAY_PRIORITY | FROM_POD_PRIORITY | CLOSED_PRIORITY, Packets::From(address)) => {
                self.addresses.contains(address)
            }
            _ => false,
        }
    }
}

/// The VLAN id a rule of a pod leads to.
fn vlan_of(rule: &RoutingRule) -> Option<u16> {
    let leads = [STRICT_PRIORITY, OWN_WAY_PRIORITY, FROM_POD_PRIORITY].contains(&rule.priority);
    let id = u16::try_from(rule.table?.checked_sub(TABLE_BASE)?).ok()?;
    (leads && VLAN_IDS.contains(&id)).then_some(id)
}

/// Whether a rule is about what comes by a branch, into that branch's own table.
fn is_of_branch(rule: &RoutingRule) -> bool {
    matches!((&rule.packets, vlan_of(rule)), (Packets::CameBy(name), Some(id)) if *name == branch_interface(id))
}

#[cfg(test)]
mod tests {
    use sgp_common::addr::Family;

    use super::*;
    use crate::domain::wiring::{Mode, Wired};

    fn pod(mode: Mode, host: &str, vlan_id: u16, last: u8) -> Vec<RoutingRule> {
        let address = IpAddr::from([10, 0, 1, last]);
        Wired { mode, host, vlan_id, address, router: IpAddr::from([10, 0, 1, 1]) }.rules()
    }

    fn marks(hosts: &[&str], last: Option<u8>) -> Marks {
        let addresses = last.into_iter().map(|last| IpAddr::from([10, 0, 1, last])).collect();
        Marks { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), addresses }
    }

    fn sorted(mut rules: Vec<RoutingRule>) -> Vec<RoutingRule> {
        rules.sort();
        rules
    }

    #[test]
    fn a_pod_of_either_mode_is_found_among_others() {
        let (strict, standard) = (pod(Mode::Strict, "vlanaa", 1, 10), pod(Mode::Standard, "eniaa", 2, 11));
        let others = [pod(Mode::Strict, "vlanbb", 3, 12), pod(Mode::Standard, "enibb", 4, 13)].concat();
        let node = [strict.clone(), others.clone(), standard.clone()].concat();
        let share = Share::of(&marks(&["vlanaa"], None), &node);
        assert_eq!((share.vlan_ids, sorted(share.rules)), ([1].into(), sorted(strict)));
        let share = Share::of(&marks(&["vlanzz"], Some(11)), &node);
        assert_eq!((share.vlan_ids, sorted(share.rules)), ([2].into(), sorted(standard)));
        assert_eq!(Share::of(&marks(&["vlanzz"], Some(99)), &node), Share::default());
    }

    #[test]
    fn what_is_left_of_both_modes_goes_at_once() {
        let node = [pod(Mode::Strict, "vlanaa", 1, 10), pod(Mode::Standard, "eniaa", 2, 11)].concat();
        let share = Share::of(&marks(&["vlanaa"], Some(11)), &node);
        assert_eq!((share.vlan_ids, sorted(share.rules)), ([1, 2].into(), sorted(node)));
    }

    #[test]
    fn a_branch_that_another_pod_has_by_now_is_left_alone() {
        let mut node = pod(Mode::Strict, "vlanaa", 1, 10);
        let successor = pod(Mode::Standard, "enibb", 1, 12);
        node.extend(successor);
        let share = Share::of(&marks(&["vlanaa"], None), &node);
        assert_eq!(share.vlan_ids, BTreeSet::new());
        assert_eq!(share.rules, [node[0].clone()], "only the rule of the veth that is gone");
    }

    #[test]
    fn a_teardown_that_is_cut_off_anywhere_is_taken_up_again() {
        for (mode, marks) in [(Mode::Strict, marks(&["vlanaa"], None)), (Mode::Standard, marks(&[], Some(10)))] {
            let mut node = pod(mode, "vlanaa", 1, 10);
            while !node.is_empty() {
                let share = Share::of(&marks, &node);
                assert_eq!(share.vlan_ids, [1].into(), "{node:?}");
                node.retain(|rule| *rule != share.rules[0]);
            }
        }
    }

    #[test]
    fn rules_of_others_at_our_priorities_are_nobodys() {
        let foreign = |priority, packets| RoutingRule { family: Family::V4, priority, packets, table: Some(254) };
        let net = "10.0.1.0/24".parse().expect("a CIDR");
        let node = [foreign(512, Packets::To(net)), foreign(10, Packets::CameBy("eth1".into()))];
        assert_eq!(Share::of(&marks(&["vlanaa"], Some(0)), &node), Share::default());
    }
}
