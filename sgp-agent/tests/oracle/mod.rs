//! What EC2 would say, written from its documentation and from nothing else here: rules only allow, their
//! order means nothing, ports are destination ports, a group reference means the private addresses and
//! delegated prefixes of interfaces that carry the group, and what refers to something unknown is stale and matches nothing.
//!
//! EC2 names no rule; this names the first that matches in the order (group id, rule id), which is ours.
#![allow(dead_code, reason = "each test binary uses its part of this")]

#[path = "../../../sgp-common/tests/frames/mod.rs"]
pub(crate) mod frames;
pub(crate) mod random;
mod worlds;

use std::net::IpAddr;

use frames::Frame;
use ipnet::IpNet;
use sgp_agent::domain::groups::{GroupSet, Remote, Rule, Service};
use sgp_agent::domain::observed::CloudFacts;
use sgp_common::Direction;

/// One endpoint and all that EC2 says around it.
pub(crate) struct World {
    /// EC2's word.
    pub(crate) cloud: CloudFacts,
    /// Groups of the endpoint.
    pub(crate) groups: GroupSet,
}

/// A packet as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The pod's point of view.
    pub(crate) direction: Direction,
    /// The other side.
    pub(crate) remote: IpAddr,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// What the packet says beside its protocol.
    pub(crate) said: Said,
}

/// See [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// TCP and UDP: the destination port.
    Port(u16),
    /// ICMP of the packet's family: type and code.
    Icmp(u8, u8),
    /// A protocol without ports; or, for those above, a later fragment.
    Nothing,
}

impl World {
    /// Id of the rule that lets the packet pass, if one does.
    pub(crate) fn scan(&self, ask: &Ask) -> Option<&str> {
        let groups = self.groups.0.iter().filter_map(|id| self.cloud.groups.get(id));
        let rules = groups.flat_map(|group| &group.rules);
        let allowing = rules.filter(|rule| self.allows(rule, ask));
        allowing.min_by_key(|rule| (&rule.group_id, &rule.id)).map(|rule| rule.id.as_str())
    }

    fn allows(&self, rule: &Rule, ask: &Ask) -> bool {
        rule.direction == ask.direction && speaks_of(&rule.service, ask) && self.means(&rule.remote, ask.remote)
    }

    fn means(&self, remote: &Remote, addr: IpAddr) -> bool {
        match remote {
            Remote::Cidr(net) => contains(net, addr),
            Remote::PrefixList(id) => {
                self.cloud.prefix_lists.get(id).is_some_and(|list| list.iter().any(|net| contains(net, addr)))
            }
            Remote::Group(id) => {
                let mut carriers = self.cloud.interfaces.values().filter(|eni| eni.groups.0.contains(id));
                carriers.any(|eni| eni.addresses.contains(&addr) || eni.prefixes.iter().any(|net| contains(net, addr)))
            }
            Remote::Stale(_) => false,
        }
    }
}

fn speaks_of(service: &Service, ask: &Ask) -> bool {
    match *service {
        Service::All => true,
        Service::Protocol(protocol) => ask.protocol == protocol,
        Service::Ports { protocol, from, to } => {
            ask.protocol == protocol
                && match ask.said {
                    Said::Port(port) => from <= port && port <= to,
                    Said::Icmp(..) => false,
                    Said::Nothing => (from, to) == (0, u16::MAX),
                }
        }
        Service::Icmp { protocol, icmp_type, code } => {
            // `icmp` is ICMP over IPv4 and nothing else, `icmpv6` the other.
            let family = ask.remote.is_ipv4() == (protocol == 1);
            family
                && ask.protocol == protocol
                && match (ask.said, icmp_type) {
                    (_, None) => true,
                    (Said::Icmp(kind, with), Some(wanted)) => kind == wanted && code.is_none_or(|code| code == with),
                    (_, Some(_)) => false,
                }
        }
    }
}

/// Bit by bit, the length of the prefix many; addresses of two families have nothing in common.
fn contains(net: &IpNet, addr: IpAddr) -> bool {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (network, addr) = (bits(net.addr()), bits(addr));
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    network.len() == addr.len() && (0..usize::from(net.prefix_len())).all(|at| bit(&network, at) == bit(&addr, at))
}

impl Ask {
    /// The packet itself. `serial` tells packets apart where rules do not look: source port, echo id.
    pub(crate) fn frame(&self, local: IpAddr, serial: u16) -> Frame {
        let (source, destination) = match self.direction {
            Direction::Inbound => (self.remote, local),
            Direction::Outbound => (local, self.remote),
        };
        let source_port = serial | 0x8000;
        match self.said {
            Said::Port(port) if self.protocol == 6 => Frame::tcp((source, source_port), (destination, port), 0x02),
            Said::Port(port) => Frame::udp((source, source_port), (destination, port)),
            Said::Icmp(kind, code) => Frame::icmp(source, destination, kind, code, serial),
            Said::Nothing => {
                let frame = Frame::new(source, destination, self.protocol, vec![0xee; 24]);
                if self.splits() { frame.fragment(3 + serial % 100) } else { frame }
            }
        }
    }

    /// Whether a packet of this protocol says nothing only as a later fragment.
    fn splits(&self) -> bool {
        let icmp = if self.remote.is_ipv4() { 1 } else { 58 };
        matches!(self.protocol, 6 | 17) || self.protocol == icmp
    }
}
