//! The way of standard pods that aws-node has wired, where it translates what leaves the VPC: its chains mark a pod's packets for
//! `main`, past everybody who judges. Two rules of ours, ahead of the mark's, keep them to their branch, as those of pods that our own
//! plugin wired; nothing of aws-node's is touched.

use std::net::IpAddr;

use sgp_common::addr::Family;

use super::adoption::agrees;
use super::observed::{Observed, Pod};
use super::routing::{Packets, RoutingRule};
use super::settings::Snat;
use super::wiring::{CLOSED_PRIORITY, FROM_POD_PRIORITY, OWN_WAY_PRIORITY, table};

/// Rules that are missing, in the order in which they are to be made: first what closes. `standing` are those of IPv4, in which alone
/// anything is translated.
pub fn missing(observed: &Observed, standing: &[RoutingRule]) -> Vec<RoutingRule> {
    if observed.settings.snat == Snat::External {
        return Vec::new();
    }
    let pods = observed.cluster.iter().flat_map(|cluster| cluster.pods.values());
    let ways = pods.filter_map(|pod| way(pod, observed)).filter(|(from, table)| {
        let packets = Packets::From(*from);
        let is = |rule: &RoutingRule, priority| rule.priority == priority && rule.packets == packets;
        standing.iter().any(|rule| is(rule, FROM_POD_PRIORITY) && rule.table == Some(*table))
            && !standing.iter().any(|rule| is(rule, OWN_WAY_PRIORITY))
    });
    let rule =
        |priority, from, table| RoutingRule { family: Family::V4, priority, packets: Packets::From(from), table };
    ways.flat_map(|(from, own)| [rule(CLOSED_PRIORITY, from, None), rule(OWN_WAY_PRIORITY, from, Some(own))]).collect()
}

/// The address of a pod that EC2 agrees on, and the table of its branch.
fn way(pod: &Pod, observed: &Observed) -> Option<(IpAddr, u32)> {
    let branch = pod.branch.as_ref()?.as_ref().ok()?;
    let address =
        branch.private_ip.filter(|_| observed.cloud.as_ref().is_some_and(|cloud| agrees(pod, branch, cloud)))?;
    Some((address.into(), table(branch.vlan_id)))
}

/// Rules of ours for addresses that nobody has wired any more: whoever did has taken its own with it. Our plugin makes and takes all
/// together, so one is left only if it is seen for longer than that takes.
pub fn left(standing: &[RoutingRule]) -> Vec<RoutingRule> {
    let is_ours = |rule: &&RoutingRule| [CLOSED_PRIORITY, OWN_WAY_PRIORITY].contains(&rule.priority);
    let is_wired =
        |packets: &Packets| standing.iter().any(|rule| rule.priority == FROM_POD_PRIORITY && rule.packets == *packets);
    let of_a_pod = |rule: &&RoutingRule| matches!(rule.packets, Packets::From(_)) && !is_wired(&rule.packets);
    standing.iter().filter(is_ours).filter(of_a_pod).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sample;
    use crate::domain::settings::SnatPorts;

    fn observed() -> Observed {
        let mut observed = sample::observed(Vec::new());
        observed.settings.snat = Snat::Node { exclude: Vec::new(), ports: SnatPorts::Prng };
        observed
    }

    fn from_pod(priority: u32, table: Option<u32>) -> RoutingRule {
        let packets = Packets::From("10.0.1.10".parse().expect("an address"));
        RoutingRule { family: Family::V4, priority, packets, table }
    }

    #[test]
    fn a_pod_that_aws_node_wired_is_kept_to_its_branch_by_two_rules_more() {
        let wired = [from_pod(FROM_POD_PRIORITY, Some(101))];
        let wanted = [from_pod(CLOSED_PRIORITY, None), from_pod(OWN_WAY_PRIORITY, Some(101))];
        assert_eq!(missing(&observed(), &wired), wanted);
        let all = [&wired[..], &wanted].concat();
        assert_eq!((missing(&observed(), &all), left(&all)), (vec![], vec![]), "and they stay while it does");
    }

    #[test]
    fn nothing_is_added_where_nobody_translates_or_the_pod_is_wired_otherwise() {
        let mut external = observed();
        external.settings.snat = Snat::External;
        assert_eq!(missing(&external, &[from_pod(FROM_POD_PRIORITY, Some(101))]), []);
        assert_eq!(missing(&observed(), &[from_pod(FROM_POD_PRIORITY, Some(102))]), [], "an earlier pod's");
        assert_eq!(missing(&observed(), &[]), []);
    }

    #[test]
    fn rules_whose_pod_is_gone_are_left() {
        let ours = [from_pod(CLOSED_PRIORITY, None), from_pod(OWN_WAY_PRIORITY, Some(101))];
        assert_eq!(left(&ours), ours);
    }
}
