//! From what AWS prints to the facts that verdicts rest on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::Ipv4Net;
use sgp_common::Direction;

use super::given;
use super::place::Place;
use crate::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, Service};
use crate::domain::model::World;
use crate::domain::observed::{CloudFacts, NetworkInterface, Timeouts};
use crate::domain::wiring::mac_text;

/// MAC address of an interface that is given without: any that nobody else has.
const NO_MAC: &str = "02:00:00:00:00:01";

/// Everything a scenario has said so far.
#[derive(Default)]
pub(super) struct Facts {
    cloud: CloudFacts,
    endpoint: String,
    subnets: BTreeMap<String, Ipv4Net>,
}

impl Facts {
    /// Replaces what `update` has, whole keys at a time.
    pub(super) fn replace(&mut self, update: given::Update, place: &Place) -> Result<(), String> {
        if let Some(groups) = update.security_groups {
            self.cloud.groups = security_groups(groups, &place.key("SecurityGroups"))?;
        }
        if let Some(interfaces) = update.network_interfaces {
            self.cloud.interfaces = network_interfaces(interfaces, &place.key("NetworkInterfaces"))?;
        }
        if let Some(lists) = update.prefix_lists {
            let nets = |list: Vec<super::text::Net>| list.into_iter().map(|net| net.0).collect();
            self.cloud.prefix_lists = lists.into_iter().map(|(id, list)| (id, nets(list))).collect();
        }
        if let Some(endpoint) = update.endpoint {
            self.endpoint = endpoint;
        }
        if let Some(vpc) = update.vpc {
            self.cloud.vpc_cidrs = vpc.cidrs.into_iter().map(|net| net.0).collect();
            self.subnets =
                vpc.subnets.into_iter().map(|subnet| (subnet.subnet_id, subnet.cidr_block.trunc())).collect();
        }
        Ok(())
    }

    /// The world as it is now: the endpoint stands, and all that judges it is known.
    pub(super) fn world(&self, place: &Place) -> Result<World, String> {
        let id = &self.endpoint;
        let interface = self.cloud.interfaces.get(id);
        let interface =
            interface.ok_or_else(|| place.key("Endpoint").says(&format!("{id:?} is none of the NetworkInterfaces")))?;
        if let Some(group) = interface.groups.0.iter().find(|group| !self.cloud.groups.contains_key(*group)) {
            return Err(place.key("SecurityGroups").says(&format!("{group} is missing, which {id} carries")));
        }
        let mut cloud = self.cloud.clone();
        cloud.instance.subnet_cidr = self.subnets.get(&interface.subnet_id).copied();
        Ok(World { cloud, endpoint: id.clone() })
    }
}

fn security_groups(given: Vec<given::SecurityGroup>, place: &Place) -> Result<BTreeMap<String, SecurityGroup>, String> {
    let mut groups = BTreeMap::new();
    for (index, group) in given.into_iter().enumerate() {
        let (place, id) = (place.index(index), group.group_id);
        let mut rules = Vec::new();
        for (key, direction, permissions) in [
            ("IpPermissions", Direction::Inbound, group.ip_permissions),
            ("IpPermissionsEgress", Direction::Outbound, group.ip_permissions_egress),
        ] {
            for (index, permission) in permissions.into_iter().enumerate() {
                let place = place.key(key).index(index);
                rules.extend(rules_of(permission, &id, direction).map_err(|why| place.says(&why))?);
            }
        }
        let group = SecurityGroup { id: id.clone(), vpc_id: group.vpc_id, rules };
        if groups.insert(id.clone(), group).is_some() {
            return Err(place.says(&format!("{id} is there twice")));
        }
    }
    Ok(groups)
}

/// One rule for each peer, as EC2 counts them.
fn rules_of(permission: given::Permission, group_id: &str, direction: Direction) -> Result<Vec<Rule>, String> {
    let service = Service::of(&permission.ip_protocol, permission.from_port, permission.to_port)?;
    let of_all = permission.security_group_rule_id.clone();
    let rule = |(remote, id): (Remote, Option<String>)| {
        let id = id.or_else(|| of_all.clone()).unwrap_or_else(|| described(direction, service, &remote));
        Rule { id, group_id: group_id.to_owned(), direction, service, remote }
    };
    Ok(remotes(permission).into_iter().map(rule).collect())
}

/// With whom, each with the rule's id where one is said.
fn remotes(permission: given::Permission) -> Vec<(Remote, Option<String>)> {
    let v4 = permission.ip_ranges.into_iter().map(|range| (Remote::Cidr(range.cidr_ip), range.security_group_rule_id));
    let v6 = permission.ipv6_ranges.into_iter();
    let v6 = v6.map(|range| (Remote::Cidr(range.cidr_ipv6), range.security_group_rule_id));
    let lists = permission.prefix_list_ids.into_iter();
    let lists = lists.map(|list| (Remote::PrefixList(list.prefix_list_id), list.security_group_rule_id));
    let groups = permission.user_id_group_pairs.into_iter().map(|pair| {
        // Only references across a peering carry a status (facts 5.1).
        let active = pair.peering_status.is_none_or(|status| status.is_empty() || status == "active");
        let remote = if active { Remote::Group(pair.group_id) } else { Remote::Stale(pair.group_id) };
        (remote, pair.security_group_rule_id)
    });
    v4.chain(v6).chain(lists).chain(groups).collect()
}

/// A name for a rule whose id nobody gave: what it says, such as `ingress tcp 80-443 10.0.0.0/8`.
fn described(direction: Direction, service: Service, remote: &Remote) -> String {
    let direction = match direction {
        Direction::Inbound => "ingress",
        Direction::Outbound => "egress",
    };
    format!("{direction} {service} {remote}")
}

fn network_interfaces(
    given: Vec<given::NetworkInterface>,
    place: &Place,
) -> Result<BTreeMap<String, NetworkInterface>, String> {
    let mut interfaces = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    for (index, given) in given.into_iter().enumerate() {
        let (place, interface) = (place.index(index), network_interface(given));
        let id = interface.id.clone();
        for address in &interface.addresses {
            if let Some(owner) = owners.insert(*address, id.clone()) {
                return Err(place.says(&format!("{id} has the address {address}, which {owner} has too")));
            }
        }
        if interfaces.insert(id.clone(), interface).is_some() {
            return Err(place.says(&format!("{id} is there twice")));
        }
    }
    Ok(interfaces)
}

fn network_interface(given: given::NetworkInterface) -> NetworkInterface {
    let v4 = given.private_ip_addresses.into_iter().map(|address| address.private_ip_address);
    let v6 = given.ipv6_addresses.into_iter().map(|address| IpAddr::V6(address.ipv6_address));
    let all = given.private_ip_address.into_iter().chain(v4).map(IpAddr::V4).chain(v6);
    let prefixes = given.ipv4_prefixes.into_iter().map(|prefix| prefix.ipv4_prefix);
    let prefixes = prefixes.chain(given.ipv6_prefixes.into_iter().map(|prefix| prefix.ipv6_prefix));
    // The primary address is listed once more among all.
    let mut seen = BTreeSet::new();
    NetworkInterface {
        id: given.network_interface_id,
        mac: given.mac_address.map_or_else(|| NO_MAC.to_owned(), |mac| mac_text(&mac.0)),
        addresses: all.filter(|address| seen.insert(*address)).collect(),
        prefixes: prefixes.map(|prefix| prefix.0).collect(),
        groups: GroupSet::of(given.groups.into_iter().map(|group| group.group_id)),
        subnet_id: given.subnet_id.unwrap_or_default(),
        timeouts: timeouts(&given.connection_tracking_configuration),
        ..NetworkInterface::default()
    }
}

/// What an interface does not set is EC2's default.
fn timeouts(given: &given::Tracking) -> Timeouts {
    let default = Timeouts::default();
    Timeouts {
        tcp_established_s: given.tcp_established_timeout.map_or(default.tcp_established_s, |seconds| seconds.0),
        udp_s: given.udp_timeout.map_or(default.udp_s, |seconds| seconds.0),
        udp_stream_s: given.udp_stream_timeout.map_or(default.udp_stream_s, |seconds| seconds.0),
    }
}
