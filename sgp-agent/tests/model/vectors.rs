//! The rows of facts 5.3 that one interface's rules decide. Odd rows are as written there; even ones are reconstructed
//! from what the odd ones say about them.

use sgp_agent::domain::groups::{GroupSet, Remote};
use sgp_agent::domain::observed::Timeouts;

use crate::bench::{Bench, ENDPOINT, interface, s};
use crate::text::OWN_GROUP;

const ALL_OUT: &str = "E -1 * any";
const NO: &str = "NoMatchingRule";

#[test]
fn rows_1_to_5_empty_and_default_directions() {
    Bench::new(&[]).run(&[(0, "in tcp A:4000 P:80 S", NO), (0, "out tcp P:4000 X:443 S", NO)]);
    Bench::new(&[ALL_OUT]).run(&[
        (0, "out tcp P:40000 X:443 S", "rule sgr-1"), // 3
        (1, "in tcp X:443 P:40000 SA", "flow sgr-1"), // 4
        (2, "in tcp X:444 P:40000 S", NO),            // 5
        (3, "in tcp X:443 P:40001 S", NO),
    ]);
}

#[test]
fn rows_6_to_11_cidr_protocol_and_no_egress() {
    Bench::new(&["I tcp 80 10.0.2.0/24"]).run(&[
        (0, "in tcp A:4000 P:80 S", "rule sgr-1"),   // 6
        (0, "in tcp B:4000 P:80 S", NO),             // 7
        (0, "in tcp A:4000 P:81 S", NO),             // 8
        (0, "in udp A:4000 P:80", NO),               // 9
        (1, "out tcp P:80 A:4000 SA", "flow sgr-1"), // 10
        (2, "out tcp P:4001 A:80 S", NO),            // 11
    ]);
}

#[test]
fn rows_13_to_17_ranges_all_protocols_families() {
    Bench::new(&["I tcp 1000-2000 any"]).run(&[
        (0, "in tcp A:4000 P:1000 S", "rule sgr-1"),
        (0, "in tcp A:4000 P:2000 S", "rule sgr-1"),
        (0, "in tcp A:4000 P:999 S", NO),
        (0, "in tcp A:4000 P:2001 S", NO),
        (0, "in tcp A:1500 P:80 S", NO), // ports are destination ports (5.1)
    ]);
    Bench::new(&["I -1 * 10.0.2.20/32"]).run(&[
        (0, "in tcp A:4000 P:80 S", "rule sgr-1"),
        (0, "in udp A:4000 P:80", "rule sgr-1"),
        (0, "in icmp A P 8/0/7", "rule sgr-1"),
        (0, "in 50 A P", "rule sgr-1"),
    ]);
    Bench::new(&["I -1 * any"]).run(&[(0, "in tcp A6:4000 P6:80 S", NO)]); // 16
    Bench::new(&["I -1 * any6"]).run(&[(0, "in tcp A:4000 P:80 S", NO), (0, "in tcp A6:4000 P6:80 S", "rule sgr-1")]);
}

#[test]
fn rows_18_to_31_ipv6_groups_and_their_members() {
    Bench::new(&["I tcp 80 2001:db8:2::/64"]).run(&[
        (0, "in tcp A6:4000 P6:80 S", "rule sgr-1"), // 18
        (0, "in tcp B6:4000 P6:80 S", NO),           // 19
    ]);
    let mut bench = Bench::new(&["I tcp 80 sg-app"]);
    bench.run(&[
        (0, "in tcp A:4000 P:80 S", "rule sgr-1"), // 20
        (0, "in tcp A6:4000 P6:80 S", "rule sgr-1"),
        (0, "in tcp B:4000 P:80 S", NO),             // 21
        (0, "in tcp 198.51.100.20:4000 P:80 S", NO), // 27: A's Elastic IP
        (0, "in tcp N:4000 P:80 S", NO),             // 29: A behind the node's address
    ]);
    bench.groups("eni-a", &["sg-other"]);
    bench.run(&[(s(1), "in tcp A:4001 P:80 S", NO), (s(1), "in tcp A:4000 P:80 A", "flow sgr-1")]); // 22, 23
    let mut bench = Bench::new(&["I -1 * sg-pod"]);
    bench.run(&[(0, "in tcp Q:4000 P:80 S", "rule sgr-1")]); // 24
    bench.groups("eni-q", &["sg-other"]);
    bench.run(&[(0, "in tcp Q:4001 P:80 S", NO)]); // 25
    let mut bench = Bench::new(&["I tcp 80 sg-peer"]);
    bench.run(&[(0, "in tcp C:4000 P:80 S", "rule sgr-1")]); // 30
    bench.change(|cloud| {
        cloud.groups.get_mut(OWN_GROUP).expect("P's group").rules[0].remote = Remote::Stale("sg-peer".into());
    });
    bench.run(&[(1, "in tcp C:4001 P:80 S", NO)]); // 31
}

#[test]
fn rows_33_to_35_groups_are_a_union_without_order() {
    for rules in [["sg-a: I tcp 80 any", "sg-b: I tcp 443 any"], ["sg-b: I tcp 443 any", "sg-a: I tcp 80 any"]] {
        let mut bench = Bench::new(&rules);
        bench.change(|cloud| interface(cloud, ENDPOINT).groups = GroupSet::of(["sg-b", "sg-a"]));
        for (port, sign) in [(80, "rule"), (443, "rule"), (8080, "NoMatchingRule")] {
            let said = bench.judge(0, &format!("in tcp A:4000 P:{port} S"));
            assert!(said.starts_with(sign), "{port}: {said}");
        }
    }
}

#[test]
fn rows_36_to_39_prefix_lists_in_their_latest_version() {
    let mut bench = Bench::new(&["I tcp 80 pl-x", "E tcp 443 pl-s3"]);
    let list = |entries: &[&str]| entries.iter().map(|entry| entry.parse().expect("a CIDR")).collect::<Vec<_>>();
    bench.run(&[(0, "in tcp A:4000 P:80 S", NO)]); // the list is not known
    bench.change(|cloud| {
        cloud.prefix_lists.insert("pl-x".into(), list(&["10.0.3.0/24", "10.0.2.0/24"]));
        cloud.prefix_lists.insert("pl-s3".into(), list(&["203.0.113.0/28"]));
    });
    bench.run(&[
        (1, "in tcp A:4000 P:80 S", "rule sgr-1"),   // 36
        (1, "out tcp P:4000 X:443 S", "rule sgr-2"), // 39
        (1, "out tcp P:4000 203.0.113.99:443 S", NO),
    ]);
    bench.change(|cloud| drop(cloud.prefix_lists.insert("pl-x".into(), list(&["10.0.3.0/24"]))));
    bench.run(&[(2, "in tcp A:4001 P:80 S", NO), (2, "in tcp A:4000 P:80 A", "flow sgr-1")]); // 37
    bench.change(|cloud| drop(cloud.prefix_lists.insert("pl-x".into(), Vec::new())));
    bench.run(&[(3, "in tcp B:4001 P:80 S", NO)]);
}

#[test]
fn rows_40_to_49_icmp() {
    Bench::new(&["I icmp 8/* any"]).run(&[
        (0, "in icmp A P 8/0/7", "rule sgr-1"),  // 40
        (1, "out icmp P A 0/0/7", "flow sgr-1"), // 41
        (1, "out icmp P A 0/0/8", NO),
        (1, "in icmp A P 13/0/7", NO),
    ]);
    Bench::new(&["I icmp 3/4 any"]).run(&[(0, "in icmp X P 3/4/0", "rule sgr-1"), (0, "in icmp X P 3/1/0", NO)]); // 43
    Bench::new(&["I icmp */* any", "I icmp */* any6"]).run(&[
        (0, "in icmp X P 3/1/0", "rule sgr-1"), // 45
        (0, "in icmp X P 8/0/0", "rule sgr-1"),
        (0, "in icmpv6 X6 P6 128/0/0", NO), // 46: icmp is IPv4's
        (0, "in 1 X6 P6", NO),
    ]);
    Bench::new(&["I icmpv6 */* any6"]).run(&[(0, "in icmpv6 X6 P6 128/0/0", "rule sgr-1")]); // 47
    for line in ["in icmpv6 A6 P6 135/0/0", "in icmpv6 A6 P6 136/0/0", "in icmpv6 fe80::1 P6 134/0/0"] {
        Bench::new(&[]).run(&[(0, line, "exempt")]); // 49
    }
}

#[test]
fn rows_51_to_53_protocols_by_number() {
    Bench::new(&["I 50 * 10.0.2.20/32"]).run(&[(0, "in 50 A P", "rule sgr-1"), (0, "in 51 A P", NO)]);
    Bench::new(&["E 47 * any"]).run(&[
        (0, "out 47 P A", "rule sgr-1"),
        (s(600), "in 47 A P", "flow sgr-1"), // 52
        (s(1201), "in 47 A P", NO),          // 53
    ]);
}

#[test]
fn rows_55_to_59_stateful_udp_and_idle_timeouts() {
    Bench::new(&["I udp 53 any"]).run(&[
        (0, "in udp A:4000 P:53", "rule sgr-1"),
        (1, "out udp P:53 A:4000", "flow sgr-1"), // 55
        (1, "out udp P:54 A:4000", NO),
    ]);
    for (idle, expected) in [(179, "flow sgr-1"), (181, NO)] {
        let mut bench = Bench::new(&["E udp * any"]);
        for second in [0, 1] {
            bench.judge(s(second), "out udp P:4000 X:123");
            bench.judge(s(second), "in udp X:123 P:4000");
        }
        bench.run(&[(s(1 + idle), "in udp X:123 P:4000", expected)]); // 57
    }
    let mut bench = Bench::new(&["E tcp * 203.0.113.5/32"]);
    bench.change(|cloud| {
        interface(cloud, ENDPOINT).timeouts = Timeouts { tcp_established_s: 60, ..Timeouts::default() }
    });
    bench.run(&[
        (0, "out tcp P:4000 X:443 S", "rule sgr-1"),
        (0, "in tcp X:443 P:4000 SA", "flow sgr-1"),
        (s(61), "in tcp X:443 P:4000 PA", NO), // 59
    ]);
}

#[test]
fn rows_61_to_67_rules_that_go() {
    let mut bench = Bench::new(&["E -1 * any", "I tcp 22 203.0.113.5/32"]);
    bench.run(&[(0, "in tcp X:4000 P:22 S", "rule sgr-2"), (0, "out tcp P:22 X:4000 SA", "flow sgr-2")]);
    bench.rules(&["E -1 * any"]);
    bench.run(&[(1, "in tcp X:4000 P:22 A", "flow sgr-2"), (1, "in tcp X:4001 P:22 S", NO)]); // 61
    let web = ["I tcp 80 any", ALL_OUT];
    let mut bench = Bench::new(&web);
    bench.run(&[(0, "in tcp X:4000 P:80 S", "rule sgr-1"), (0, "out tcp P:80 X:4000 SA", "flow sgr-1")]);
    bench.rules(&web[..1]);
    bench.run(&[(1, "out tcp P:80 X:4000 A", "flow sgr-1"), (1, "in tcp X:4000 P:80 A", "flow sgr-1")]); // 63
    let mut bench = Bench::new(&web[..1]);
    bench.run(&[(0, "in tcp X:4000 P:80 S", "rule sgr-1"), (0, "out tcp P:80 X:4000 SA", "flow sgr-1")]); // 64
    bench.rules(&[]);
    bench.run(&[(1, "in tcp X:4000 P:80 A", "flow sgr-1"), (1, "out tcp P:80 X:4000 A", "flow sgr-1")]); // 65
    let mut bench = Bench::new(&[ALL_OUT]);
    bench.run(&[(0, "out tcp P:4000 X:443 S", "rule sgr-1"), (0, "in tcp X:443 P:4000 SA", "flow sgr-1")]);
    bench.rules(&[]);
    bench.run(&[(1, "out tcp P:4000 X:443 A", "flow sgr-1"), (1, "in tcp X:443 P:4000 A", "flow sgr-1")]); // 67
}

#[test]
fn rows_69_to_75_services_and_probes() {
    Bench::new(&["I tcp 22 10.0.2.20/32"]).run(&[
        (0, "out tcp P:4000 169.254.169.254:80 S", "exempt"), // 69
        (0, "out udp P:4000 10.0.2.53:53", NO),               // 71
        (0, "in tcp N:4000 P:8080 S", NO),                    // 75, what EC2 would say if it saw the probe
    ]);
    Bench::new(&["I tcp 8080 sg-node"]).run(&[(0, "in tcp N:4000 P:8080 S", "rule sgr-1")]); // 73
}

#[test]
fn rows_81_to_95_pick_up_host_bits_second_addresses_empty_groups() {
    Bench::new(&["I tcp 80 10.0.2.20/32"]).run(&[
        (0, "in tcp A:4000 P:80 A", "rule sgr-1"),  // 81
        (0, "in tcp A:4001 P:80 S", "rule sgr-1"),  // 85, P's side of it
        (0, "in tcp A:4000 P2:80 S", "rule sgr-1"), // 93
    ]);
    Bench::limited(1, 1, &["I tcp 80 10.0.2.0/24"]).run(&[
        (0, "in tcp A:4000 P:80 S", "rule sgr-1"),
        (0, "in tcp A:4001 P:80 S", "EndpointFlowLimit"), // 83
    ]);
    Bench::new(&["I tcp 80 10.0.2.20/24"]).run(&[(0, "in tcp 10.0.2.99:4000 P:80 S", "rule sgr-1")]); // 87
    Bench::new(&[]).run(&[(0, "out tcp P:80 A:4000 SA", NO)]); // 90
    Bench::new(&[ALL_OUT]).run(&[(0, "out tcp P:80 A:4000 SA", "rule sgr-1")]); // 91
    Bench::new(&["I tcp 80 sg-x"]).run(&[(0, "in tcp A:4000 P:80 S", NO)]); // 95
}
