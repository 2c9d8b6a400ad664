//! From a packet in fields to the bytes of an Ethernet frame, checksums and all.

use etherparse::checksum::Sum16BitWords;
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader,
    UdpHeader,
};
use sgp_common::packet::{ICMP, UDP};

use super::given::Fragment;
use super::packet::{Ends, Header, Packet};

/// Source and destination of a frame.
#[derive(Clone, Copy)]
pub(super) struct Macs {
    pub(super) source: [u8; 6],
    pub(super) destination: [u8; 6],
}

const HOPS: u8 = 64;

/// The frame of `packet`, with `length` bytes behind its IP header and fragment header; a transport header that
/// needs more gets more.
pub(super) fn bytes(packet: &Packet, length: usize, macs: Macs) -> Vec<u8> {
    let segment = segment(packet, length);
    let (ether_type, ip) = match packet.ends {
        Ends::V4(source, destination) => {
            (EtherType::IPV4, ipv4(packet, source.octets(), destination.octets(), segment.len()))
        }
        Ends::V6(source, destination) => {
            (EtherType::IPV6, ipv6(packet, source.octets(), destination.octets(), segment.len()))
        }
    };
    let ethernet = Ethernet2Header { source: macs.source, destination: macs.destination, ether_type };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend(ip);
    frame.extend(segment);
    frame
}

fn ipv4(packet: &Packet, source: [u8; 4], destination: [u8; 4], length: usize) -> Vec<u8> {
    let fragment = packet.fragment.unwrap_or(WHOLE);
    let mut header = Ipv4Header {
        total_len: (Ipv4Header::MIN_LEN + length) as u16,
        identification: fragment.id as u16,
        dont_fragment: packet.fragment.is_none(),
        more_fragments: fragment.more,
        fragment_offset: units(fragment),
        time_to_live: HOPS,
        protocol: IpNumber(packet.protocol),
        source,
        destination,
        ..Ipv4Header::default()
    };
    header.header_checksum = header.calc_header_checksum();
    header.to_bytes().to_vec()
}

fn ipv6(packet: &Packet, source: [u8; 16], destination: [u8; 16], length: usize) -> Vec<u8> {
    let extension = packet.fragment.map(|fragment| Ipv6FragmentHeader {
        next_header: IpNumber(packet.protocol),
        fragment_offset: units(fragment),
        more_fragments: fragment.more,
        identification: fragment.id,
    });
    let extensions = if extension.is_some() { Ipv6FragmentHeader::LEN } else { 0 };
    let header = Ipv6Header {
        payload_length: (extensions + length) as u16,
        next_header: extension.as_ref().map_or(IpNumber(packet.protocol), |_| IpNumber::IPV6_FRAGMENTATION_HEADER),
        hop_limit: HOPS,
        source,
        destination,
        ..Ipv6Header::default()
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(extension.iter().flat_map(Ipv6FragmentHeader::to_bytes));
    bytes
}

const WHOLE: Fragment = Fragment { id: 0, offset: 0, more: false };

/// The offset in units of 8 bytes. Others do not come here: the scenario is checked when it is read.
fn units(fragment: Fragment) -> IpFragOffset {
    IpFragOffset::try_new((fragment.offset / 8) as u16).unwrap_or(IpFragOffset::ZERO)
}

/// Transport header and data. The checksum of a first fragment covers what the fragment has.
fn segment(packet: &Packet, length: usize) -> Vec<u8> {
    let (mut segment, checksum) = match packet.header {
        Header::Tcp { source_port, destination_port, flags } => {
            (tcp(source_port, destination_port, flags.unwrap_or_default()), Some(16))
        }
        Header::Udp { source_port, destination_port } => {
            let length = length.max(UdpHeader::LEN) as u16;
            let header = UdpHeader { source_port, destination_port, length, checksum: 0 };
            (header.to_bytes().to_vec(), Some(6))
        }
        Header::Icmp { icmp_type, code, id } => {
            let [high, low] = id.to_be_bytes();
            (vec![icmp_type, code, 0, 0, high, low, 0, 1], Some(2))
        }
        Header::None => (Vec::new(), None),
    };
    segment.resize(length.max(segment.len()), 0);
    if let Some(at) = checksum {
        let sum = checksum_of(packet, &segment);
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    segment
}

fn tcp(source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
    let header =
        TcpHeader { source_port, destination_port, sequence_number: 1, window_size: u16::MAX, ..TcpHeader::default() };
    let mut bytes = header.to_bytes().to_vec();
    bytes[13] = flags;
    bytes
}

/// RFC 1071 over the segment and, but for ICMP over IPv4, the pseudo header of the family.
fn checksum_of(packet: &Packet, segment: &[u8]) -> u16 {
    let mut sum = Sum16BitWords::new();
    let sum = match (packet.ends, packet.protocol) {
        (Ends::V4(..), ICMP) => sum,
        (Ends::V4(source, destination), _) => {
            pseudo(packet, segment, sum.add_4bytes(source.octets()).add_4bytes(destination.octets()))
        }
        (Ends::V6(source, destination), _) => {
            pseudo(packet, segment, sum.add_16bytes(source.octets()).add_16bytes(destination.octets()))
        }
    };
    let sum = sum.add_slice(segment).ones_complement().to_be();
    // RFC 768: a sum of zero is sent as all ones, because zero says that there is none.
    if sum == 0 && packet.protocol == UDP { u16::MAX } else { sum }
}

/// Behind the addresses, both families' pseudo headers add up to the same (RFC 9293 §3.1, RFC 8200 §8.1).
fn pseudo(packet: &Packet, segment: &[u8], addresses: Sum16BitWords) -> Sum16BitWords {
    addresses.add_2bytes([0, packet.protocol]).add_4bytes((segment.len() as u32).to_be_bytes())
}
