//! What holds for the parser whatever the bytes. The fuzz target asks it of what it makes up, `tests/fuzzed.rs` of everything
//! that was ever found.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use sgp_common::addr::is_v4_mapped;
use sgp_common::packet::{self, ETHERNET_LEN, Frame, Packet, Part, Transport};
use sgp_common::{Addr, DropReason, Family, quoted};

/// The IPv6 extension headers that another reader follows further than we do: authentication (RFC 4302), mobility, HIP, Shim6 and
/// two for experiments. To us their number is the protocol.
const FOLLOWED_BY_OTHERS: [u8; 6] = [51, 135, 139, 140, 253, 254];

/// Panics where the parser breaks a law on this frame.
pub(crate) fn hold(frame: &[u8]) {
    let (read, packet) = parse(frame, Packet::EMPTY);
    let again = parse(frame, left_behind());
    assert_eq!(read, again.0, "the verdict hangs on the packet before");
    if read != Ok(Frame::Ip) {
        return;
    }
    assert_eq!(packet, again.1, "something of the packet before is left");
    stays_inside(frame, &packet);
    ends_where_it_says(frame, &packet);
    reads_as_others_do(frame, &packet);
    quotes_stay_inside(frame, &packet);
}

fn parse(frame: &[u8], mut packet: Packet) -> (Result<Frame, DropReason>, Packet) {
    (packet::parse(frame, &mut packet), packet)
}

/// What the packet before may have left where this one is put: nothing is as it was made.
fn left_behind() -> Packet {
    Packet {
        source: Addr { bytes: [0xa5; 16] },
        destination: Addr { bytes: [0x5a; 16] },
        length: u32::MAX,
        source_port: 1,
        destination_port: 2,
        query_id: 3,
        transport_offset: 4,
        fragment_start: 5,
        fragment_end: 6,
        fragment_id: 7,
        family: Family::V6,
        protocol: 8,
        transport: Transport::LaterFragment,
        part: Part::Later,
        tcp_flags: 9,
        icmp_type: 10,
        icmp_code: 11,
        query: 12,
    }
}

fn end(packet: &Packet) -> usize {
    ETHERNET_LEN + packet.length as usize
}

fn stays_inside(frame: &[u8], packet: &Packet) {
    assert!(end(packet) <= frame.len());
    let needed = match packet.transport {
        Transport::Ports | Transport::Icmp => 8,
        Transport::None | Transport::LaterFragment => 0,
    };
    assert!(usize::from(packet.transport_offset) + needed <= end(packet));
    assert!(packet.fragment_start <= packet.fragment_end);
    assert_eq!(matches!(packet.part, Part::Later), matches!(packet.transport, Transport::LaterFragment));
    assert_eq!(packet.family == Family::V4, is_v4_mapped(&packet.source) && is_v4_mapped(&packet.destination));
}

/// What lies behind the packet decides nothing; a byte less, and the packet lies. (Above 64 KiB its length is the frame's.)
fn ends_where_it_says(frame: &[u8], packet: &Packet) {
    if packet.length > u32::from(u16::MAX) {
        return;
    }
    let whole = &frame[..end(packet)];
    assert_eq!(parse(whole, Packet::EMPTY), (Ok(Frame::Ip), *packet));
    assert_eq!(parse(&whole[..whole.len() - 1], Packet::EMPTY).0, Err(DropReason::Malformed));
}

/// Where somebody else's parser takes the frame too, it reads the same.
fn reads_as_others_do(frame: &[u8], packet: &Packet) {
    let Ok(others) = SlicedPacket::from_ethernet(frame) else { return };
    let (source, destination, protocol, fragmented) = match &others.net {
        Some(NetSlice::Ipv4(ip)) => {
            let (header, payload) = (ip.header(), ip.payload());
            let (source, destination) = (IpAddr::from(header.source()), IpAddr::from(header.destination()));
            (source, destination, payload.ip_number, payload.fragmented)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let (header, payload) = (ip.header(), ip.payload());
            let (source, destination) = (IpAddr::from(header.source()), IpAddr::from(header.destination()));
            (source, destination, payload.ip_number, payload.fragmented)
        }
        _ => panic!("others see no IP here: {others:?}"),
    };
    assert_eq!((plain(&packet.source), plain(&packet.destination)), (source, destination));
    if FOLLOWED_BY_OTHERS.contains(&packet.protocol) {
        return;
    }
    assert_eq!(fragmented, !matches!(packet.part, Part::Whole));
    if !matches!(packet.part, Part::Later) {
        assert_eq!(packet.protocol, protocol.0);
    }
    if let Some(transport) = &others.transport {
        speaks_as_others_hear(packet, transport);
    }
}

fn plain(addr: &Addr) -> IpAddr {
    IpAddr::from(addr.bytes).to_canonical()
}

fn speaks_as_others_hear(packet: &Packet, transport: &TransportSlice) {
    let ports = (packet.source_port, packet.destination_port);
    let said = (packet.icmp_type, packet.icmp_code);
    match transport {
        TransportSlice::Tcp(tcp) => {
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
            assert_eq!(packet.tcp_flags, tcp.slice()[13]);
        }
        TransportSlice::Udp(udp) => assert_eq!(ports, (udp.source_port(), udp.destination_port())),
        TransportSlice::Icmpv4(icmp) if packet.family == Family::V4 => {
            assert_eq!(said, (icmp.type_u8(), icmp.code_u8()));
        }
        TransportSlice::Icmpv6(icmp) if packet.family == Family::V6 => {
            assert_eq!(said, (icmp.type_u8(), icmp.code_u8()));
        }
        // ICMP of the other family is a number to us.
        _ => assert_eq!((packet.transport, packet.query), (Transport::None, 0)),
    }
}

/// Also of what an ICMP error quotes, nothing is read from beyond the error.
fn quotes_stay_inside(frame: &[u8], packet: &Packet) {
    if !matches!(packet.transport, Transport::Icmp) || packet.query != 0 {
        return;
    }
    let quote = |frame: &[u8], mut quoted: Packet| quoted::parse(frame, packet, &mut quoted).map(|()| quoted);
    let read = quote(frame, Packet::EMPTY);
    assert_eq!(read, quote(frame, left_behind()), "something of the packet before is left");
    assert_eq!(read, quote(&frame[..end(packet)], Packet::EMPTY), "bytes behind the error were read");
    assert!(read.is_none_or(|quoted| quoted.family == packet.family && matches!(quoted.part, Part::Whole)));
}
