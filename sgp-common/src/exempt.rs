//! What EC2 never filters.

use crate::addr::{UNSPECIFIED, v4_bytes, v4_mapped};
use crate::endpoint::Endpoint;
use crate::packet::{ICMPV6, Packet, UDP};
use crate::{Addr, Direction, Family};

/// Whether an IPv4 address is one of the services never filtered (AWS: "security groups do not filter traffic to and
/// from" DNS, instance metadata, Time Sync, ECS task metadata, Windows activation).
#[inline(always)]
fn is_service_v4(addr: &Addr) -> bool {
    matches!(
        v4_bytes(addr),
        [169, 254, 169, 253]
            | [169, 254, 169, 254]
            | [169, 254, 169, 123]
            | [169, 254, 170, 2]
            | [169, 254, 169, 250..=251]
    )
}

/// Likewise an IPv6 address: `fd00:ec2::253` (DNS), `fd00:ec2::254` (metadata), `fd00:ec2::123` (time).
#[inline(always)]
fn is_service_v6(addr: &Addr) -> bool {
    matches!(
        addr.bytes,
        [0xfd, 0x00, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x53 | 0x54]
            | [0xfd, 0x00, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x23]
    )
}

/// Whether EC2 lets this packet pass whatever the rules say.
#[inline(always)]
pub fn exempt(packet: &Packet, direction: Direction, endpoint: &Endpoint) -> bool {
    let remote = packet.remote(direction);
    if is_icmpv6(packet) {
        return neighbour_discovery(packet);
    }
    let service = match packet.family {
        Family::V4 => is_service_v4(remote) || known(remote, &endpoint.router) || known(remote, &endpoint.resolver),
        Family::V6 => is_service_v6(remote),
    };
    service || dhcp(packet)
}

/// Likewise, for a packet between two pods of one node: EC2's services are not among a pod's neighbours, and
/// one that claims to be the router or the resolver is judged by its rules.
#[inline(always)]
pub fn exempt_on_node(packet: &Packet) -> bool {
    is_icmpv6(packet) && neighbour_discovery(packet)
}

/// In an IPv4 packet the number means nothing.
#[inline(always)]
fn is_icmpv6(packet: &Packet) -> bool {
    packet.protocol == ICMPV6 && matches!(packet.family, Family::V6)
}

/// An endpoint without a router or resolver exempts nothing by it.
#[inline(always)]
fn known(remote: &Addr, service: &Addr) -> bool {
    *service != UNSPECIFIED && remote == service
}

/// Whether a pod may send this although the source is none of its addresses: what is spoken on the link before
/// and beside addresses. From `::` or a link-local address that is neighbour discovery (RFC 4861), listener reports
/// (RFC 3810) and DHCPv6 (RFC 8415); from 0.0.0.0 it is DHCP (RFC 2131). None of it is ever forwarded.
#[inline(always)]
pub fn link_scoped(packet: &Packet) -> bool {
    let source = &packet.source;
    let ports = (packet.source_port, packet.destination_port);
    if *source == v4_mapped([0; 4]) {
        return packet.protocol == UDP && ports == (68, 67);
    }
    let link_local = matches!(source.bytes, [0xfe, second, ..] if second & 0xc0 == 0x80);
    (link_local || *source == UNSPECIFIED)
        && match packet.protocol {
            ICMPV6 => neighbour_discovery(packet) || matches!(packet.icmp_type, 130..=132 | 143),
            UDP => ports == (546, 547),
            _ => false,
        }
}

/// Router and neighbour solicitation, advertisement, redirect (RFC 4861): types 133 to 137.
#[inline(always)]
fn neighbour_discovery(packet: &Packet) -> bool {
    (133..=137).contains(&packet.icmp_type)
}

/// DHCP (RFC 2131, ports 67 and 68) and DHCPv6 (RFC 8415, ports 546 and 547), between their own ports.
#[inline(always)]
fn dhcp(packet: &Packet) -> bool {
    let ports = (packet.source_port, packet.destination_port);
    packet.protocol == UDP
        && match packet.family {
            Family::V4 => matches!(ports, (67, 68) | (68, 67)),
            Family::V6 => matches!(ports, (546, 547) | (547, 546)),
        }
}
