//! Sections 2 and 3: whose packet, and what EC2 never filters.

use sgp_agent::domain::model::{Model, Settings};

use crate::bench::{Bench, ENDPOINT, interface, told};
use crate::text::packet;

const NO: &str = "NoMatchingRule";
const SPOOFED: &str = "SpoofedSource";
const UNKNOWN: &str = "UnknownEndpoint";
const ALL: [&str; 4] = ["I -1 * any", "E -1 * any", "I -1 * any6", "E -1 * any6"];

#[test]
fn services_of_ec2_pass_both_ways_whatever_the_protocol() {
    let services_v4 = [
        "10.0.1.1",
        "10.0.0.2",
        "169.254.169.253",
        "169.254.169.254",
        "169.254.169.123",
        "169.254.170.2",
        "169.254.169.250",
        "169.254.169.251",
    ];
    for remote in services_v4 {
        for line in ["tcp P:1 R:80 S", "udp P:1 R:9", "icmp P R 8/0/1", "50 P R", "58 P R"] {
            Bench::new(&[]).run(&[(0, &format!("out {}", line.replace('R', remote)), "exempt")]);
        }
        Bench::new(&[]).run(&[(0, &format!("in tcp {remote}:80 P:1 SA"), "exempt")]);
    }
    for remote in ["[fd00:ec2::253]", "[fd00:ec2::254]", "[fd00:ec2::123]"] {
        Bench::new(&[]).run(&[
            (0, &format!("out tcp P6:1 {remote}:80 S"), "exempt"),
            (0, &format!("in udp {remote}:53 P6:1"), "exempt"),
            (0, &format!("out icmpv6 P6 {remote} 128/0/1"), NO), // ICMPv6 is exempt as neighbour discovery only
        ]);
    }
}

#[test]
fn the_addresses_beside_them_are_judged() {
    for remote in ["10.0.1.2", "10.0.1.0", "10.0.0.1", "10.8.0.2", "169.254.169.252", "169.254.170.3"] {
        Bench::new(&[]).run(&[(0, &format!("out tcp P:1 {remote}:80 S"), NO)]);
    }
    Bench::new(&[]).run(&[(0, "out tcp P6:1 [fd00:ec2::252]:80 S", NO), (0, "out tcp P6:1 [2001:db8::2]:80 S", NO)]);
}

#[test]
fn without_subnet_and_vpc_there_is_no_router_and_no_resolver() {
    let mut bench = Bench::new(&[]);
    bench.change(|cloud| {
        cloud.instance.subnet_cidr = None;
        cloud.vpc_cidrs.clear();
    });
    bench.run(&[(0, "out tcp P:1 10.0.1.1:80 S", NO), (0, "out tcp P:1 10.0.0.2:80 S", NO)]);
}

#[test]
fn dhcp_passes_either_way_and_only_between_its_ports() {
    Bench::new(&[]).run(&[
        (0, "out udp 0.0.0.0:68 255.255.255.255:67", "exempt"),
        (0, "out udp P:68 B:67", "exempt"),
        (0, "in udp B:67 255.255.255.255:68", "exempt"),
        (0, "in udp B:68 P:67", "exempt"),
        (0, "in udp B:67 P:67", NO),
        (0, "in udp B:4000 P:68", NO),
        (0, "in tcp B:67 P:68 S", NO),
        (0, "out udp [fe80::1]:546 [ff02::1:2]:547", "exempt"),
        (0, "in udp [fe80::2]:547 [fe80::1]:546", "exempt"),
        (0, "in udp B6:67 P6:68", NO), // DHCP is IPv4's,
        (0, "in udp B:547 P:546", NO), // DHCPv6 IPv6's
    ]);
}

#[test]
fn neighbour_discovery_passes_and_other_icmpv6_does_not() {
    for kind in 133..=137 {
        for line in [
            "in icmpv6 A6 P6",
            "in icmpv6 fe80::2 ff02::1",
            "out icmpv6 fe80::1 ff02::2",
            "out icmpv6 P6 A6",
            "out icmpv6 :: ff02::1",
        ] {
            Bench::new(&[]).run(&[(0, &format!("{line} {kind}/9/0"), "exempt")]);
        }
    }
    for kind in [128, 130, 132, 138, 143] {
        Bench::new(&[]).run(&[(0, &format!("in icmpv6 A6 P6 {kind}/0/0"), NO)]);
    }
    Bench::new(&[]).run(&[(0, "in 58 A P", NO)]);
}

#[test]
fn the_pod_sends_from_its_own_addresses_only() {
    Bench::new(&ALL).run(&[
        (0, "out tcp P:1 A:80 S", "rule sgr-2"),
        (0, "out tcp P2:1 A:80 S", "rule sgr-2"),
        (0, "out tcp Q:1 A:80 S", SPOOFED),
        (0, "out tcp 0.0.0.0:1 A:80 S", SPOOFED),
        (0, "out udp 0.0.0.0:68 A:68", SPOOFED),
        (0, "out udp 0.0.0.0:67 A:68", SPOOFED),
        (0, "out udp Q:68 A:67", SPOOFED),
        (0, "out tcp Q:1 169.254.169.254:80 S", SPOOFED), // also to what is never filtered
        (0, "out icmpv6 A6 P6 135/0/0", SPOOFED),
        (0, "out icmpv6 fe80::1 A6 128/0/0", SPOOFED),
        (0, "out icmpv6 fe80::1 ff02::16 143/0/0", SPOOFED), // listener messages: excepted in 2, but no packet of the rules
        (0, "out icmpv6 :: ff02::16 143/0/0", SPOOFED),
        (0, "out udp [fe80::1]:547 [ff02::1:2]:546", SPOOFED),
    ]);
}

#[test]
fn an_inbound_packet_is_for_one_of_its_own_addresses() {
    Bench::new(&ALL).run(&[
        (0, "in tcp A:1 P2:80 S", "rule sgr-1"),
        (0, "in tcp A:1 Q:80 S", UNKNOWN),
        (0, "in udp A:1 224.0.0.1:80", UNKNOWN),
        (0, "in udp A6:1 [ff02::1]:80", UNKNOWN),
        (0, "in tcp Q:1 P:80 S", "rule sgr-1"),
    ]);
}

#[test]
fn the_pod_sends_from_its_own_mac_address_only() {
    let mut bench = Bench::new(&ALL);
    let (out, frame) = packet("out tcp P:1 A:80 S");
    let foreign = frame.with_source_mac([2, 0, 0, 0, 0, 9]).bytes();
    assert_eq!(bench.frame(0, out, &foreign), SPOOFED);
    let (inbound, frame) = packet("in tcp A:1 P:80 S");
    assert_eq!(bench.frame(0, inbound, &frame.with_source_mac([2, 0, 0, 0, 0, 9]).bytes()), "rule sgr-1");
    let mut arp = crate::frames::arp();
    assert_eq!(bench.frame(0, out, &arp), "exempt");
    arp[6] = 4;
    assert_eq!(bench.frame(0, out, &arp), SPOOFED);
    assert_eq!(bench.frame(0, inbound, &arp), "exempt");
    bench.change(|cloud| interface(cloud, ENDPOINT).mac.clear());
    assert_eq!(bench.frame(0, out, &foreign), "rule sgr-2");
}

#[test]
fn before_a_world_nothing_is_known_and_an_unknown_endpoint_is_refused() {
    let mut model = Model::new(Settings::default());
    let (direction, frame) = packet("in tcp A:1 P:80 S");
    assert_eq!(told(&model.judge(0, direction, &frame.bytes())), UNKNOWN);
    let mut world = Bench::new(&[]).world();
    world.endpoint = "eni-nowhere".into();
    let error = model.update(world).expect_err("there is no such interface");
    assert!(error.contains("eni-nowhere"), "{error}");
    assert_eq!(told(&model.judge(0, direction, &frame.bytes())), UNKNOWN);
}
