//! What the parser makes of frames, one by one.

mod frames;

use frames::{DESTINATION_OPTIONS, ESP, FRAGMENT, Frame, HOP_BY_HOP, ip, tagged};
use sgp_common::addr::v4_mapped;
use sgp_common::limits::EXTENSION_HEADERS_MAX;
use sgp_common::packet::{self, ICMP, ICMPV6, Packet, TCP, Transport, UDP};
use sgp_common::{DropReason, Family};

const A: &str = "10.0.2.20";
const POD: &str = "10.0.1.10";
const A6: &str = "2001:db8:2::20";
const POD6: &str = "2001:db8:1::10";

fn parse(frame: &[u8]) -> Result<Packet, DropReason> {
    let mut packet = Packet::EMPTY;
    packet::parse(frame, &mut packet).map(|kind| {
        assert_eq!(kind, packet::Frame::Ip);
        packet
    })
}

fn parsed(frame: &Frame) -> Packet {
    parse(&frame.bytes()).expect("a whole frame")
}

fn syn() -> Frame {
    Frame::tcp((ip(A), 40000), (ip(POD), 443), 0x02)
}

fn syn6() -> Frame {
    Frame::tcp((ip(A6), 40000), (ip(POD6), 443), 0x02)
}

#[test]
fn a_tcp_segment_over_ipv4_shows_addresses_ports_and_flags() {
    let packet = parsed(&syn());
    assert_eq!((packet.family, packet.protocol, packet.transport), (Family::V4, TCP, Transport::Ports));
    assert_eq!((packet.source, packet.destination), (v4_mapped([10, 0, 2, 20]), v4_mapped([10, 0, 1, 10])));
    assert_eq!((packet.source_port, packet.destination_port, packet.tcp_flags), (40000, 443, 2));
    assert_eq!(packet.length, 40);
}

#[test]
fn a_udp_datagram_over_ipv6_shows_the_same() {
    let packet = parsed(&Frame::udp((ip(A6), 53), (ip(POD6), 5353)));
    assert_eq!((packet.family, packet.protocol, packet.transport), (Family::V6, UDP, Transport::Ports));
    assert_eq!((packet.source_port, packet.destination_port, packet.length), (53, 5353, 52));
    assert_eq!(packet.source.bytes[..2], [0x20, 0x01]);
}

#[test]
fn ipv4_options_are_skipped_by_the_length_of_the_header() {
    for options in [4, 20, 40] {
        let frame = Frame { options: vec![1; options], ..syn() };
        assert_eq!(parsed(&frame).destination_port, 443, "{options} bytes of options");
    }
}

#[test]
fn a_header_length_below_twenty_or_beyond_the_packet_is_malformed() {
    for header in [0x40, 0x44, 0x4f, 0x55] {
        let mut frame = Frame::udp((ip(A), 1), (ip(POD), 2)).bytes();
        frame[14] = header;
        assert_eq!(parse(&frame), Err(DropReason::Malformed), "first byte {header:#x}");
    }
}

#[test]
fn every_truncation_of_a_header_is_malformed() {
    for frame in [syn(), syn6(), Frame::icmp(ip(A), ip(POD), 8, 0, 1), Frame { options: vec![1; 8], ..syn() }] {
        let frame = frame.bytes();
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), Err(DropReason::Malformed), "{length} of {} bytes", frame.len());
        }
    }
}

#[test]
fn a_transport_header_that_the_ip_length_cuts_short_is_malformed() {
    let mut cut = syn();
    cut.payload.truncate(19);
    assert_eq!(parse(&cut.bytes()), Err(DropReason::Malformed));
    let mut padded = cut.bytes();
    padded.extend([0; 20]);
    assert_eq!(parse(&padded), Err(DropReason::Malformed), "padding of the frame is no part of the packet");
}

#[test]
fn padding_behind_the_packet_changes_nothing() {
    let mut frame = syn().bytes();
    frame.extend([0xaa; 6]);
    assert_eq!(parse(&frame), parse(&syn().bytes()));
}

#[test]
fn a_first_fragment_shows_its_ports_and_later_ones_show_none() {
    for frame in [syn(), syn6()] {
        let first = parsed(&frame.clone().fragment(0));
        assert_eq!((first.transport, first.destination_port), (Transport::Ports, 443));
        let later = parsed(&frame.fragment(185));
        assert_eq!((later.transport, later.destination_port, later.protocol), (Transport::LaterFragment, 0, TCP));
    }
}

#[test]
fn a_first_fragment_too_short_for_its_header_is_malformed() {
    let mut tiny = syn().fragment(0);
    tiny.payload.truncate(8);
    assert_eq!(parse(&tiny.bytes()), Err(DropReason::Malformed), "RFC 1858: flags hidden in the next fragment");
}

#[test]
fn extension_headers_are_followed_to_the_transport_header() {
    let options = || vec![0, 1, 4, 0, 0, 0, 0];
    let long = || [vec![1], vec![0; 14]].concat();
    let frame = Frame { extensions: vec![(HOP_BY_HOP, options()), (DESTINATION_OPTIONS, long())], ..syn6() };
    assert_eq!((parsed(&frame).protocol, parsed(&frame).destination_port), (TCP, 443));
}

#[test]
fn more_extension_headers_than_the_limit_are_malformed() {
    let header = (DESTINATION_OPTIONS, vec![0, 1, 4, 0, 0, 0, 0]);
    let frame = |count| Frame { extensions: vec![header.clone(); count], ..syn6() }.bytes();
    assert!(parse(&frame(EXTENSION_HEADERS_MAX)).is_ok());
    assert_eq!(parse(&frame(EXTENSION_HEADERS_MAX + 1)), Err(DropReason::Malformed));
}

#[test]
fn an_extension_header_that_points_beyond_the_packet_is_malformed() {
    let frame = Frame { extensions: vec![(HOP_BY_HOP, vec![9, 1, 4, 0, 0, 0, 0])], ..syn6() };
    assert_eq!(parse(&frame.bytes()), Err(DropReason::Malformed));
}

#[test]
fn a_fragment_header_of_an_unfragmented_packet_hides_nothing() {
    let frame = Frame { extensions: vec![(FRAGMENT, vec![0, 0, 0, 0, 0, 0, 7])], ..syn6() };
    assert_eq!((parsed(&frame).transport, parsed(&frame).destination_port), (Transport::Ports, 443));
}

#[test]
fn icmp_shows_type_and_code_and_an_id_only_for_queries() {
    let unreachable = parsed(&Frame::icmp(ip(A), ip(POD), 3, 4, 77));
    assert_eq!((unreachable.protocol, unreachable.transport), (ICMP, Transport::Icmp));
    assert_eq!((unreachable.icmp_type, unreachable.icmp_code, unreachable.query_id), (3, 4, 0));
    assert_eq!((unreachable.query, unreachable.is_icmp_error()), (0, true));
    let v4 = [(8, 0), (13, 14), (15, 16), (17, 18)].map(|types| ((A, POD), types));
    for ((source, destination), (query, reply)) in v4.into_iter().chain([((A6, POD6), (128, 129))]) {
        for icmp_type in [query, reply] {
            let packet = parsed(&Frame::icmp(ip(source), ip(destination), icmp_type, 0, 77));
            assert_eq!((packet.icmp_type, packet.query_id, packet.query), (icmp_type, 77, query));
            assert_eq!((packet.asks(), packet.is_icmp_error()), (icmp_type == query, false));
        }
    }
}

#[test]
fn icmp_of_the_other_family_is_a_protocol_without_type() {
    let crossed = Frame::new(ip(A), ip(POD), ICMPV6, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(parsed(&crossed).transport, Transport::None);
    let crossed = Frame::new(ip(A6), ip(POD6), ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]);
    assert_eq!(parsed(&crossed).transport, Transport::None);
}

#[test]
fn a_protocol_without_ports_needs_no_header_of_ours() {
    let packet = parsed(&Frame::new(ip(A), ip(POD), ESP, Vec::new()));
    assert_eq!((packet.protocol, packet.transport, packet.destination_port), (ESP, Transport::None, 0));
}

#[test]
fn arp_is_told_apart_and_everything_else_is_unsupported() {
    assert_eq!(packet::parse(&frames::arp()[..], &mut Packet::EMPTY.clone()), Ok(packet::Frame::Arp));
    assert_eq!(parse(&tagged(syn().bytes(), 3)), Err(DropReason::UnsupportedProtocol));
    let mut lldp = syn().bytes();
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    assert_eq!(parse(&lldp), Err(DropReason::UnsupportedProtocol));
}

#[test]
fn a_version_that_contradicts_the_ethertype_is_malformed() {
    let mut frame = syn().bytes();
    frame[14] = 0x65;
    assert_eq!(parse(&frame), Err(DropReason::Malformed));
    let mut frame = syn6().bytes();
    frame[14] = 0x40;
    assert_eq!(parse(&frame), Err(DropReason::Malformed));
}

#[test]
fn an_ipv6_packet_that_poses_as_ipv4_is_malformed() {
    let mapped = "::ffff:10.0.2.20";
    assert_eq!(parse(&Frame::udp((ip(mapped), 1), (ip(POD6), 2)).bytes()), Err(DropReason::Malformed));
    assert_eq!(parse(&Frame::udp((ip(A6), 1), (ip(mapped), 2)).bytes()), Err(DropReason::Malformed));
    for near in ["::fffe:10.0.2.20", "1::ffff:10.0.2.20", "::feff:10.0.2.20", "::"] {
        assert!(parse(&Frame::udp((ip(near), 1), (ip(POD6), 2)).bytes()).is_ok(), "{near}");
    }
}

#[test]
fn a_big_tcp_packet_that_cannot_say_its_length_takes_the_frames() {
    let mut frame = syn().bytes();
    frame[16..18].copy_from_slice(&[0, 0]);
    assert_eq!(parse(&frame), Err(DropReason::Malformed), "short frames have no excuse");
    frame.resize(14 + 70_000, 0);
    assert_eq!(parse(&frame).map(|packet| packet.length), Ok(70_000));
}

#[test]
fn nothing_of_an_earlier_packet_is_left_in_the_scratch() {
    let mut packet = parsed(&syn());
    packet::parse(&Frame::new(ip(A), ip(POD), ESP, Vec::new()).bytes()[..], &mut packet).expect("a whole frame");
    assert_eq!(packet, parsed(&Frame::new(ip(A), ip(POD), ESP, Vec::new())));
}
