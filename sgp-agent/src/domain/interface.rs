//! An elastic network interface as EC2 describes it, and who carries its groups.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sgp_common::Addr;
use sgp_common::addr::{is_v4_mapped, prefix_name};

use super::desired::mapped;
use super::groups::{GroupSet, cidr};

/// Length of a prefix that EC2 delegates to an interface, of IPv4 (EC2 user guide, prefix delegation).
const DELEGATED_V4: u8 = 28;
/// Likewise, of IPv6.
const DELEGATED_V6: u8 = 80;

/// A prefix that is delegated to an interface.
///
/// # Errors
/// A sentence, where it is no CIDR, or not of the one length that its family has.
pub fn delegated(text: &str) -> Result<IpNet, String> {
    let net = cidr(text)?;
    let length = if net.addr().is_ipv4() { DELEGATED_V4 } else { DELEGATED_V6 };
    if net.prefix_len() == length { Ok(net) } else { Err(format!("{text}: EC2 delegates prefixes of /{length}")) }
}

/// An elastic network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkInterface {
    /// `eni-…`
    pub id: String,
    /// MAC address, lower-case colon form.
    pub mac: String,
    /// Private addresses of both families, the primary ones first.
    pub addresses: Vec<IpAddr>,
    /// Prefixes delegated to it: /28 of IPv4, /80 of IPv6. Pods of the VPC CNI have their addresses out of these.
    pub prefixes: Vec<IpNet>,
    /// Its groups.
    pub groups: GroupSet,
    /// `trunk`, `branch`, `interface`, …
    pub interface_type: String,
    /// `available`, `in-use`, …
    pub status: String,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// `i-…` it is attached to, and the attachment's status.
    pub attachment: Option<Attachment>,
    /// Subnet.
    pub subnet_id: String,
    /// How long its tracked connections may be idle.
    pub timeouts: Timeouts,
}

impl NetworkInterface {
    /// Whatever address carries its groups: its own, and all of its prefixes. An IPv6 prefix has a name among addresses
    /// ([`prefix_name`]), and who has that very address without the prefix is nobody: EC2 gives none such by itself.
    pub fn members(&self) -> impl Iterator<Item = Addr> {
        let nameless = |addr: &Addr| is_v4_mapped(addr) || prefix_name(addr) != *addr;
        let parts =
            |net: &IpNet| net.subnets(if net.addr().is_ipv4() { 32 } else { DELEGATED_V6 }).into_iter().flatten();
        let name = |net: IpNet| match (net, mapped(net.network())) {
            (IpNet::V4(_), addr) => addr,
            (IpNet::V6(_), addr) => prefix_name(&addr),
        };
        let own = self.addresses.iter().copied().map(mapped).filter(nameless);
        own.chain(self.prefixes.iter().flat_map(parts).map(name))
    }
}

/// Idle timeouts of tracked connections, in seconds: an interface's `ConnectionTrackingConfiguration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established: 60 to 432,000.
    pub tcp_established_s: u32,
    /// UDP of one direction, or of one question and its answer: 30 to 60.
    pub udp_s: u32,
    /// UDP with more than one question and answer: 60 to 180.
    pub udp_stream_s: u32,
}

impl Default for Timeouts {
    /// EC2's defaults (EC2 user guide, idle connection tracking timeout).
    fn default() -> Self {
        Self { tcp_established_s: 432_000, udp_s: 30, udp_stream_s: 180 }
    }
}

/// Where an interface is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// `eni-attach-…`
    pub id: String,
    /// `i-…`
    pub instance_id: String,
    /// Device index, on its network card.
    pub device_index: u32,
    /// Network card; the primary interface and all that VPC CNI and a trunk take are on card 0 (facts 2.3).
    pub network_card: u32,
    /// `attaching`, `attached`, `detaching`, `detached`
    pub status: String,
    /// Whether the interface dies with the instance.
    pub delete_on_termination: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str], prefixes: &[&str]) -> NetworkInterface {
        NetworkInterface {
            addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
            prefixes: prefixes.iter().map(|text| delegated(text).expect("a prefix")).collect(),
            ..NetworkInterface::default()
        }
    }

    fn members(eni: &NetworkInterface) -> Vec<String> {
        eni.members().map(|addr| crate::domain::membership::text(&addr)).collect()
    }

    #[test]
    fn sixteen_addresses_of_an_ipv4_prefix_are_members_and_an_ipv6_prefix_is_one_of_its_own_name() {
        let eni = of(&["10.0.0.5", "2001:db8::5"], &["10.0.9.16/28", "2001:db8:0:1:2::/80"]);
        let members = members(&eni);
        assert_eq!(members.len(), 2 + 16 + 1);
        assert_eq!(members[2..4], ["10.0.9.16", "10.0.9.17"]);
        assert_eq!(members[17..], ["10.0.9.31", "2001:db8:0:1:2:ffff:ffff:ffff"]);
    }

    #[test]
    fn an_address_that_is_called_like_its_prefix_speaks_for_nobody_else_in_it() {
        assert_eq!(members(&of(&["2001:db8::ffff:ffff:ffff", "255.255.255.255"], &[])), ["255.255.255.255"]);
    }

    #[test]
    fn prefixes_of_other_lengths_are_no_delegated_ones() {
        for (text, length) in [("10.0.0.0/24", "/28"), ("2001:db8::/64", "/80")] {
            assert!(delegated(text).is_err_and(|reason| reason.contains(text) && reason.ends_with(length)));
        }
    }
}
