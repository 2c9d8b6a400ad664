//! Frames as senders write them and receivers check them.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::frames::Frame;

/// The frame's bytes, with the checksums that a sender would have written.
pub(crate) fn summed(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let sum = |parts: &[&[u8]]| {
        let sum = parts.iter().fold(Sum16BitWords::new(), |sum, part| sum.add_slice(part));
        sum.ones_complement().to_ne_bytes()
    };
    let header = sum(&[&bytes[14..34]]);
    bytes[24..26].copy_from_slice(&header);
    let length = ((bytes.len() - 34) as u16).to_be_bytes();
    let pseudo = [&bytes[26..34], &[0, frame.protocol], &length].concat();
    let (at, pseudo) = match frame.protocol {
        6 => (34 + 16, &pseudo[..]),
        17 => (34 + 6, &pseudo[..]),
        1 => (34 + 2, &[][..]),
        _ => return bytes,
    };
    let transport = sum(&[pseudo, &bytes[34..]]);
    bytes[at..at + 2].copy_from_slice(&transport);
    bytes
}

/// What a frame says, its checksums having been found right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
}

impl Seen {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(bytes).expect("a frame");
        let Some(NetSlice::Ipv4(ipv4)) = &packet.net else { panic!("no IPv4: {packet:?}") };
        let header = ipv4.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum");
        let ports = match packet.transport.as_ref().expect("a transport header") {
            TransportSlice::Tcp(tcp) => {
                assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).expect("a sum"));
                (tcp.source_port(), tcp.destination_port())
            }
            TransportSlice::Udp(udp) => {
                let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("a sum");
                assert!(udp.checksum() == sum || udp.checksum() == 0, "UDP checksum");
                (udp.source_port(), udp.destination_port())
            }
            TransportSlice::Icmpv4(icmp) => {
                assert_eq!(icmp.checksum(), icmp.header().icmp_type.calc_checksum(icmp.payload()), "ICMP checksum");
                let id = u16::from_be_bytes([icmp.slice()[4], icmp.slice()[5]]);
                (id, id)
            }
            other => panic!("{other:?}"),
        };
        Self { source: (header.source.into(), ports.0), destination: (header.destination.into(), ports.1) }
    }
}

impl Seen {
    /// The same of a quoted packet, whose transport checksum nobody keeps right.
    pub(crate) fn of_quote(bytes: &[u8]) -> Self {
        let packet = SlicedPacket::from_ethernet(bytes).expect("a frame");
        let (Some(NetSlice::Ipv4(ipv4)), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport) else {
            panic!("{packet:?}")
        };
        let header = ipv4.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum(), "IPv4 checksum");
        let (source, destination) = (header.source.into(), header.destination.into());
        Self { source: (source, tcp.source_port()), destination: (destination, tcp.destination_port()) }
    }
}
