//! From bytes to [`Packet`]. Never reads beyond what the headers and the frame both promise.

use crate::addr::{UNSPECIFIED, is_v4_mapped, v4_mapped};
use crate::limits::EXTENSION_HEADERS_MAX;
use crate::{Addr, Direction, DropReason, Family};

/// Length of an Ethernet header without tags, in bytes.
pub const ETHERNET_LEN: usize = 14;

/// ICMP for IPv4 (IANA protocol number).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Bytes of a TCP header without options, of a UDP header, and of the part of ICMP that every type has.
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
pub(crate) const ICMP_LEN: usize = 8;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Something packets can be read from: a frame in memory, an skb, an XDP buffer.
pub trait Bytes {
    /// `N` bytes from `offset`, or `None` if the frame does not hold all of them.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// Length of the whole frame in bytes, Ethernet header included.
    fn length(&self) -> usize;
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn length(&self) -> usize {
        self.len()
    }
}

/// What is known of the transport header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP or UDP: ports are known.
    Ports,
    /// ICMP or ICMPv6: type and code are known.
    Icmp,
    /// A protocol in which we know no ports.
    None,
    /// A fragment other than the first: the transport header is in another packet.
    LaterFragment,
}

/// Which part of an IP packet this one is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment: it has the transport header, and more are to come.
    First,
    /// A fragment that begins behind the first.
    Later,
}

/// An IP packet as far as the data path judges it. Ports are in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Length of the IP packet in bytes, as the frame has it.
    pub length: u32,
    /// Source port; 0 unless `transport` is `Ports`.
    pub source_port: u16,
    /// Destination port; 0 unless `transport` is `Ports`.
    pub destination_port: u16,
    /// Identifier of an ICMP query or its reply, else 0.
    pub query_id: u16,
    /// Where the transport header begins in the frame, in bytes; 0 for later fragments.
    pub transport_offset: u16,
    /// Fragments: where this one's payload begins and ends in the whole packet's, in bytes; else 0.
    pub fragment_start: u16,
    /// See `fragment_start`.
    pub fragment_end: u16,
    /// Fragments: the identification (RFC 791; RFC 8200 section 4.5), else 0.
    pub fragment_id: u32,
    /// IP version.
    pub family: Family,
    /// IP protocol number of the payload (IPv6: behind the extension headers).
    pub protocol: u8,
    /// What of the above is known.
    pub transport: Transport,
    /// Which part of an IP packet it is.
    pub part: Part,
    /// TCP flags byte, else 0.
    pub tcp_flags: u8,
    /// ICMP type; 0 unless `transport` is `Icmp`.
    pub icmp_type: u8,
    /// ICMP code; 0 unless `transport` is `Icmp`.
    pub icmp_code: u8,
    /// ICMP queries and their replies: the type of the query (`Self::asks` tells which this is), else 0.
    pub query: u8,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Address resolution: not IP, never filtered by EC2.
    Arp,
    /// An IP packet, now described in the [`Packet`] the parser was given.
    Ip,
}

/// Source MAC address of a frame.
#[inline(always)]
pub fn source_mac<B: Bytes + ?Sized>(frame: &B) -> Option<[u8; 6]> {
    frame.read(6)
}

/// Parses an Ethernet frame into `packet`, which the caller owns: a BPF program has 512 bytes of stack and
/// keeps packets elsewhere. After an error, or for ARP, its content means nothing.
///
/// # Errors
/// `UnsupportedProtocol` for anything but IP and ARP (tagged frames included: a branch's tag is gone
/// before our programs run), `Malformed` for headers that are truncated or contradict the frame.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B, packet: &mut Packet) -> Result<Frame, DropReason> {
    let ethertype = u16::from_be_bytes(frame.read(12).ok_or(DropReason::Malformed)?);
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(frame, packet)?,
        ETHERTYPE_IPV6 => parse_ipv6(frame, packet)?,
        ETHERTYPE_ARP => return Ok(Frame::Arp),
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    Ok(Frame::Ip)
}

/// RFC 791. Options are skipped by the header's own length; a total length beyond the frame is a lie.
#[inline(always)]
fn parse_ipv4<B: Bytes + ?Sized>(frame: &B, packet: &mut Packet) -> Result<(), DropReason> {
    let header: [u8; 20] = frame.read(ETHERNET_LEN).ok_or(DropReason::Malformed)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let available = frame.length().saturating_sub(ETHERNET_LEN);
    let length = ipv4_length(u16::from_be_bytes([header[2], header[3]]), available);
    if header[0] >> 4 != 4 || header_len < 20 || length < header_len || length > available {
        return Err(DropReason::Malformed);
    }
    packet.reset(Family::V4, header[9], length);
    packet.source = v4_mapped([header[12], header[13], header[14], header[15]]);
    packet.destination = v4_mapped([header[16], header[17], header[18], header[19]]);
    let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
    let place = u16::from_be_bytes([header[6], header[7]]);
    let (start, more) = ((place & 0x1fff) * 8, place & 0x2000 != 0);
    if start != 0 || more {
        fragment(packet, id, start, length - header_len)?;
    }
    parse_transport(frame, packet, ETHERNET_LEN + header_len, length - header_len)
}

/// Notes which part of which packet this is: `length` bytes from `start`.
///
/// The header of a TCP segment cannot be continued by a later fragment without overlapping the first
/// (RFC 3128), and nothing can end beyond what an IP packet can hold.
#[inline(always)]
fn fragment(packet: &mut Packet, id: u32, start: u16, length: usize) -> Result<(), DropReason> {
    let end = usize::from(start) + length;
    let overlaps_header = start != 0 && usize::from(start) < TCP_LEN && packet.protocol == TCP;
    if end > usize::from(u16::MAX) || overlaps_header {
        return Err(DropReason::Malformed);
    }
    packet.fragment_id = id;
    packet.fragment_start = start;
    packet.fragment_end = end as u16;
    packet.part = if start == 0 { Part::First } else { Part::Later };
    Ok(())
}

/// The length an IPv4 header claims; 0 stands for "too long to say" in GSO packets over 64 KiB
/// ("BIG TCP", Linux 6.3), which never came over a wire.
#[inline(always)]
fn ipv4_length(claimed: u16, available: usize) -> usize {
    if claimed == 0 && available > usize::from(u16::MAX) { available } else { usize::from(claimed) }
}

/// RFC 8200, with its extension headers followed up to [`EXTENSION_HEADERS_MAX`].
#[inline(always)]
fn parse_ipv6<B: Bytes + ?Sized>(frame: &B, packet: &mut Packet) -> Result<(), DropReason> {
    let header: [u8; 8] = frame.read(ETHERNET_LEN).ok_or(DropReason::Malformed)?;
    let available = frame.length().saturating_sub(ETHERNET_LEN);
    let claimed = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let length = if claimed == 0 && available > 40 + usize::from(u16::MAX) { available } else { 40 + claimed };
    if header[0] >> 4 != 6 || length > available {
        return Err(DropReason::Malformed);
    }
    packet.reset(Family::V6, header[6], length);
    packet.source = address(frame, ETHERNET_LEN + 8)?;
    packet.destination = address(frame, ETHERNET_LEN + 24)?;
    // Never on a wire, and here they would be taken for IPv4: flows and peers are known by address alone.
    if is_v4_mapped(&packet.source) || is_v4_mapped(&packet.destination) {
        return Err(DropReason::Malformed);
    }
    follow_extensions(frame, packet, ETHERNET_LEN + length)
}

#[inline(always)]
fn address<B: Bytes + ?Sized>(frame: &B, offset: usize) -> Result<Addr, DropReason> {
    let half = |at| frame.read(offset + at).ok_or(DropReason::Malformed);
    Ok(Addr::of_halves(half(0)?, half(8)?))
}

#[inline(always)]
fn follow_extensions<B: Bytes + ?Sized>(frame: &B, packet: &mut Packet, end: usize) -> Result<(), DropReason> {
    let (mut offset, mut fragment_headers) = (ETHERNET_LEN + 40, 0);
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !is_extension(packet.protocol) {
            break;
        }
        let header: [u8; 4] = frame.read(offset).ok_or(DropReason::Malformed)?;
        let is_fragment = packet.protocol == FRAGMENT;
        packet.protocol = header[0];
        offset += if is_fragment { 8 } else { (usize::from(header[1]) + 1) * 8 };
        if offset > end {
            return Err(DropReason::Malformed);
        }
        if is_fragment {
            fragment_headers += 1;
            fragment_v6(frame, packet, offset, end)?;
        }
        if matches!(packet.part, Part::Later) {
            break;
        }
    }
    if fragment_headers > 1 {
        return Err(DropReason::Malformed);
    }
    if matches!(packet.part, Part::Later) {
        packet.transport = Transport::LaterFragment;
        return Ok(());
    }
    if is_extension(packet.protocol) {
        return Err(DropReason::Malformed);
    }
    parse_transport(frame, packet, offset, end - offset)
}

/// Reads the fragment header that ends at `offset` (RFC 8200 section 4.5). "Offset 0, no more" is a whole packet (RFC
/// 6946).
#[inline(always)]
fn fragment_v6<B: Bytes + ?Sized>(frame: &B, packet: &mut Packet, offset: usize, end: usize) -> Result<(), DropReason> {
    let [high, low, a, b, c, d] = frame.read(offset - 6).ok_or(DropReason::Malformed)?;
    let place = u16::from_be_bytes([high, low]);
    if place & 0xfff9 == 0 {
        return Ok(());
    }
    fragment(packet, u32::from_be_bytes([a, b, c, d]), place & 0xfff8, end - offset)
}

#[inline(always)]
pub(crate) fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Reads ports, or type and code. A header that is not whole is `Malformed`, so that a tiny first
/// fragment cannot hide its flags in the next one (RFC 1858).
#[inline(always)]
fn parse_transport<B: Bytes + ?Sized>(
    frame: &B,
    packet: &mut Packet,
    offset: usize,
    length: usize,
) -> Result<(), DropReason> {
    if matches!(packet.part, Part::Later) {
        packet.transport = Transport::LaterFragment;
        return Ok(());
    }
    let needed = match (packet.family, packet.protocol) {
        (_, TCP) => TCP_LEN,
        (_, UDP) => UDP_LEN,
        (Family::V4, ICMP) | (Family::V6, ICMPV6) => ICMP_LEN,
        _ => return Ok(()),
    };
    let header: [u8; 8] = frame.read(offset).ok_or(DropReason::Malformed)?;
    if length < needed {
        return Err(DropReason::Malformed);
    }
    packet.transport_offset = offset as u16;
    if matches!(packet.protocol, TCP | UDP) {
        packet.transport = Transport::Ports;
        packet.source_port = u16::from_be_bytes([header[0], header[1]]);
        packet.destination_port = u16::from_be_bytes([header[2], header[3]]);
        if packet.protocol == TCP {
            let [length_words, flags] = frame.read(offset + 12).ok_or(DropReason::Malformed)?;
            packet.tcp_flags = flags;
            let header_len = usize::from(length_words >> 4) * 4;
            if header_len < TCP_LEN || header_len > length {
                return Err(DropReason::Malformed);
            }
        }
        return Ok(());
    }
    packet.transport = Transport::Icmp;
    packet.icmp_type = header[0];
    packet.icmp_code = header[1];
    packet.query = query(packet.family, header[0]);
    if packet.query != 0 {
        packet.query_id = u16::from_be_bytes([header[4], header[5]]);
    }
    Ok(())
}

/// The type of the ICMP query that a query or reply of `icmp_type` belongs to, or 0: echo, timestamp, information
/// and address mask (RFC 792, RFC 950); echo (RFC 4443). All have their identifier in the same place.
#[inline(always)]
pub(crate) fn query(family: Family, icmp_type: u8) -> u8 {
    match (family, icmp_type) {
        (Family::V4, 0 | 8) => 8,
        (Family::V4, 13 | 14) => 13,
        (Family::V4, 15 | 16) => 15,
        (Family::V4, 17 | 18) => 17,
        (Family::V6, 128 | 129) => 128,
        _ => 0,
    }
}

impl Packet {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        source: UNSPECIFIED,
        destination: UNSPECIFIED,
        length: 0,
        source_port: 0,
        destination_port: 0,
        query_id: 0,
        transport_offset: 0,
        fragment_start: 0,
        fragment_end: 0,
        fragment_id: 0,
        family: Family::V4,
        protocol: 0,
        transport: Transport::None,
        part: Part::Whole,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
        query: 0,
    };

    /// Forgets what an earlier packet left, but for the addresses, which every parser sets.
    #[inline(always)]
    pub(crate) fn reset(&mut self, family: Family, protocol: u8, length: usize) {
        self.length = length as u32;
        self.source_port = 0;
        self.destination_port = 0;
        self.query_id = 0;
        self.transport_offset = 0;
        self.fragment_start = 0;
        self.fragment_end = 0;
        self.fragment_id = 0;
        self.family = family;
        self.protocol = protocol;
        self.transport = Transport::None;
        self.part = Part::Whole;
        self.tcp_flags = 0;
        self.icmp_type = 0;
        self.icmp_code = 0;
        self.query = 0;
    }

    /// Whether this ICMP query packet asks, rather than answers.
    #[inline(always)]
    pub fn asks(&self) -> bool {
        self.query == self.icmp_type
    }

    /// Whether this is an ICMP error, which quotes the packet it is about: destination unreachable, time
    /// exceeded, parameter problem (RFC 792); those and packet too big (RFC 4443).
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        matches!(self.transport, Transport::Icmp)
            && match self.family {
                Family::V4 => matches!(self.icmp_type, 3 | 11 | 12),
                Family::V6 => matches!(self.icmp_type, 1..=4),
            }
    }

    /// The pod's address.
    #[inline(always)]
    pub fn local(&self, direction: Direction) -> &Addr {
        match direction {
            Direction::Inbound => &self.destination,
            Direction::Outbound => &self.source,
        }
    }

    /// The other side's address.
    #[inline(always)]
    pub fn remote(&self, direction: Direction) -> &Addr {
        match direction {
            Direction::Inbound => &self.source,
            Direction::Outbound => &self.destination,
        }
    }

    /// (the pod's port, the other side's port).
    #[inline(always)]
    pub fn ports(&self, direction: Direction) -> (u16, u16) {
        match direction {
            Direction::Inbound => (self.destination_port, self.source_port),
            Direction::Outbound => (self.source_port, self.destination_port),
        }
    }
}
