//! The scenario as it is written: JSON, of which the AWS parts are what the AWS CLI prints.
//!
//! Keys that are ours are all known, so that a typing error is told; AWS prints many that no verdict rests on,
//! and those are passed over.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use super::text::{Delegated, Flags, Hex, Mac, Net, Protocol, Seconds, ipv4_net, ipv6_net};

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Scenario {
    pub(super) security_groups: Vec<SecurityGroup>,
    pub(super) network_interfaces: Vec<NetworkInterface>,
    #[serde(default)]
    pub(super) prefix_lists: BTreeMap<String, Vec<Net>>,
    pub(super) endpoint: String,
    #[serde(default)]
    pub(super) vpc: Vpc,
    pub(super) steps: Vec<Step>,
}

/// Keys of the scenario that a step replaces.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Update {
    pub(super) security_groups: Option<Vec<SecurityGroup>>,
    pub(super) network_interfaces: Option<Vec<NetworkInterface>>,
    pub(super) prefix_lists: Option<BTreeMap<String, Vec<Net>>>,
    pub(super) endpoint: Option<String>,
    pub(super) vpc: Option<Vpc>,
}

impl Update {
    /// Names of the keys it has.
    pub(super) fn keys(&self) -> Vec<&'static str> {
        let keys = [
            ("SecurityGroups", self.security_groups.is_some()),
            ("NetworkInterfaces", self.network_interfaces.is_some()),
            ("PrefixLists", self.prefix_lists.is_some()),
            ("Endpoint", self.endpoint.is_some()),
            ("Vpc", self.vpc.is_some()),
        ];
        keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

/// One of `describe-security-groups`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SecurityGroup {
    pub(super) group_id: String,
    #[serde(default)]
    pub(super) vpc_id: String,
    #[serde(default)]
    pub(super) ip_permissions: Vec<Permission>,
    #[serde(default)]
    pub(super) ip_permissions_egress: Vec<Permission>,
}

/// What is allowed, and with whom: one rule for each of the peers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Permission {
    pub(super) ip_protocol: String,
    pub(super) from_port: Option<i32>,
    pub(super) to_port: Option<i32>,
    #[serde(default)]
    pub(super) ip_ranges: Vec<IpRange>,
    #[serde(default)]
    pub(super) ipv6_ranges: Vec<Ipv6Range>,
    #[serde(default)]
    pub(super) prefix_list_ids: Vec<PrefixListId>,
    #[serde(default)]
    pub(super) user_id_group_pairs: Vec<GroupPair>,
    /// Not printed by `describe-security-groups`, but said where people know it.
    pub(super) security_group_rule_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IpRange {
    #[serde(deserialize_with = "ipv4_net")]
    pub(super) cidr_ip: IpNet,
    pub(super) security_group_rule_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ipv6Range {
    #[serde(deserialize_with = "ipv6_net")]
    pub(super) cidr_ipv6: IpNet,
    pub(super) security_group_rule_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PrefixListId {
    pub(super) prefix_list_id: String,
    pub(super) security_group_rule_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GroupPair {
    pub(super) group_id: String,
    pub(super) peering_status: Option<String>,
    pub(super) security_group_rule_id: Option<String>,
}

/// One of `describe-network-interfaces`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkInterface {
    pub(super) network_interface_id: String,
    pub(super) mac_address: Option<Mac>,
    pub(super) private_ip_address: Option<Ipv4Addr>,
    #[serde(default)]
    pub(super) private_ip_addresses: Vec<PrivateAddress>,
    #[serde(default)]
    pub(super) ipv6_addresses: Vec<Ipv6Address>,
    #[serde(default)]
    pub(super) ipv4_prefixes: Vec<Ipv4Prefix>,
    #[serde(default)]
    pub(super) ipv6_prefixes: Vec<Ipv6Prefix>,
    #[serde(default)]
    pub(super) groups: Vec<GroupId>,
    pub(super) subnet_id: Option<String>,
    /// The request that sets it calls it a specification.
    #[serde(default, alias = "ConnectionTrackingSpecification")]
    pub(super) connection_tracking_configuration: Tracking,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PrivateAddress {
    pub(super) private_ip_address: Ipv4Addr,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ipv6Address {
    pub(super) ipv6_address: Ipv6Addr,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ipv4Prefix {
    pub(super) ipv4_prefix: Delegated,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Ipv6Prefix {
    pub(super) ipv6_prefix: Delegated,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GroupId {
    pub(super) group_id: String,
}

/// Idle timeouts, in the bounds EC2 accepts (facts 5.2).
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Tracking {
    pub(super) tcp_established_timeout: Option<Seconds<60, 432_000>>,
    pub(super) udp_timeout: Option<Seconds<30, 60>>,
    pub(super) udp_stream_timeout: Option<Seconds<60, 180>>,
}

/// What of the VPC decides what is never filtered.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Vpc {
    #[serde(default)]
    pub(super) cidrs: Vec<Net>,
    #[serde(default)]
    pub(super) subnets: Vec<Subnet>,
}

/// One of `describe-subnets`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Subnet {
    pub(super) subnet_id: String,
    pub(super) cidr_block: Ipv4Net,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) name: Option<String>,
    /// Seconds since the start.
    pub(super) at: Option<f64>,
    pub(super) packet: Option<Packet>,
    pub(super) update: Option<Box<Update>>,
    pub(super) expect: Option<Expect>,
}

/// What somebody says of a packet's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// It passes.
    Allow,
    /// It does not.
    Drop,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    In,
    Out,
}

/// A packet in fields, or as a whole frame.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Packet {
    pub(super) direction: Way,
    pub(super) frame: Option<Hex>,
    pub(super) protocol: Option<Protocol>,
    pub(super) source: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
    pub(super) flags: Option<Flags>,
    pub(super) icmp_type: Option<u8>,
    pub(super) icmp_code: Option<u8>,
    pub(super) icmp_id: Option<u16>,
    pub(super) fragment: Option<Fragment>,
    /// The step's, said inside.
    pub(super) expect: Option<Expect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fragment {
    pub(super) id: u32,
    /// Where it begins in the datagram, in bytes.
    #[serde(default)]
    pub(super) offset: u32,
    /// Whether another one follows.
    #[serde(default)]
    pub(super) more: bool,
}
