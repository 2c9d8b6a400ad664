//! Destinations of which first packets take the host stack, also where others go past it.

use std::collections::BTreeSet;

use ipnet::IpNet;
use sgp_common::limits::STACK_NETS_MAX;

use super::desired::Refusal;
use super::enforcement::Shortcuts;
use super::observed::Observed;
use super::prefix::{self, Prefix};

/// What no router is sent: "this network", loopback, multicast, reserved and broadcast (RFC 6890, RFC 5771); of IPv6, the
/// unspecified and the loopback address, and multicast (RFC 4291). The stack drops it, or keeps it on the node.
const NOBODYS: [&str; 5] = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8"];

/// What `STACK_NETS` should hold: what kube-proxy gives other addresses, which are those of Services and, of the node's own ports,
/// those of the node; `None` where all first packets take the host stack. Routes say the rest (`sgp-ebpf/src/shortcut.rs`).
///
/// # Errors
/// Where they are wanted past it and may not go.
pub fn plan(observed: &Observed) -> Result<Option<BTreeSet<Prefix>>, Refusal> {
    if observed.enforcement.shortcuts != Shortcuts::All {
        return Ok(None);
    }
    let known = observed.cluster.as_ref().and_then(|cluster| cluster.services.as_ref());
    let refused = |reason: String| Refusal { object: "--shortcut all".into(), reason };
    let services = known.ok_or_else(|| {
        refused("the role may not list Services: grant list and watch of services (deploy/rbac.yaml) to have first packets go past the host stack".into())
    })?;
    let own = observed.own_addresses.iter().copied().map(IpNet::from);
    let nobodys = NOBODYS.iter().filter_map(|net| net.parse().ok());
    let nets = fewest(services.iter().copied().chain(own).chain(nobodys));
    match nets.len() <= STACK_NETS_MAX as usize {
        true => Ok(Some(nets)),
        false => Err(refused(format!(
            "Services and the node have {} addresses of at most {STACK_NETS_MAX}, so first packets take the host stack",
            nets.len()
        ))),
    }
}

/// Without what is within others: of a cluster that tells the ranges of its ClusterIPs, little more than these remains.
fn fewest(all: impl Iterator<Item = IpNet>) -> BTreeSet<Prefix> {
    IpNet::aggregate(&all.collect::<Vec<_>>()).iter().map(prefix::key).collect()
}

#[cfg(test)]
mod tests {
    use super::super::enforcement::Enforcement;
    use super::super::observed::ClusterFacts;
    use super::*;

    fn observed(services: Option<&[&str]>) -> Observed {
        let services = services.map(|nets| nets.iter().map(|net| net.parse().expect("a CIDR")).collect());
        let enforcement = Enforcement { shortcuts: Shortcuts::All, ..Enforcement::default() };
        let cluster = Some(ClusterFacts { services, ..ClusterFacts::default() });
        Observed { cluster, enforcement, ..Observed::default() }
    }

    fn planned(observed: &Observed) -> BTreeSet<Prefix> {
        plan(observed).expect("they have room").expect("they are wanted")
    }

    fn key(net: &str) -> Prefix {
        prefix::key(&net.parse().expect("a CIDR"))
    }

    #[test]
    fn ranges_of_cluster_ips_stand_for_the_addresses_within() {
        let nets = ["10.100.0.0/16", "10.100.0.10/32", "fd00::/108", "fd00::a/128", "198.51.100.7/32"];
        let expected = ["10.100.0.0/16", "fd00::/108", "198.51.100.7/32"].iter().chain(&NOBODYS);
        assert_eq!(planned(&observed(Some(&nets))), expected.map(|net| key(net)).collect());
    }

    #[test]
    fn the_nodes_own_addresses_and_what_is_nobodys_take_the_stack() {
        let own_addresses = ["10.0.1.10", "fe80::1"].map(|addr| addr.parse().expect("an address")).into();
        let found = planned(&Observed { own_addresses, ..observed(Some(&[])) });
        let expected = ["10.0.1.10/32", "fe80::1/128"].iter().chain(&NOBODYS);
        assert_eq!(found, expected.map(|net| key(net)).collect());
    }

    #[test]
    fn who_may_not_know_services_is_told_what_to_grant_and_nothing_goes_straight() {
        assert!(plan(&observed(None)).expect_err("unknown").reason.contains("list and watch"));
        let auto = Observed { enforcement: Enforcement::default(), ..observed(None) };
        assert_eq!(plan(&auto), Ok(None), "nobody asked");
    }
}
