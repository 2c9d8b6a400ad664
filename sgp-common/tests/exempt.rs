//! What EC2 never filters, as a table, and what an endpoint owns.

mod frames;

use frames::{Frame, ip};
use sgp_common::addr::{UNSPECIFIED, v4_mapped};
use sgp_common::endpoint::{Endpoint, Timeouts};
use sgp_common::exempt::{exempt, link_scoped};
use sgp_common::packet::{Packet, parse};
use sgp_common::{Addr, Direction};

const POD: &str = "10.0.1.10";
const POD6: &str = "2001:db8:1::10";

/// A pod with both families, in subnet 10.0.1.0/24 of the VPC 10.0.0.0/16.
fn endpoint() -> Endpoint {
    Endpoint {
        group_set: 1,
        ipv4: v4_mapped([10, 0, 1, 10]),
        ipv6: [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10].into(),
        router: v4_mapped([10, 0, 1, 1]),
        resolver: v4_mapped([10, 0, 0, 2]),
        branch_ifindex: 2,
        host_ifindex: 3,
        timeouts: Timeouts { tcp_established_s: 350, udp_s: 30, udp_stream_s: 180 },
        settings: 0,
        vlan_id: 1,
        pod_mac: [2, 0, 0, 0, 0, 1],
    }
}

fn parsed(frame: &Frame) -> Packet {
    let mut packet = Packet::EMPTY;
    parse(&frame.bytes()[..], &mut packet).expect("a whole frame");
    packet
}

#[test]
fn services_are_exempt_in_both_directions_and_their_neighbours_are_not() {
    let table = [
        ("169.254.169.253", "169.254.169.252"),
        ("169.254.169.254", "169.254.169.255"),
        ("169.254.169.123", "169.254.169.124"),
        ("169.254.170.2", "169.254.170.3"),
        ("169.254.169.250", "169.254.169.249"),
        ("10.0.1.1", "10.0.1.2"),
        ("10.0.0.2", "10.0.0.3"),
        ("fd00:ec2::253", "fd00:ec2::252"),
        ("fd00:ec2::254", "fd00:ec2::255"),
        ("fd00:ec2::123", "fd00:ec2::124"),
    ];
    for (service, neighbour) in table {
        let pod = if ip(service).is_ipv4() { ip(POD) } else { ip(POD6) };
        for (remote, expected) in [(service, true), (neighbour, false)] {
            let out = parsed(&Frame::udp((pod, 40000), (ip(remote), 53)));
            let back = parsed(&Frame::udp((ip(remote), 53), (pod, 40000)));
            assert_eq!(exempt(&out, Direction::Outbound, &endpoint()), expected, "to {remote}");
            assert_eq!(exempt(&back, Direction::Inbound, &endpoint()), expected, "from {remote}");
        }
    }
}

#[test]
fn dhcp_is_exempt_between_its_own_ports_only() {
    for (from, to, expected) in [(67, 68, true), (68, 67, true), (68, 68, false), (67, 40000, false)] {
        let packet = parsed(&Frame::udp((ip("10.0.2.9"), from), (ip(POD), to)));
        assert_eq!(exempt(&packet, Direction::Inbound, &endpoint()), expected, "{from} to {to}");
    }
    for (from, to, expected) in [(546, 547, true), (547, 546, true), (546, 546, false)] {
        let packet = parsed(&Frame::udp((ip("fe80::9"), from), (ip(POD6), to)));
        assert_eq!(exempt(&packet, Direction::Inbound, &endpoint()), expected, "{from} to {to}");
    }
}

#[test]
fn neighbour_discovery_is_exempt_and_other_icmpv6_is_not() {
    for icmp_type in 0..=u8::MAX {
        let packet = parsed(&Frame::icmp(ip("2001:db8::9"), ip(POD6), icmp_type, 0, 0));
        assert_eq!(exempt(&packet, Direction::Inbound, &endpoint()), (133..=137).contains(&icmp_type), "{icmp_type}");
    }
}

#[test]
fn an_endpoint_without_router_or_address_knows_nothing_by_their_absence() {
    let bare = Endpoint { router: UNSPECIFIED, resolver: UNSPECIFIED, ipv6: UNSPECIFIED, ..endpoint() };
    let nowhere = parsed(&Frame::udp((ip("::"), 1), (ip(POD6), 2)));
    assert!(!exempt(&nowhere, Direction::Inbound, &bare));
    assert!(bare.owns(&bare.ipv4) && !bare.owns(&endpoint().ipv6));
    assert!(!bare.owns(&UNSPECIFIED), "a pod without IPv6 does not own ::");
}

#[test]
fn only_what_is_spoken_on_the_link_may_come_from_a_link_local_address_or_none() {
    let said = |source: &str, icmp_type| parsed(&Frame::icmp(ip(source), ip("ff02::16"), icmp_type, 0, 0));
    for source in ["::", "fe80::1", "febf::1"] {
        assert!(link_scoped(&said(source, 135)) && link_scoped(&said(source, 143)), "{source}");
        assert!(!link_scoped(&said(source, 128)), "an echo from {source} is an ordinary packet");
    }
    for source in ["fec0::1", "2001:db8::1", "::1"] {
        assert!(!link_scoped(&said(source, 135)), "{source} is no address of the link");
    }
    let udp: Packet = parsed(&Frame::udp((ip("fe80::1"), 1), (ip("ff02::1"), 2)));
    let unspecified: Addr = UNSPECIFIED;
    assert!(!link_scoped(&udp) && !link_scoped(&Packet { source: unspecified, ..udp }));
    let dhcp = |source, from, to| link_scoped(&parsed(&Frame::udp((ip(source), from), (ip("10.0.2.9"), to))));
    assert!(dhcp("0.0.0.0", 68, 67) && !dhcp("0.0.0.0", 67, 68) && !dhcp("10.0.2.8", 68, 67));
    let dhcp6 = |source, from, to| link_scoped(&parsed(&Frame::udp((ip(source), from), (ip("ff02::1:2"), to))));
    assert!(dhcp6("fe80::1", 546, 547) && !dhcp6("fe80::1", 547, 546) && !dhcp6("2001:db8::1", 546, 547));
}
