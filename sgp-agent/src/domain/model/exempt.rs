//! Whose packet it is, and what EC2 never filters (docs/semantics.md, sections 2 and 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sgp_common::{Direction, DropReason};

use super::World;
use super::frame::{ICMPV6, Packet, Said, UDP};
use crate::domain::observed::{CloudFacts, NetworkInterface, Timeouts};

/// Services at addresses that are the same in every VPC (facts 5.2).
const SERVICES_V4: [[u8; 4]; 6] = [
    [169, 254, 169, 253],
    [169, 254, 169, 254],
    [169, 254, 169, 123],
    [169, 254, 170, 2],
    [169, 254, 169, 250],
    [169, 254, 169, 251],
];
/// The same in IPv6: the last 16 bits of `fd00:ec2::`.
const SERVICES_V6: [u16; 3] = [0x253, 0x254, 0x123];

const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;

/// The interface that judges, and the addresses around it that are never filtered.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) id: String,
    pub(super) timeouts: Timeouts,
    /// Lower-case colon form; empty where it is not known, then it is not compared.
    mac: String,
    addresses: Vec<IpAddr>,
    services: Vec<IpAddr>,
}

impl Endpoint {
    pub(super) fn of(world: &World) -> Result<Self, String> {
        let unknown = || format!("{} is none of the known network interfaces", world.endpoint);
        let interface = world.cloud.interfaces.get(&world.endpoint).ok_or_else(unknown)?;
        let NetworkInterface { mac, addresses, timeouts, .. } = interface.clone();
        let services = services(&world.cloud);
        Ok(Self { id: world.endpoint.clone(), timeouts, mac: mac.to_lowercase(), addresses, services })
    }

    /// The pod sends from its own MAC address.
    pub(super) fn sent_by(&self, direction: Direction, mac: [u8; 6]) -> Result<(), DropReason> {
        let own = self.mac.is_empty() || self.mac == mac.map(|byte| format!("{byte:02x}")).join(":");
        if direction == Direction::Inbound || own { Ok(()) } else { Err(DropReason::SpoofedSource) }
    }

    /// The pod sends from its own addresses, but for what it has to say before it has one.
    pub(super) fn may_send(&self, direction: Direction, packet: &Packet) -> Result<(), DropReason> {
        let own = self.addresses.contains(&packet.source) || without_address(packet);
        if direction == Direction::Inbound || own { Ok(()) } else { Err(DropReason::SpoofedSource) }
    }

    pub(super) fn exempts(&self, direction: Direction, packet: &Packet) -> bool {
        neighbour_discovery(packet)
            || dhcp(packet, 67, 68)
            || dhcp(packet, 68, 67)
            || dhcpv6(packet, 546, 547)
            || dhcpv6(packet, 547, 546)
            || !speaks_icmpv6(packet) && self.services.contains(&packet.sides(direction).remote)
    }

    /// A packet of the rules is from, or for, one of the interface's own addresses.
    pub(super) fn concerned(&self, direction: Direction, packet: &Packet) -> Result<(), DropReason> {
        match direction {
            _ if self.addresses.contains(&packet.sides(direction).local) => Ok(()),
            Direction::Inbound => Err(DropReason::UnknownEndpoint),
            Direction::Outbound => Err(DropReason::SpoofedSource),
        }
    }
}

/// The two ends of a packet, from the pod's point of view.
pub(super) struct Sides {
    pub(super) local: IpAddr,
    pub(super) remote: IpAddr,
}

impl Packet<'_> {
    pub(super) fn sides(&self, direction: Direction) -> Sides {
        match direction {
            Direction::Inbound => Sides { local: self.destination, remote: self.source },
            Direction::Outbound => Sides { local: self.source, remote: self.destination },
        }
    }
}

fn services(cloud: &CloudFacts) -> Vec<IpAddr> {
    let fixed_v4 = SERVICES_V4.map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
    let fixed_v6 = SERVICES_V6.map(|last| IpAddr::from(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, last)));
    let router = cloud.instance.subnet_cidr.map(|subnet| above(subnet.network(), 1));
    let ipv4 = |net: &IpNet| match net {
        IpNet::V4(net) => Some(net.network()),
        IpNet::V6(_) => None,
    };
    let resolver = cloud.vpc_cidrs.iter().find_map(ipv4).map(|base| above(base, 2));
    fixed_v4.into_iter().chain(fixed_v6).chain(router).chain(resolver).collect()
}

fn above(base: Ipv4Addr, distance: u32) -> IpAddr {
    IpAddr::from(Ipv4Addr::from(u32::from(base).wrapping_add(distance)))
}

/// What may come from an address that is not the interface's: from `::` or a link-local address neighbour discovery,
/// multicast listener messages and DHCPv6, from 0.0.0.0 DHCP.
fn without_address(packet: &Packet) -> bool {
    match packet.source {
        IpAddr::V4(source) => source.is_unspecified() && dhcp(packet, 68, 67),
        IpAddr::V6(source) => {
            (source.is_unspecified() || source.is_unicast_link_local())
                && (neighbour_discovery(packet) || multicast_listener(packet) || dhcpv6(packet, 546, 547))
        }
    }
}

fn neighbour_discovery(packet: &Packet) -> bool {
    icmpv6_type(packet).is_some_and(|kind| (ROUTER_SOLICITATION..=REDIRECT).contains(&kind))
}

fn multicast_listener(packet: &Packet) -> bool {
    icmpv6_type(packet).is_some_and(|kind| matches!(kind, 130..=132 | 143))
}

fn speaks_icmpv6(packet: &Packet) -> bool {
    packet.source.is_ipv6() && packet.protocol == ICMPV6
}

fn icmpv6_type(packet: &Packet) -> Option<u8> {
    match packet.said {
        Said::Icmp { icmp_type, .. } if packet.source.is_ipv6() => Some(icmp_type),
        _ => None,
    }
}

/// DHCP is a service of IPv4, DHCPv6 of IPv6.
fn dhcp(packet: &Packet, from: u16, to: u16) -> bool {
    packet.source.is_ipv4() && udp(packet, from, to)
}

fn dhcpv6(packet: &Packet, from: u16, to: u16) -> bool {
    packet.source.is_ipv6() && udp(packet, from, to)
}

fn udp(packet: &Packet, from: u16, to: u16) -> bool {
    let ports =
        |said: &Said| matches!(*said, Said::Ports { source, destination, .. } if (source, destination) == (from, to));
    packet.protocol == UDP && ports(&packet.said)
}
