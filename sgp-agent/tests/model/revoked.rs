//! Section 7: what a changed rule does to the flows it let in.

use crate::bench::{Bench, s};

const NO: &str = "NoMatchingRule";
/// A web server as most people write it: its flows are untracked.
const WEB: [&str; 2] = ["I tcp 80 any", "E -1 * any"];

fn open_web(rules: &[&str]) -> Bench {
    let mut bench = Bench::new(rules);
    bench.run(&[(0, "in tcp X:4000 P:80 S", "rule sgr-1"), (1, "out tcp P:80 X:4000 SA", "flow sgr-1")]);
    bench
}

#[test]
fn an_untracked_flow_stops_when_its_rule_goes() {
    for egress in ["E -1 * any", "E tcp 0-65535 any", "E tcp * any"] {
        let mut bench = open_web(&[WEB[0], egress]);
        bench.rules(&[egress]);
        bench.run(&[
            (2, "in tcp X:4000 P:80 A", NO),
            (3, "out tcp P:80 X:4000 PA", NO),
            (4, "in tcp X:4000 P:80 S", NO),
        ]);
    }
}

#[test]
fn a_flow_is_tracked_when_a_condition_of_ec2_fails() {
    for rules in [
        [WEB[0], "E udp * any"],          // the other direction has not this protocol
        [WEB[0], "E tcp 1-65535 any"],    // not all its ports
        [WEB[0], "E -1 * 0.0.0.0/1"],     // not all addresses
        [WEB[0], "E -1 * any6"],          // not this family's
        ["I tcp 80 203.0.0.0/8", WEB[1]], // it came by a rule for some
    ] {
        let mut bench = open_web(&rules);
        bench.rules(&[]);
        bench.run(&[(2, "in tcp X:4000 P:80 A", "flow sgr-1"), (3, "out tcp P:80 X:4000 PA", "flow sgr-1")]);
    }
    let mut bench = Bench::new(&["I -1 * any", "E -1 * any"]);
    bench.run(&[(0, "in icmp X P 8/0/7", "rule sgr-1"), (0, "in 50 X P", "rule sgr-1")]);
    bench.rules(&[]);
    bench.run(&[(1, "out icmp P X 0/0/7", "flow sgr-1"), (1, "out 50 P X", "flow sgr-1")]); // ICMP and others always
}

#[test]
fn any_rule_that_admits_a_flow_can_leave_it_untracked() {
    let mut bench = open_web(&["I tcp 80 203.0.0.0/8", "I tcp 80 any", "E -1 * any"]);
    bench.rules(&["E -1 * any"]);
    bench.run(&[(2, "in tcp X:4000 P:80 A", NO)]);
    let mut bench = Bench::new(&["I tcp 80 pl-all", "E -1 * any"]);
    bench.change(|cloud| drop(cloud.prefix_lists.insert("pl-all".into(), vec!["0.0.0.0/0".parse().expect("a CIDR")])));
    bench.run(&[(0, "in tcp X:4000 P:80 S", "rule sgr-1")]);
    bench.change(|cloud| cloud.prefix_lists.clear());
    bench.run(&[(1, "in tcp X:4000 P:80 S", NO)]);
}

#[test]
fn an_untracked_flow_that_today_allows_goes_on_by_todays_rule() {
    let mut bench = open_web(&["sg-b: I tcp 80 any", "E -1 * any"]);
    bench.rules(&["sg-b: I tcp 80 any", "E -1 * any", "sg-a: I tcp 80 203.0.113.5/32"]);
    bench.run(&[(2, "in tcp X:4000 P:80 A", "flow sgr-3"), (3, "out tcp P:80 X:4000 A", "flow sgr-3")]);
    // Without the way back it becomes tracked, and outlives its rule from then on.
    bench.rules(&["sg-b: I tcp 80 any"]);
    bench.run(&[(4, "out tcp P:80 X:4000 A", "flow sgr-1")]);
    bench.rules(&[]);
    bench.run(&[(5, "out tcp P:80 X:4000 A", "flow sgr-1")]);
}

#[test]
fn members_that_come_and_go_are_no_change_of_policy() {
    let rules = ["sg-a: I tcp 80 sg-app", "I tcp 80 any", "E -1 * any", "E tcp 9 pl-x"];
    let mut bench = Bench::new(&rules);
    bench.groups("eni-c", &["sg-app"]);
    bench.run(&[(0, "in tcp A:4000 P:80 S", "rule sgr-1")]);
    // C still carries the group in the same combination, so nothing is asked again, and the old rule is named.
    bench.groups("eni-a", &["sg-db"]);
    bench.run(&[(1, "in tcp A:4000 P:80 A", "flow sgr-1")]);
    // A list's new entry is a change, and so is the last carrier's leaving; the same entry in other words is none.
    for (entry, expected) in
        [("10.0.2.0/24", "flow sgr-2"), ("10.0.2.9/24", "flow sgr-2"), ("10.0.3.0/24", "flow sgr-1")]
    {
        bench.change(|cloud| drop(cloud.prefix_lists.insert("pl-x".into(), vec![entry.parse().expect("a CIDR")])));
        bench.run(&[(2, "in tcp A:4000 P:80 A", expected)]);
        bench.groups("eni-a", &["sg-app"]);
    }
    bench.groups("eni-a", &["sg-db"]);
    bench.run(&[(3, "in tcp A:4000 P:80 A", "flow sgr-1")]);
    bench.groups("eni-c", &["sg-peer"]);
    bench.run(&[(4, "in tcp A:4000 P:80 A", "flow sgr-2")]);
}

#[test]
fn the_packet_that_opened_it_is_asked_about_not_the_one_at_hand() {
    let mut bench = open_web(&WEB);
    // The answer alone would pass by the rule for everything out; the flow would not.
    bench.rules(&["E -1 * any", "I tcp 443 any"]);
    bench.run(&[(2, "out tcp P:80 X:4000 A", NO), (3, "in tcp X:4000 P:80 A", NO)]);
}

#[test]
fn what_could_open_a_flow_by_itself_is_judged_as_new() {
    let udp = ["I udp 53 any", "E -1 * any"];
    let mut bench = Bench::new(&udp);
    bench.run(&[(0, "in udp X:4000 P:53", "rule sgr-1"), (1, "out udp P:53 X:4000", "flow sgr-1")]);
    bench.rules(&["E -1 * any"]);
    bench.run(&[
        (2, "in udp X:4000 P:53", NO),
        (3, "out udp P:53 X:4000", "rule sgr-1"), // a flow the other way
        (4, "in udp X:4000 P:53", "flow sgr-1"),
    ]);
    let mut bench = open_web(&WEB);
    bench.rules(&["E -1 * any"]);
    bench.run(&[
        (2, "out tcp P:80 X:4000 A", NO),
        (3, "out tcp P:80 X:4000 S", "rule sgr-1"),
        (4, "in tcp X:4000 P:80 SA", "flow sgr-1"),
    ]);
}

#[test]
fn a_flow_that_was_refused_goes_on_when_its_rule_comes_back() {
    let mut bench = open_web(&WEB);
    bench.rules(&WEB[1..]);
    bench.run(&[(2, "in tcp X:4000 P:80 A", NO)]);
    bench.rules(&WEB);
    bench.run(&[(3, "in tcp X:4000 P:80 A", "flow sgr-1")]);
}

#[test]
fn a_refused_flow_ages() {
    let udp = ["I udp 53 any", "E tcp * any", "E udp * any"];
    let mut bench = Bench::new(&udp);
    bench.run(&[(0, "in udp X:4000 P:53", "rule sgr-1")]);
    bench.rules(&udp[1..2]);
    bench.run(&[(s(20), "in udp X:4000 P:53", NO), (s(20), "out udp P:53 X:4000", NO)]);
    bench.rules(&udp);
    bench.run(&[(s(30) + 1, "in udp X:4000 P:53", "rule sgr-1")]);
}

#[test]
fn ipv6_is_untracked_by_its_own_rules() {
    let rules = ["I tcp 80 any6", "E -1 * any6"];
    for (egress, expected) in [("E -1 * any6", NO), ("E -1 * any", "flow sgr-1")] {
        let mut bench = Bench::new(&[rules[0], egress]);
        bench.run(&[(0, "in tcp X6:4000 P6:80 S", "rule sgr-1"), (1, "out tcp P6:80 X6:4000 SA", "flow sgr-1")]);
        bench.rules(&[]);
        bench.run(&[(2, "in tcp X6:4000 P6:80 A", expected)]);
    }
}

#[test]
fn cut_on_revoke_ends_tracked_flows_too() {
    let narrow = ["I tcp 22 203.0.113.5/32", "I icmp 8/* any"];
    let mut bench = Bench::cutting(&narrow);
    let open = [(0, "in tcp X:4000 P:22 S", "rule sgr-1"), (0, "in icmp X P 8/0/7", "rule sgr-2")];
    bench.run(&open);
    bench.run(&[(1, "out tcp P:22 X:4000 SA", "flow sgr-1"), (1, "out icmp P X 0/0/7", "flow sgr-2")]);
    bench.rules(&[]);
    bench.run(&[(2, "in tcp X:4000 P:22 A", NO), (2, "out tcp P:22 X:4000 A", NO), (2, "out icmp P X 0/0/7", NO)]);
    bench.rules(&narrow);
    bench.run(&[(3, "out tcp P:22 X:4000 A", "flow sgr-1"), (3, "out icmp P X 0/0/7", "flow sgr-2")]);
}

#[test]
fn cut_on_revoke_follows_members() {
    for (cut, expected) in [(true, NO), (false, "flow sgr-1")] {
        let mut bench = if cut { Bench::cutting(&["I tcp 80 sg-app"]) } else { Bench::new(&["I tcp 80 sg-app"]) };
        bench.run(&[(0, "in tcp A:4000 P:80 S", "rule sgr-1"), (1, "out tcp P:80 A:4000 SA", "flow sgr-1")]);
        bench.groups("eni-a", &["sg-other"]);
        bench.run(&[(2, "out tcp P:80 A:4000 A", expected)]);
        bench.groups("eni-a", &["sg-app", "sg-more"]);
        bench.run(&[(3, "out tcp P:80 A:4000 A", "flow sgr-1")]);
    }
}
