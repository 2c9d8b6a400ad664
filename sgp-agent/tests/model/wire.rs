//! Section 1: what is a packet, and what only looks like one.

use sgp_common::Direction::{self, Inbound, Outbound};

use crate::bench::Bench;
use crate::frames::{DESTINATION_OPTIONS, FRAGMENT, Frame, HOP_BY_HOP, arp, tagged};
use crate::text::packet;

const MALFORMED: &str = "Malformed";
const UNSUPPORTED: &str = "UnsupportedProtocol";
const ROUTING: u8 = 43;
const AUTHENTICATION: u8 = 51;

/// Web, and everything of IPv6 that is not UDP.
const RULES: [&str; 3] = ["I tcp 80 any", "I tcp 80 any6", "I 51 * any6"];

fn frame(line: &str) -> Frame {
    packet(line).1
}

#[track_caller]
fn inbound(bytes: &[u8], expected: &str) {
    one(Inbound, bytes, expected);
}

#[track_caller]
fn one(direction: Direction, bytes: &[u8], expected: &str) {
    assert_eq!(Bench::new(&RULES).frame(0, direction, bytes), expected, "{bytes:02x?}");
}

/// The frame with these bytes at a place behind the Ethernet header.
fn with(frame: &Frame, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.bytes();
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    frame
}

#[test]
fn frames_that_are_no_ip() {
    for direction in [Inbound, Outbound] {
        for short in [&[][..], &arp()[..13]] {
            one(direction, short, MALFORMED);
        }
        one(direction, &arp()[..14], "exempt");
        one(direction, &tagged(arp(), 7), UNSUPPORTED);
        one(direction, &tagged(frame("in tcp A:1 P:80 S").bytes(), 7), UNSUPPORTED);
        let mut other = arp();
        other[12..14].copy_from_slice(&[0x88, 0xcc]);
        one(direction, &other, UNSUPPORTED);
        other[12..14].copy_from_slice(&[8, 0]);
        one(direction, &other, MALFORMED);
    }
}

#[test]
fn ipv4_headers_that_lie_are_malformed() {
    let web = frame("in tcp A:1 P:80 S");
    inbound(&web.bytes(), "rule sgr-1");
    for (at, bytes) in [
        (0, &[0x65][..]), // version 6
        (0, &[0x44]),     // a header of 16 bytes
        (0, &[0x4f]),     // of 60, more than there is
        (2, &[0, 19]),    // a total shorter than the header
        (2, &[0, 20]),    // and without the transport header
        (2, &[0, 39]),    // or the last byte of it
        (2, &[0, 41]),    // longer than the frame
        (2, &[0, 0]),     // "the frame's", of a small frame
        (32, &[0x40]),    // TCP's data offset below 5
        (32, &[0x60]),    // or beyond the packet
    ] {
        inbound(&with(&web, at, bytes), MALFORMED);
    }
}

#[test]
fn ipv4_options_are_skipped_by_length() {
    for words in 1..=10 {
        // Options full of port 80 and SYN, so that reading at a fixed place goes wrong.
        let options: Vec<u8> = std::iter::repeat_n([0, 80, 0, 80], words).flatten().collect();
        inbound(&Frame { options: options.clone(), ..frame("in tcp A:1 P:80 S") }.bytes(), "rule sgr-1");
        inbound(&Frame { options, ..frame("in tcp A:1 P:81 S") }.bytes(), "NoMatchingRule");
    }
}

#[test]
fn what_lies_behind_the_packet_decides_nothing() {
    for (line, rule) in [("in tcp A:1 P:80 S", "rule sgr-1"), ("in tcp A6:1 P6:80 S", "rule sgr-2")] {
        let mut padded = frame(line).bytes();
        padded.extend([0xff; 30]);
        inbound(&padded, rule);
        // A cut header is not completed from the padding.
        let mut cut = frame(line);
        cut.payload.truncate(12);
        let mut padded = cut.bytes();
        padded.extend([0x50; 30]);
        inbound(&padded, MALFORMED);
    }
}

#[test]
fn transport_headers_are_whole_or_malformed() {
    for (line, whole) in [
        ("in tcp A:1 P:81 S", 20),
        ("in udp A:1 P:81", 8),
        ("in icmp A P 8/0/1", 8),
        ("in tcp A6:1 P6:81 S", 20),
        ("in icmpv6 A6 P6 128/0/1", 8),
    ] {
        for length in 0..=whole {
            let mut frame = frame(line);
            frame.payload.truncate(length);
            inbound(&frame.bytes(), if length < whole { MALFORMED } else { "NoMatchingRule" });
        }
    }
    for line in ["in 50 A P", "in 58 A P", "in 1 A6 P6", "in 59 A6 P6"] {
        inbound(&Frame { payload: Vec::new(), ..frame(line) }.bytes(), "NoMatchingRule");
    }
}

#[test]
fn ipv6_headers_that_lie_are_malformed() {
    let web = frame("in tcp A6:1 P6:80 S");
    let mapped = "::ffff:10.0.2.20".parse::<std::net::Ipv6Addr>().expect("an address").octets();
    inbound(&web.bytes(), "rule sgr-2");
    for (at, bytes) in [
        (0, &[0x45][..]),
        (4, &[0, 0]), // no payload, so no TCP header
        (4, &[0, 19]),
        (4, &[0, 21]),
        (8, &mapped),
        (24, &mapped),
    ] {
        inbound(&with(&web, at, bytes), MALFORMED);
    }
}

#[test]
fn a_length_of_0_is_the_frames_where_the_field_could_not_say_it() {
    for (line, field, largest, rule) in
        [("in tcp A:1 P:80 S", 2, 65_535 - 20, "rule sgr-1"), ("in tcp A6:1 P6:80 S", 4, 65_535, "rule sgr-2")]
    {
        let mut big = frame(line);
        big.payload.resize(largest, 0);
        inbound(&with(&big, field, &[0, 0]), MALFORMED);
        big.payload.push(0);
        inbound(&with(&big, field, &[0, 0]), rule);
    }
}

/// Eight bytes of an extension header that says nothing, but for the byte that names the next.
const EMPTY: [u8; 7] = [0, 1, 4, 0, 0, 0, 0];

#[test]
fn six_extension_headers_are_followed_and_no_more() {
    for number in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
        for count in 0..=8 {
            let web = Frame { extensions: vec![(number, EMPTY.to_vec()); count], ..frame("in tcp A6:1 P6:80 S") };
            inbound(&web.bytes(), if count <= 6 { "rule sgr-2" } else { MALFORMED });
        }
    }
    let long = Frame {
        extensions: vec![(DESTINATION_OPTIONS, [&[2, 80][..], &[0; 21]].concat())],
        ..frame("in tcp A6:1 P6:80 S")
    };
    inbound(&long.bytes(), "rule sgr-2");
    let beyond = Frame { extensions: vec![(ROUTING, vec![3, 0, 0, 0, 0, 0, 0])], ..frame("in 59 A6 P6") };
    inbound(&Frame { payload: vec![0; 23], ..beyond.clone() }.bytes(), MALFORMED);
    inbound(&Frame { payload: vec![0; 24], ..beyond }.bytes(), "NoMatchingRule");
}

#[test]
fn other_headers_are_protocols_of_their_own() {
    let sealed = Frame { extensions: vec![(AUTHENTICATION, EMPTY.to_vec())], ..frame("in tcp A6:1 P6:80 S") };
    inbound(&sealed.bytes(), "rule sgr-3");
}

#[test]
fn a_second_fragment_header_is_malformed() {
    let atomic = (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 7]);
    for (count, expected) in [(1, "rule sgr-2"), (2, MALFORMED)] {
        let web = Frame { extensions: vec![atomic.clone(); count], ..frame("in tcp A6:1 P6:80 S") };
        inbound(&web.bytes(), expected);
    }
    // Behind a later fragment's header nothing is read, whatever it names.
    let later = Frame { extensions: vec![(FRAGMENT, vec![0, 0, 9, 0, 0, 0, 7])], ..frame("in 44 A6 P6") };
    inbound(&later.bytes(), "FragmentWithoutFlow");
}
