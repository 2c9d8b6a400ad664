//! Section 5, `--related-icmp`: errors about flows.

use sgp_common::Direction::{Inbound, Outbound};

use crate::bench::{Bench, s};
use crate::frames::{DESTINATION_OPTIONS, Frame};
use crate::text::{host, packet};

const NO: &str = "NoMatchingRule";
const OUT: [&str; 2] = ["E -1 * 10.0.0.0/8", "E -1 * 2001:db8::/32"];

/// An ICMP error from `router` to P, about the first bytes of an IP packet.
fn error(router: &str, icmp_type: u8, quote: &[u8]) -> Vec<u8> {
    let to = if host(router).is_ipv4() { "P" } else { "P6" };
    let mut frame = Frame::icmp(host(router), host(to), icmp_type, 0, 0);
    frame.payload.extend(quote);
    frame.bytes()
}

/// The IP packet of a line, all of it.
fn quote(line: &str) -> Vec<u8> {
    quoted(&packet(line).1)
}

fn quoted(frame: &Frame) -> Vec<u8> {
    frame.bytes()[14..].to_vec()
}

fn opened(line: &str) -> Bench {
    let mut bench = Bench::relating(&OUT);
    bench.judge(0, line);
    bench
}

const FLOWS: [(&str, &str); 8] = [
    ("out tcp P:4000 A:80 S", "flow sgr-1"),
    ("out udp P:4000 A:53", "flow sgr-1"),
    ("out icmp P A 8/0/7", "flow sgr-1"),
    ("out 50 P A", "flow sgr-1"),
    ("out tcp P6:4000 A6:80 S", "flow sgr-2"),
    ("out udp P6:4000 A6:53", "flow sgr-2"),
    ("out icmpv6 P6 A6 128/0/7", "flow sgr-2"),
    ("out 50 P6 A6", "flow sgr-2"),
];

fn router_of(line: &str) -> &'static str {
    if line.contains('6') { "X6" } else { "X" }
}

#[test]
fn an_error_passes_by_the_rule_of_the_flow_it_quotes() {
    for (line, expected) in FLOWS {
        let router = router_of(line);
        let errors: &[u8] = if router == "X" { &[3, 11, 12] } else { &[1, 2, 3, 4] };
        for icmp_type in errors {
            let told = opened(line).frame(1, Inbound, &error(router, *icmp_type, &quote(line)));
            assert_eq!(told, expected, "{line}, error {icmp_type}");
        }
        let other = if router == "X" { 4 } else { 127 };
        assert_eq!(opened(line).frame(1, Inbound, &error(router, other, &quote(line))), NO, "{line}");
    }
}

#[test]
fn as_aws_documents_it_needs_a_rule() {
    let line = "out tcp P:4000 A:80 S";
    let mut bench = Bench::new(&OUT);
    bench.judge(0, line);
    assert_eq!(bench.frame(1, Inbound, &error("X", 3, &quote(line))), NO);
    bench.rules(&[OUT[0], "I icmp 3/* any"]);
    assert_eq!(bench.frame(2, Inbound, &error("X", 3, &quote(line))), "rule sgr-2");
}

#[test]
fn what_it_quotes_must_be_a_live_flow_in_the_other_direction() {
    let line = "out tcp P:4000 A:80 S";
    for other in [
        "out tcp P:4001 A:80 S",
        "out tcp P:4000 A:81 S",
        "out tcp P:4000 B:80 S",
        "out udp P:4000 A:80",
        "in tcp A:80 P:4000 S",
    ] {
        assert_eq!(opened(line).frame(1, Inbound, &error("X", 3, &quote(other))), NO, "{other}");
    }
    assert_eq!(opened(line).frame(s(120), Inbound, &error("X", 3, &quote(line))), "flow sgr-1");
    assert_eq!(opened(line).frame(s(120) + 1, Inbound, &error("X", 3, &quote(line))), NO);
    let mut bench = opened(line);
    let mut from_pod = Frame::icmp(host("P"), host("A"), 3, 3, 0);
    bench.rules(&["E tcp 80 any"]);
    from_pod.payload.extend(quote("in tcp A:80 P:4000 SA"));
    assert_eq!(bench.frame(1, Outbound, &from_pod.bytes()), "flow sgr-1");
}

#[test]
fn the_flags_of_the_quote_decide_nothing() {
    let line = "out tcp P:4000 A:80 S";
    for flags in ["S", "A", "R", "FA"] {
        let mut bench = opened(line);
        bench.run(&[(1, "in tcp A:80 P:4000 SA", "flow sgr-1")]);
        let about = quote(&format!("out tcp P:4000 A:80 {flags}"));
        assert_eq!(bench.frame(2, Inbound, &error("X", 3, &about)), "flow sgr-1", "{flags}");
    }
}

#[test]
fn it_does_not_prolong_the_flow() {
    let line = "out udp P:4000 A:53";
    let mut bench = opened(line);
    assert_eq!(bench.frame(s(30), Inbound, &error("X", 3, &quote(line))), "flow sgr-1");
    bench.run(&[(s(30) + 1, "in udp A:53 P:4000", NO)]);
}

#[test]
fn ports_and_identifiers_must_be_quoted_whole() {
    for (line, expected) in FLOWS {
        let whole = quote(line);
        let header = if router_of(line) == "X" { 20 } else { 40 };
        let needed = header
            + if line.contains("tcp") || line.contains("udp") {
                4
            } else if line.contains("icmp") {
                6
            } else {
                0
            };
        for length in 0..whole.len() {
            let told = opened(line).frame(1, Inbound, &error(router_of(line), 3, &whole[..length]));
            assert_eq!(told, if length < needed { NO } else { expected }, "{line}, {length} bytes");
        }
    }
}

#[test]
fn quotes_of_first_fragments_count_and_of_later_ones_do_not() {
    let (line, expected) = FLOWS[0];
    let asked = |frame| opened(line).frame(1, Inbound, &error(router_of(line), 3, &quoted(&frame)));
    assert_eq!(asked(packet(line).1.fragment(0)), expected);
    assert_eq!(asked(packet(line).1.fragment(1)), NO);
}

#[test]
fn options_of_the_quote_are_skipped_and_extension_headers_are_not_read() {
    let (line, expected) = FLOWS[0];
    let with_options = Frame { options: vec![1; 8], ..packet(line).1 };
    assert_eq!(opened(line).frame(1, Inbound, &error("X", 3, &quoted(&with_options))), expected);
    let (line, expected) = FLOWS[4];
    assert_eq!(opened(line).frame(1, Inbound, &error("X6", 1, &quoted(&packet(line).1))), expected);
    let extensions = vec![(DESTINATION_OPTIONS, vec![0; 7])];
    let frame = Frame { extensions, ..packet(line).1 };
    assert_eq!(opened(line).frame(1, Inbound, &error("X6", 1, &quoted(&frame))), NO);
}

#[test]
fn a_quote_of_the_other_family_is_none() {
    let line = "out tcp P:4000 A:80 S";
    let mut mapped = quote("out tcp P6:4000 A6:80 S");
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
    mapped[8..24].copy_from_slice(&address("::ffff:10.0.1.10"));
    mapped[24..40].copy_from_slice(&address("::ffff:10.0.2.20"));
    assert_eq!(opened(line).frame(1, Inbound, &error("X6", 1, &mapped)), NO);
    assert_eq!(opened(line).frame(1, Inbound, &error("X6", 1, &quote(line))), NO);
}

#[test]
fn a_flow_that_has_been_stopped_admits_no_errors() {
    let line = "out tcp P:4000 A:80 S";
    let mut bench = Bench::relating(&["E tcp 80 any", "I -1 * any"]);
    bench.judge(0, line);
    bench.rules(&["I tcp 22 any"]);
    assert_eq!(bench.frame(1, Inbound, &error("X", 3, &quote(line))), NO);
}

#[test]
fn an_error_that_quotes_no_flow_is_for_the_rules() {
    let mut bench = Bench::relating(&["I icmp 3/4 any"]);
    assert_eq!(bench.frame(1, Inbound, &error("X", 3, &[])), NO);
    bench.rules(&["I icmp 3/0 any"]);
    assert_eq!(bench.frame(1, Inbound, &error("X", 3, &quote("out tcp P:1 A:2"))), "rule sgr-1");
}
