//! Section 5: what a flow is, what state it is in, and how long it may be idle.

use sgp_agent::domain::observed::Timeouts;

use crate::bench::{Bench, ENDPOINT, Step, interface, s};

const NO: &str = "NoMatchingRule";
/// Lets the pod open what it likes, and nobody else, but for one way back: then a flow is tracked.
const OUT: [&str; 1] = ["E -1 * 10.0.0.0/8"];

/// After these steps a packet is allowed when the flow has been idle for exactly so long, and not a nanosecond later.
#[track_caller]
fn lives(before: &[Step], seconds: u64, packet: &str) {
    let last = before.last().expect("a packet before").0;
    for (idle, expected) in [(s(seconds), "flow sgr-1"), (s(seconds) + 1, NO)] {
        let mut bench = Bench::new(&OUT);
        bench.run(before);
        assert_eq!(bench.judge(last + idle, packet), expected, "{packet} after {idle} ns");
    }
}

const SYN: Step = (0, "out tcp P:4000 A:80 S", "rule sgr-1");
const SYN_ACK: Step = (1, "in tcp A:80 P:4000 SA", "flow sgr-1");

#[test]
fn an_opening_tcp_flow_lives_120_seconds() {
    lives(&[SYN], 120, "in tcp A:80 P:4000 SA");
    lives(&[SYN, (s(60), "out tcp P:4000 A:80 S", "flow sgr-1")], 120, "in tcp A:80 P:4000 SA");
}

#[test]
fn an_established_tcp_flow_lives_five_days() {
    lives(&[SYN, SYN_ACK], 432_000, "in tcp A:80 P:4000 PA");
}

#[test]
fn fin_leaves_120_seconds_that_packets_prolong() {
    let fin = (2, "out tcp P:4000 A:80 FA", "flow sgr-1");
    lives(&[SYN, SYN_ACK, fin], 120, "in tcp A:80 P:4000 A");
    lives(&[SYN, SYN_ACK, fin, (s(100), "in tcp A:80 P:4000 PA", "flow sgr-1")], 120, "in tcp A:80 P:4000 A");
    lives(&[SYN, SYN_ACK, fin, (s(3), "out tcp P:4000 A:80 FA", "flow sgr-1")], 120, "in tcp A:80 P:4000 A");
    lives(&[SYN, (1, "in tcp A:80 P:4000 FA", "flow sgr-1")], 120, "in tcp A:80 P:4000 A");
}

#[test]
fn fin_from_both_or_rst_leaves_10_seconds_that_nothing_prolongs() {
    let fin = (2, "out tcp P:4000 A:80 FA", "flow sgr-1");
    let both = [SYN, SYN_ACK, fin, (3, "in tcp A:80 P:4000 FA", "flow sgr-1")];
    lives(&both, 10, "in tcp A:80 P:4000 A");
    for closing in [both.to_vec(), vec![SYN, SYN_ACK, (3, "in tcp A:80 P:4000 R", "flow sgr-1")]] {
        let mut bench = Bench::new(&OUT);
        bench.run(&closing);
        bench.run(&[
            (s(5), "in tcp A:80 P:4000 A", "flow sgr-1"),
            (s(9), "in tcp A:80 P:4000 FA", "flow sgr-1"),
            (s(10) + 3, "in tcp A:80 P:4000 R", "flow sgr-1"),
            (s(10) + 4, "in tcp A:80 P:4000 A", NO),
        ]);
    }
    lives(&[SYN, (1, "in tcp A:80 P:4000 RA", "flow sgr-1")], 10, "in tcp A:80 P:4000 A");
}

#[test]
fn fin_and_rst_count_from_the_first_packet() {
    lives(&[(0, "out tcp P:4000 A:80 R", "rule sgr-1")], 10, "in tcp A:80 P:4000 A");
    lives(&[(0, "out tcp P:4000 A:80 FA", "rule sgr-1")], 120, "in tcp A:80 P:4000 A");
    let both = [(0, "out tcp P:4000 A:80 FA", "rule sgr-1"), (1, "in tcp A:80 P:4000 FA", "flow sgr-1")];
    lives(&both, 10, "in tcp A:80 P:4000 A");
    lives(&[(0, "out tcp P:4000 A:80 SF", "rule sgr-1")], 120, "in tcp A:80 P:4000 A");
}

#[test]
fn a_syn_on_an_opening_flow_is_of_the_flow() {
    let simultaneous = [SYN, (1, "in tcp A:80 P:4000 S", "flow sgr-1")];
    lives(&[SYN, (1, "out tcp P:4000 A:80 S", "flow sgr-1")], 120, "in tcp A:80 P:4000 SA");
    lives(&simultaneous, 432_000, "in tcp A:80 P:4000 A");
}

#[test]
fn a_syn_on_an_older_flow_is_judged_as_new() {
    let old = [SYN, SYN_ACK];
    let mut bench = Bench::new(&OUT);
    bench.run(&old);
    bench.run(&[
        (2, "in tcp A:80 P:4000 S", NO),           // denied: the flow stays as it is
        (3, "in tcp A:80 P:4000 A", "flow sgr-1"), //
        (4, "out tcp P:4000 A:80 SA", "flow sgr-1"),
        (5, "out tcp P:4000 A:80 S", "rule sgr-1"), // allowed: a new flow in its place, opening
        (6, "out tcp P:4000 A:80 SP", "flow sgr-1"), // so another SYN is of it
        (s(120) + 7, "in tcp A:80 P:4000 SA", NO),
    ]);
    let closing = (2, "out tcp P:4000 A:80 FA", "flow sgr-1");
    for end in [closing, (2, "in tcp A:80 P:4000 R", "flow sgr-1")] {
        let mut bench = Bench::new(&OUT);
        bench.run(&[SYN, SYN_ACK, end, (3, "out tcp P:4000 A:80 S", "rule sgr-1")]);
        bench.run(&[(s(100), "in tcp A:80 P:4000 SA", "flow sgr-1")]);
    }
}

#[test]
fn a_denied_syn_does_not_keep_a_flow_alive() {
    let mut bench = Bench::new(&OUT);
    bench.run(&[SYN, SYN_ACK, (2, "out tcp P:4000 A:80 FA", "flow sgr-1"), (s(100), "in tcp A:80 P:4000 S", NO)]);
    bench.run(&[(s(120) + 3, "in tcp A:80 P:4000 A", NO)]);
}

#[test]
fn udp_turns_into_a_stream_with_the_second_answer_to_a_second_question() {
    let [question, answer] = ["out udp P:4000 A:53", "in udp A:53 P:4000"];
    lives(&[(0, question, "rule sgr-1")], 30, answer);
    let turns = [
        (0, question, "rule sgr-1"),
        (1, answer, "flow sgr-1"),
        (2, question, "flow sgr-1"),
        (3, answer, "flow sgr-1"),
    ];
    lives(&turns[..2], 30, answer);
    lives(&turns[..3], 30, answer);
    lives(&turns, 180, answer);
    // Many answers to one question are one turn.
    let chatter = [turns[0], turns[1], (2, answer, "flow sgr-1"), (3, answer, "flow sgr-1"), (4, answer, "flow sgr-1")];
    lives(&chatter, 30, answer);
    lives(&[turns[0], turns[1], turns[2], (3, question, "flow sgr-1"), (4, answer, "flow sgr-1")], 180, answer);
}

#[test]
fn icmp_lives_30_seconds_and_others_600() {
    for (request, reply) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        let (asked, answered) = (format!("out icmp P A {request}/0/7"), format!("in icmp A P {reply}/0/7"));
        lives(&[(0, &asked, "rule sgr-1")], 30, &answered);
        lives(&[(0, &asked, "rule sgr-1"), (1, &answered, "flow sgr-1")], 30, &answered);
    }
    lives(&[(0, "out 50 P A", "rule sgr-1")], 600, "in 50 A P");
    lives(&[(0, "out 50 P A", "rule sgr-1"), (1, "in 50 A P", "flow sgr-1")], 600, "in 50 A P");
    lives(&[(0, "out 58 P A", "rule sgr-1")], 600, "in 58 A P"); // ICMPv6 over IPv4 is a number like others
}

#[test]
fn timeouts_are_the_interfaces_and_follow_it() {
    let mut bench = Bench::new(&OUT);
    bench.run(&[(0, "out udp P:4000 A:53", "rule sgr-1"), (0, "out udp P:4001 A:53", "rule sgr-1")]);
    let timeouts = Timeouts { tcp_established_s: 60, udp_s: 60, udp_stream_s: 60 };
    bench.change(|cloud| interface(cloud, ENDPOINT).timeouts = timeouts);
    bench.run(&[
        (s(60), "in udp A:53 P:4000", "flow sgr-1"),
        (s(60) + 1, "in udp A:53 P:4001", NO),
        (s(61), "out udp P:4000 A:53", "flow sgr-1"),
        (s(61), "in udp A:53 P:4000", "flow sgr-1"), // a stream now
        (s(121), "in udp A:53 P:4000", "flow sgr-1"),
        (s(181) + 1, "in udp A:53 P:4000", NO),
    ]);
}

#[test]
fn a_flow_is_its_addresses_protocol_and_ports() {
    let mut bench = Bench::new(&OUT);
    bench.run(&[SYN]);
    for other in ["A:80 P:4001", "A:81 P:4000", "B:80 P:4000", "A:80 P2:4000"] {
        bench.run(&[(1, &format!("in tcp {other} SA"), NO), (1, &format!("in udp {other}"), NO)]);
    }
    bench.run(&[(2, "in tcp A:80 P:4000 SA", "flow sgr-1")]);
}

#[test]
fn an_icmp_flow_is_its_type_identifier_and_who_asked() {
    let mut bench = Bench::new(&OUT);
    bench.run(&[
        (0, "out icmp P A 8/0/7", "rule sgr-1"),
        (1, "in icmp A P 8/0/7", NO), // the other side's own question
        (1, "in icmp A P 0/0/8", NO), // another identifier
        (1, "in icmp A P 14/0/7", NO),
        (1, "in icmp B P 0/0/7", NO),
        (1, "in icmp A P 0/0/7", "flow sgr-1"),
        (2, "in icmp A P 0/3/7", "flow sgr-1"),
        (3, "in icmp A P 3/1/7", NO), // an error is of no flow
    ]);
    let mut bench = Bench::new(&["I icmpv6 128/* any6"]);
    bench.run(&[(0, "in icmpv6 A6 P6 128/0/7", "rule sgr-1"), (1, "out icmpv6 P6 A6 129/0/7", "flow sgr-1")]);
    bench.run(&[(2, "out icmpv6 P6 A6 128/0/7", NO)]);
}

#[test]
fn what_belongs_to_no_flow_leaves_nothing_behind() {
    let mut bench = Bench::new(&["I icmp 3/* any"]);
    bench.run(&[(0, "in icmp A P 3/4/7", "rule sgr-1"), (1, "in icmp A P 3/4/7", "rule sgr-1")]);
    bench.run(&[(2, "out icmp P A 3/4/7", NO)]);
}

#[test]
fn the_rule_of_a_flow_is_that_of_its_first_packet() {
    let mut bench = Bench::new(&["sg-b: I tcp 80 10.0.2.0/24", "sg-a: I tcp 80 10.0.2.20/32"]);
    bench.run(&[(0, "in tcp A:4000 P:80 S", "rule sgr-2"), (1, "out tcp P:80 A:4000 SA", "flow sgr-2")]);
    bench.run(&[(1, "in tcp 10.0.2.21:4000 P:80 S", "rule sgr-1")]);
    bench.rules(&["sg-b: I tcp 80 10.0.2.0/24"]);
    bench.run(&[(2, "out tcp P:80 A:4000 A", "flow sgr-2")]);
}
