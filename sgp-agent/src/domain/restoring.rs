//! Routes of a pod that its interfaces have lost: with an interface that is set down the kernel takes its routes away, and
//! brings none back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use sgp_common::addr::Family;

use super::adoption::{agrees, has_branch_link};
use super::observed::{BranchAnnotation, CloudFacts, LinkFacts, Observed, Pod};
use super::routing::{PodRoute, Way};
use super::wiring::{Alias, Mode, STRICT_PREFIX, VPC_ROUTER_V6, Wired, branch_interface, host_interface};

/// A route that is there: table, destination, and the index of the interface it leads out of.
pub type Standing = (u32, IpNet, u32);

/// A route that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The route.
    pub route: PodRoute,
    /// Index of the interface it needs.
    pub device: u32,
    /// Name of the pod's host veth.
    pub host: String,
}

/// What is missing of the pods that are wired, in the order in which it can be put back. `prefix` is that of standard
/// mode, `family` the cluster's: pods are wired with no other.
pub fn lost(observed: &Observed, prefix: &str, family: Family, standing: &BTreeSet<Standing>) -> Vec<Lost> {
    let (Some(cluster), Some(cloud), Some(links)) = (&observed.cluster, &observed.cloud, &observed.links) else {
        return Vec::new();
    };
    let pods = cluster.pods.values();
    let wanted = pods.flat_map(|pod| wired(pod, cloud, links, prefix, family).unwrap_or_default());
    wanted.filter(|lost| !standing.contains(&(lost.route.table, lost.route.to, lost.device))).collect()
}

/// All routes of a pod; `None` where it is not wired by our plugin.
fn wired(pod: &Pod, cloud: &CloudFacts, links: &[LinkFacts], prefix: &str, family: Family) -> Option<Vec<Lost>> {
    let branch = pod.branch.as_ref()?.as_ref().ok()?;
    if !agrees(pod, branch, cloud) || !has_branch_link(branch, links) {
        return None;
    }
    let names = [Mode::Strict, Mode::Standard].map(|mode| host_interface(mode, prefix, &pod.namespace, &pod.name));
    let host = links.iter().find(|link| names.contains(&link.name) && is_of(pod, link))?;
    let device = links.iter().find(|link| link.name == branch_interface(branch.vlan_id))?.index;
    let mode = if host.name.starts_with(STRICT_PREFIX) { Mode::Strict } else { Mode::Standard };
    let (address, router) = end(branch, family)?;
    let routes = Wired { mode, host: &host.name, vlan_id: branch.vlan_id, address, router }.routes();
    let lost = |route: PodRoute| {
        let device = if route.way == Way::Pod { host.index } else { device };
        Lost { route, device, host: host.name.clone() }
    };
    Some(routes.into_iter().map(lost).collect())
}

fn is_of(pod: &Pod, link: &LinkFacts) -> bool {
    link.alias.as_deref().and_then(Alias::parse).is_some_and(|alias| alias.uid == pod.uid)
}

/// The pod's address, and the router of its subnet.
fn end(branch: &BranchAnnotation, family: Family) -> Option<(IpAddr, IpAddr)> {
    let router = |subnet: ipnet::Ipv4Net| std::net::Ipv4Addr::from(u32::from(subnet.network()) + 1);
    match family {
        Family::V4 => Some((branch.private_ip?.into(), router(branch.subnet_cidr?).into())),
        Family::V6 => Some((branch.ipv6_addr?.into(), VPC_ROUTER_V6.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::sample::{self, link};

    /// A standard pod, wired for the pod of this UID.
    fn observed(uid: &str) -> Observed {
        let alias = Alias { interface_id: "eni-1".into(), uid: uid.into(), mac: [2; 6] };
        sample::observed(vec![link("enicc21c2d7785", 7, Some(&alias.write())), link("vlan.eth.1", 8, None)])
    }

    fn standing(text: &str) -> BTreeSet<Standing> {
        let route = |line: &str| {
            let [table, to, device] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            (table.parse().expect("a table"), to.parse().expect("a CIDR"), device.parse().expect("an index"))
        };
        text.lines().map(route).collect()
    }

    #[test]
    fn what_went_with_a_branch_that_was_down_is_named_router_first() {
        let lost = |text| lost(&observed("u1"), "eni", Family::V4, &standing(text));
        assert_eq!(lost("101 10.0.1.1/32 8\n101 0.0.0.0/0 8\n254 10.0.1.10/32 7"), []);
        let named: Vec<(u32, String, u32)> = lost("254 10.0.1.10/32 7\n101 0.0.0.0/0 9")
            .iter()
            .map(|lost| (lost.route.table, lost.route.to.to_string(), lost.device))
            .collect();
        assert_eq!(named, [(101, "10.0.1.1/32".to_owned(), 8), (101, "0.0.0.0/0".to_owned(), 8)]);
    }

    #[test]
    fn a_pod_that_somebody_else_stands_for_is_left_alone() {
        assert_eq!(lost(&observed("another"), "eni", Family::V4, &BTreeSet::new()), []);
    }
    #[test]
    fn a_branch_has_addresses_of_both_families_and_a_pod_only_the_clusters() {
        assert_eq!(lost(&observed("u1"), "eni", Family::V6, &BTreeSet::new()), []);
    }
}
