//! The node's own way out of the VPC, which standard-mode pods share (facts 4).

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};
use sgp_common::endpoint::Endpoint;
use sgp_common::limits::{SNAT_PORT_FIRST, SNAT_PORT_LAST};
use sgp_common::snat::{Node, SnatPolicy, SnatPorts};

use super::desired::{first, offset, timeouts};
use super::groups::EndpointId;
use super::observed::{Attachment, CloudFacts, LinkFacts, NetworkInterface};
use super::prefix::{self, Prefix};
use super::settings::{self, Settings, Snat};
use super::wiring::parse_mac;

/// What the data path needs to know of the primary interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Endpoint of the primary interface.
    pub id: EndpointId,
    /// Its map value: whose groups judge translated flows.
    pub endpoint: Endpoint,
    /// Value of `NODE`.
    pub node: Node,
    /// Name of the interface.
    pub interface: String,
    /// Destinations reached by a branch and under the pod's own address.
    pub excluded: BTreeSet<Prefix>,
}

/// The plan, if the primary interface is known and has an IPv4 address.
pub(super) fn plan(
    cloud: &CloudFacts,
    links: &[LinkFacts],
    settings: &Settings,
    policy: SnatPolicy,
) -> Option<NodePlan> {
    let eni = primary(cloud)?;
    let mac = parse_mac(&eni.mac)?;
    let link = links.iter().find(|link| link.mac == mac)?;
    let addr = first(&eni.addresses, std::net::IpAddr::is_ipv4);
    let subnet = cloud.instance.subnet_cidr.as_ref().filter(|_| addr != sgp_common::addr::UNSPECIFIED)?;
    let id = EndpointId::of(&eni.id);
    let (excluded, ports) = told(&settings.snat, &cloud.vpc_cidrs);
    let node = Node {
        endpoint: id.0,
        addr,
        gateway: offset(subnet, 1),
        ifindex: link.index,
        first_port: SNAT_PORT_FIRST,
        last_port: SNAT_PORT_LAST,
        policy,
        ports,
        reserved: [0; 2],
        mark: settings.mark,
    };
    Some(NodePlan { id, endpoint: endpoint(eni, link, &node), node, interface: link.name.clone(), excluded })
}

/// The interface at device index 0 of the first network card.
fn primary(cloud: &CloudFacts) -> Option<&NetworkInterface> {
    let here = |eni: &&NetworkInterface| {
        let first =
            |at: &Attachment| at.instance_id == cloud.instance.id && (at.network_card, at.device_index) == (0, 0);
        eni.attachment.as_ref().is_some_and(first)
    };
    cloud.interfaces.values().find(here)
}

fn endpoint(eni: &NetworkInterface, link: &LinkFacts, node: &Node) -> Endpoint {
    Endpoint {
        group_set: eni.groups.id().0,
        ipv4: node.addr,
        ipv6: first(&eni.addresses, std::net::IpAddr::is_ipv6),
        router: node.gateway,
        resolver: sgp_common::addr::UNSPECIFIED,
        branch_ifindex: link.index,
        host_ifindex: link.index,
        timeouts: timeouts(eni),
        settings: 0,
        vlan_id: 0,
        pod_mac: link.mac,
    }
}

/// What the operator says: what is not translated, and how ports are chosen.
fn told(snat: &Snat, vpc_cidrs: &[IpNet]) -> (BTreeSet<Prefix>, SnatPorts) {
    match snat {
        Snat::External => ([prefix::key(&Ipv4Net::default().into())].into(), SnatPorts::Random),
        Snat::Node { exclude, ports } => {
            let v4 = vpc_cidrs.iter().filter(|net| matches!(net, IpNet::V4(_)));
            let excluded = v4.map(prefix::key).chain(exclude.iter().map(|net| prefix::key(&IpNet::V4(*net)))).collect();
            let ports = match ports {
                settings::SnatPorts::Prng => SnatPorts::Random,
                settings::SnatPorts::HashRandom => SnatPorts::Hash,
                settings::SnatPorts::Keep => SnatPorts::Keep,
            };
            (excluded, ports)
        }
    }
}

/// Group sets that the primary interface needs a policy of.
pub(super) fn group_sets(plan: Option<&NodePlan>) -> impl Iterator<Item = u64> {
    plan.map(|plan| plan.endpoint.group_set).into_iter()
}

#[cfg(test)]
mod tests {
    use super::super::desired::mapped;
    use super::*;

    #[test]
    fn the_vpc_and_what_the_operator_excludes_is_reached_untranslated() {
        let vpc: Vec<IpNet> =
            ["10.0.0.0/16", "100.64.0.0/16", "2001:db8::/56"].map(|net| net.parse().expect("a CIDR")).into();
        let snat =
            Snat::Node { exclude: vec!["198.51.100.0/24".parse().expect("a CIDR")], ports: settings::SnatPorts::Keep };
        let (excluded, ports) = told(&snat, &vpc);
        let v4 = |text: &str| mapped(text.parse().expect("an address"));
        let expected = [(112, v4("10.0.0.0")), (112, v4("100.64.0.0")), (120, v4("198.51.100.0"))];
        assert_eq!((excluded, ports), (expected.into(), SnatPorts::Keep));
        assert_eq!(told(&Snat::External, &vpc).0, [(96, v4("0.0.0.0"))].into(), "somebody else translates");
    }
}
