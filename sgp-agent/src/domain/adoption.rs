//! Pods that somebody else wired, AWS's own plugin above all: their host veths are known by name, annotation and
//! route. Once one bears our alias it is an endpoint like any other, and stays one when its pod object is gone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::branches::{POD_UID_TAG, VLAN_TAG};
use super::observed::{BranchAnnotation, CloudFacts, LinkFacts, Observed, Pod};
use super::wiring::{Alias, Mode, branch_interface, host_interface, mac_text};

/// A host veth without our alias that is a pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Name of the host veth.
    pub host: String,
    /// Its index.
    pub index: u32,
    /// The branch, `eni-…`.
    pub interface_id: String,
    /// Pod UID.
    pub uid: String,
}

/// Host veths to adopt. `prefix` is that of standard mode; `routes` are the node's routes to single addresses,
/// with the index of the interface each leads out of: a veth of an earlier pod of the same name does not lead to
/// the address of this one.
pub fn found(observed: &Observed, prefix: &str, routes: &BTreeSet<(IpAddr, u32)>) -> Vec<Found> {
    let (Some(cluster), Some(cloud), Some(links)) = (&observed.cluster, &observed.cloud, &observed.links) else {
        return Vec::new();
    };
    let branch_of = |pod: &Pod| pod.branch.as_ref()?.as_ref().ok().cloned();
    let pods = cluster.pods.values().filter_map(|pod| Some((pod, branch_of(pod)?)));
    let pods = pods.filter(|(pod, branch)| agrees(pod, branch, cloud) && has_branch_link(branch, links));
    let hosts = pods.flat_map(|(pod, branch)| {
        let names = [Mode::Strict, Mode::Standard].map(|mode| host_interface(mode, prefix, &pod.namespace, &pod.name));
        let hosts = links.iter().filter(move |link| names.contains(&link.name) && !is_ours(link));
        hosts.map(move |host| (host, pod, branch.clone()))
    });
    let leads = |host: &LinkFacts, branch: &BranchAnnotation| {
        addresses(branch).any(|address| routes.contains(&(address, host.index)))
    };
    let hosts = hosts.filter(|(host, _, branch)| leads(host, branch));
    hosts.map(|(host, pod, branch)| Found::of(host, pod, &branch)).collect()
}

impl Found {
    fn of(host: &LinkFacts, pod: &Pod, branch: &BranchAnnotation) -> Self {
        Self {
            host: host.name.clone(),
            index: host.index,
            interface_id: branch.interface_id.clone(),
            uid: pod.uid.clone(),
        }
    }

    /// The alias that makes it an endpoint; `mac` is that of the pod's own end.
    pub fn alias(&self, mac: [u8; 6]) -> Alias {
        Alias { interface_id: self.interface_id.clone(), uid: self.uid.clone(), mac }
    }
}

/// Whether EC2 agrees with a pod's annotation, which anybody who may create pods can write. A branch that is not
/// of our making carries no pod's UID; there, AWS's webhook guards the annotation.
pub fn agrees(pod: &Pod, branch: &BranchAnnotation, cloud: &CloudFacts) -> bool {
    let Some(eni) = cloud.interfaces.get(&branch.interface_id) else { return false };
    let associated = cloud.associations.get(&branch.interface_id).map(|at| at.vlan_id);
    let vlan_id = associated.or_else(|| eni.tags.get(VLAN_TAG)?.parse().ok());
    eni.tags.get(POD_UID_TAG).is_none_or(|uid| *uid == pod.uid)
        && eni.mac == branch.mac
        && addresses(branch).all(|addr| eni.addresses.contains(&addr))
        && vlan_id == Some(branch.vlan_id)
}

fn addresses(branch: &BranchAnnotation) -> impl Iterator<Item = IpAddr> + use<> {
    branch.private_ip.map(IpAddr::V4).into_iter().chain(branch.ipv6_addr.map(IpAddr::V6))
}

/// Whether the branch of an annotation stands on the node.
pub(super) fn has_branch_link(branch: &BranchAnnotation, links: &[LinkFacts]) -> bool {
    let name = branch_interface(branch.vlan_id);
    links.iter().any(|link| link.name == name && mac_text(&link.mac) == branch.mac)
}

fn is_ours(link: &LinkFacts) -> bool {
    link.alias.as_deref().and_then(Alias::parse).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::observed::{Association, NetworkInterface};
    use crate::domain::sample::{self, link};

    /// What AWS's controller and plugin leave on a node, in one mode.
    fn observed(host: LinkFacts) -> Observed {
        sample::observed(vec![host, link("vlan.eth.1", 8, None), link("eth0", 2, None)])
    }

    fn names(observed: &Observed, device: u32) -> Vec<String> {
        let route = ("10.0.1.10".parse().expect("an address"), device);
        found(observed, "eni", &[route].into()).into_iter().map(|found| found.host).collect()
    }

    #[test]
    fn pods_of_the_vpc_cni_are_found_in_both_modes() {
        for host in ["enicc21c2d7785", "vlancc21c2d7785"] {
            assert_eq!(names(&observed(link(host, 7, None)), 7), [host]);
            let alias = Some("somebody's label");
            assert_eq!(names(&observed(link(host, 7, alias)), 7), [host]);
        }
    }

    #[test]
    fn what_is_ours_already_or_another_pods_is_left_alone() {
        let ours = "sgp eni=eni-1 uid=u1 mac=02:00:00:00:00:01";
        assert_eq!(names(&observed(link("enicc21c2d7785", 7, Some(ours))), 7), [""; 0]);
        assert_eq!(names(&observed(link("eni0123456789a", 7, None)), 7), [""; 0]);
        assert_eq!(names(&observed(link("enicc21c2d7785", 7, None)), 9), [""; 0], "an earlier pod of the name");
    }

    #[test]
    fn an_annotation_that_ec2_contradicts_adopts_nothing() {
        let whole = observed(link("enicc21c2d7785", 7, None));
        let with = |change: &dyn Fn(&mut NetworkInterface)| {
            let mut observed = whole.clone();
            let cloud = observed.cloud.as_mut().expect("EC2's facts");
            change(cloud.interfaces.get_mut("eni-1").expect("the branch"));
            names(&observed, 7)
        };
        assert_eq!(with(&|_| {}), ["enicc21c2d7785"]);
        assert_eq!(with(&|eni| eni.mac = "06:00:00:00:00:02".into()), [""; 0]);
        assert_eq!(with(&|eni| eni.addresses.clear()), [""; 0]);
        assert_eq!(with(&|eni| drop(eni.tags.insert(POD_UID_TAG.into(), "another's".into()))), [""; 0]);
        assert_eq!(with(&|eni| drop(eni.tags.insert(VLAN_TAG.into(), "2".into()))), [""; 0]);
    }

    #[test]
    fn what_ec2_says_of_the_association_counts_more_than_a_tag() {
        let mut observed = observed(link("enicc21c2d7785", 7, None));
        let cloud = observed.cloud.as_mut().expect("EC2's facts");
        cloud.associations.insert("eni-1".into(), Association { vlan_id: 2, ..Association::default() });
        assert_eq!(names(&observed, 7), [""; 0]);
    }

    #[test]
    fn a_pod_without_its_branch_link_is_not_adopted() {
        let mut observed = observed(link("enicc21c2d7785", 7, None));
        observed.links.as_mut().expect("links").retain(|link| link.name != "vlan.eth.1");
        assert_eq!(names(&observed, 7), [""; 0]);
    }
}
