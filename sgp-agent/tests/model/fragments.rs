//! Section 4: later fragments follow their first.

use sgp_common::Direction;

use crate::bench::{Bench, s};
use crate::frames::FRAGMENT;
use crate::text::packet;

const WITHOUT: &str = "FragmentWithoutFlow";

/// One fragment of a datagram.
struct Cut<'a> {
    /// The whole datagram in short; a later fragment keeps its addresses and protocol.
    line: &'a str,
    id: u16,
    /// Bytes of its own payload: from where, and how many.
    start: u16,
    length: usize,
    last: bool,
}

impl Cut<'_> {
    fn frame(&self) -> (Direction, Vec<u8>) {
        let (direction, mut frame) = packet(self.line);
        if self.start > 0 {
            frame.payload.clear();
        }
        frame.payload.resize(self.length, 0xee);
        if frame.source.is_ipv4() {
            (frame.fragment_offset, frame.more_fragments) = (self.start / 8, !self.last);
            let mut bytes = frame.bytes();
            bytes[18..20].copy_from_slice(&self.id.to_be_bytes());
            return (direction, bytes);
        }
        let ([high, low], [id_high, id_low]) =
            ((self.start | u16::from(!self.last)).to_be_bytes(), self.id.to_be_bytes());
        frame.extensions.push((FRAGMENT, vec![0, high, low, 0, 0, id_high, id_low]));
        (direction, frame.bytes())
    }
}

#[track_caller]
fn run(bench: &mut Bench, at_ns: u64, cut: &Cut, expected: &str) {
    let (direction, frame) = cut.frame();
    assert_eq!(bench.frame(at_ns, direction, &frame), expected, "{} from {} at {at_ns} ns", cut.line, cut.start);
}

fn first(line: &str, id: u16) -> Cut<'_> {
    Cut { line, id, start: 0, length: 1480, last: false }
}

fn middle(line: &str, id: u16) -> Cut<'_> {
    Cut { line, id, start: 1480, length: 1480, last: false }
}

fn last(line: &str, id: u16) -> Cut<'_> {
    Cut { line, id, start: 2960, length: 40, last: true }
}

#[test]
fn rows_77_and_79_unknown_followers_drop_and_known_ones_pass() {
    for (line, rule) in [("in udp A:4000 P:5000", "I udp 5000 any"), ("in udp A6:4000 P6:5000", "I udp 5000 any6")] {
        let mut bench = Bench::new(&[rule]);
        run(&mut bench, 0, &middle(line, 1), WITHOUT); // 77
        run(&mut bench, 1, &first(line, 2), "rule sgr-1"); // 79
        run(&mut bench, 2, &middle(line, 2), "flow sgr-1");
        run(&mut bench, 3, &last(line, 2), "flow sgr-1");
        run(&mut bench, 4, &last(line, 3), WITHOUT);
        // Out of order, and again.
        run(&mut bench, 5, &last(line, 2), "flow sgr-1");
        run(&mut bench, 6, &middle(line, 2), "flow sgr-1");
    }
}

#[test]
fn a_follower_before_its_first_is_judged_without_ports() {
    let line = "in tcp A:4000 P:80 S";
    for (rule, expected) in [
        ("I -1 * any", "rule sgr-1"),
        ("I tcp 0-65535 any", "rule sgr-1"),
        ("I tcp 0-65534 any", WITHOUT),
        ("I tcp 80 any", WITHOUT),
        ("I udp * any", WITHOUT),
    ] {
        run(&mut Bench::new(&[rule]), 0, &middle(line, 1), expected);
    }
    for (rule, expected) in [("I icmp */* any", "rule sgr-1"), ("I icmp 8/* any", WITHOUT), ("I icmp 0/0 any", WITHOUT)]
    {
        run(&mut Bench::new(&[rule]), 0, &middle("in icmp A P 8/0/7", 1), expected);
    }
    run(&mut Bench::new(&["I 50 * any"]), 0, &middle("in 50 A P", 1), "rule sgr-1");
    run(&mut Bench::new(&["I 50 * any"]), 0, &middle("in 51 A P", 1), WITHOUT);
}

#[test]
fn a_first_is_remembered_30_seconds() {
    let line = "in udp A:4000 P:5000";
    let mut bench = Bench::new(&["I udp 5000 any"]);
    run(&mut bench, 0, &first(line, 1), "rule sgr-1");
    run(&mut bench, s(20), &middle(line, 1), "flow sgr-1"); // which prolongs nothing
    run(&mut bench, s(30), &middle(line, 1), "flow sgr-1");
    run(&mut bench, s(30) + 1, &middle(line, 1), WITHOUT);
    run(&mut bench, s(31), &first(line, 1), "rule sgr-1");
    run(&mut bench, s(61), &middle(line, 1), "flow sgr-1");
}

#[test]
fn an_id_speaks_for_one_direction_pair_and_protocol() {
    let line = "in udp A:4000 P:5000";
    let mut bench = Bench::new(&["I udp 5000 any"]);
    run(&mut bench, 0, &first(line, 1), "rule sgr-1");
    for other in ["out udp P:5000 A:4000", "in udp B:4000 P:5000", "in udp A:4000 P2:5000", "in tcp A:4000 P:5000"] {
        run(&mut bench, 1, &middle(other, 1), WITHOUT);
    }
    // In IPv6 a fragment header may name what stands before the protocol, so it is not compared.
    let mut bench = Bench::new(&["I udp 5000 any6"]);
    run(&mut bench, 0, &first("in udp A6:4000 P6:5000", 1), "rule sgr-1");
    run(&mut bench, 1, &middle("in 60 A6 P6", 1), "flow sgr-1");
}

#[test]
fn overlapping_fragments_are_malformed() {
    let line = "in udp A:4000 P:5000";
    let mut bench = Bench::new(&["I udp 5000 any", "I udp 0-65535 10.0.2.20/32"]);
    let at = |start| Cut { line, id: 1, start, length: 8, last: true };
    run(&mut bench, 0, &at(1472), "rule sgr-2"); // nothing to overlap yet
    run(&mut bench, 1, &first(line, 1), "rule sgr-1");
    for (start, expected) in [(8, "Malformed"), (1472, "Malformed"), (1480, "flow sgr-1"), (1488, "flow sgr-1")] {
        run(&mut bench, 2, &at(start), expected);
    }
    let short = Cut { line, id: 1, start: 0, length: 24, last: false };
    run(&mut bench, 3, &short, "flow sgr-1");
    run(&mut bench, 4, &at(24), "flow sgr-1");
    run(&mut bench, 4, &at(16), "Malformed");
}

#[test]
fn a_first_of_a_flow_speaks_by_the_flows_rule() {
    let mut bench = Bench::new(&["I udp 5000 any"]);
    bench.run(&[(0, "in udp A:4000 P:5000", "rule sgr-1")]);
    let answer = "out udp P:5000 A:4000";
    run(&mut bench, 1, &first(answer, 9), "flow sgr-1");
    run(&mut bench, 2, &last(answer, 9), "flow sgr-1");
}

#[test]
fn a_denied_first_takes_back_what_its_id_stood_for() {
    let mut bench = Bench::new(&["I udp 5000 any"]);
    run(&mut bench, 0, &first("in udp A:4000 P:5000", 1), "rule sgr-1");
    run(&mut bench, 1, &first("in udp A:4000 P:5001", 1), "NoMatchingRule");
    run(&mut bench, 2, &middle("in udp A:4000 P:5000", 1), WITHOUT);
    let mut bench = Bench::limited(1, 1, &["I udp 5000 any"]);
    run(&mut bench, 0, &first("in udp A:4000 P:5000", 1), "rule sgr-1");
    run(&mut bench, 1, &first("in udp A:4001 P:5000", 1), "EndpointFlowLimit");
    run(&mut bench, 2, &middle("in udp A:4000 P:5000", 1), WITHOUT);
}

#[test]
fn a_first_that_is_malformed_is_not_asked_about() {
    let line = "in udp A:4000 P:5000";
    let mut bench = Bench::new(&["I udp 5000 any"]);
    run(&mut bench, 0, &first(line, 1), "rule sgr-1");
    run(&mut bench, 1, &Cut { line, id: 1, start: 0, length: 7, last: false }, "Malformed");
    run(&mut bench, 2, &middle(line, 1), "flow sgr-1");
}

#[test]
fn tiny_fragments_of_tcp_are_malformed() {
    for line in ["in tcp A:4000 P:80 S", "in tcp A6:4000 P6:80 S"] {
        let mut bench = Bench::new(&["I -1 * any", "I -1 * any6"]);
        let rule = if line.contains('6') { "sgr-2" } else { "sgr-1" };
        run(&mut bench, 0, &Cut { line, id: 1, start: 0, length: 16, last: false }, "Malformed"); // RFC 1858
        for (start, expected) in [(8, "Malformed"), (16, "Malformed"), (24, &*format!("rule {rule}"))] {
            run(&mut bench, 1, &Cut { line, id: 1, start, length: 8, last: true }, expected); // RFC 3128
        }
    }
    run(
        &mut Bench::new(&["I -1 * any"]),
        0,
        &Cut { line: "in udp A:1 P:2", id: 1, start: 8, length: 8, last: true },
        "rule sgr-1",
    );
}

#[test]
fn every_bit_of_an_offset_counts() {
    for (line, rule) in [("in udp A:4000 P:5000", "I udp 5000 any"), ("in udp A6:4000 P6:5000", "I udp 5000 any6")] {
        for start in (3..16).map(|bit| 1 << bit) {
            run(&mut Bench::new(&[rule]), 0, &Cut { line, id: 1, start, length: 8, last: true }, WITHOUT);
        }
    }
}

#[test]
fn offset_0_without_more_is_whole() {
    let line = "in udp A6:4000 P6:5000";
    let mut bench = Bench::new(&["I udp 5000 any6"]);
    run(&mut bench, 0, &Cut { line, id: 1, start: 0, length: 1480, last: true }, "rule sgr-1");
    run(&mut bench, 1, &middle(line, 1), WITHOUT);
}

#[test]
fn fragments_of_icmp_errors_and_of_portless_protocols_follow_too() {
    let mut bench = Bench::new(&["I icmp 3/4 any", "I 50 * any"]);
    run(&mut bench, 0, &first("in icmp A P 3/4/0", 1), "rule sgr-1");
    run(&mut bench, 1, &last("in icmp A P 3/4/0", 1), "flow sgr-1");
    run(&mut bench, 2, &first("in 50 A P", 1), "rule sgr-2");
    run(&mut bench, 3, &last("in 50 A P", 1), "flow sgr-2");
}
