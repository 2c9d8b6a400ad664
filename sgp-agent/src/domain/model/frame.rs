//! A plain reader of Ethernet frames (docs/semantics.md, section 1). It shares nothing with the data path's parser,
//! so that a mistake there is not repeated here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sgp_common::DropReason::{self, Malformed};

/// IP protocol numbers (IANA) that are read further than their number.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// IPv6 extension headers that are followed (RFC 8200, section 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// How many of them.
const EXTENSIONS_MAX: u8 = 6;

/// The smallest TCP header; a later fragment below it could write over ports and flags (RFC 3128).
const TCP_HEADER: usize = 20;

/// An Ethernet frame, not looked into yet.
pub(super) struct Ethernet<'a> {
    pub(super) source: [u8; 6],
    ethertype: u16,
    content: &'a [u8],
}

/// What a frame carries.
pub(super) enum Content<'a> {
    Arp,
    Ip(Packet<'a>),
}

/// An IP packet, as far as a verdict can rest on it.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Behind all extension headers; of a later IPv6 fragment what its fragment header names.
    pub(super) protocol: u8,
    pub(super) piece: Piece,
    pub(super) said: Said<'a>,
}

/// Which part of a datagram a packet is. Positions are bytes from the start of the fragmentable part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Whole,
    First { id: u32, end: usize },
    Later { id: u32, start: usize },
}

/// What the transport header says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'a> {
    /// TCP and UDP; `flags` is TCP's byte of them, 0 for UDP.
    Ports { source: u16, destination: u16, flags: u8 },
    /// ICMP over IPv4, ICMPv6 over IPv6. `id` stands where queries have their identifier, `rest` is behind the header.
    Icmp { icmp_type: u8, code: u8, id: u16, rest: &'a [u8] },
    /// A later fragment, or a protocol that is known by its number only.
    Nothing,
}

impl<'a> Ethernet<'a> {
    pub(super) fn read(frame: &'a [u8]) -> Result<Self, DropReason> {
        let header: [u8; 14] = bytes(frame, 0)?;
        let source = bytes(&header, 6)?;
        Ok(Self { source, ethertype: number(&header, 12)?, content: behind(frame, header.len())? })
    }

    pub(super) fn content(&self) -> Result<Content<'a>, DropReason> {
        match self.ethertype {
            ETHERTYPE_ARP => Ok(Content::Arp),
            ETHERTYPE_IPV4 => ipv4(self.content).map(Content::Ip),
            ETHERTYPE_IPV6 => ipv6(self.content).map(Content::Ip),
            _ => Err(DropReason::UnsupportedProtocol),
        }
    }
}

/// Reads what stands behind the IP headers; there are two ways, since an ICMP error quotes only a part.
type Transport = for<'a> fn(u8, Family, Piece, &'a [u8]) -> Result<Said<'a>, DropReason>;

/// The frame may be longer than the packet: what lies behind it decides nothing.
fn ipv4(frame: &[u8]) -> Result<Packet<'_>, DropReason> {
    let (header, length) = ipv4_header(frame)?;
    let payload = frame.get(length..stated(number(&header, 2)?, frame)).ok_or(Malformed)?;
    ipv4_packet(&header, payload, transport)
}

/// The fixed part of the header, and the length of the whole of it.
fn ipv4_header(from: &[u8]) -> Result<([u8; 20], usize), DropReason> {
    let header: [u8; 20] = bytes(from, 0)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < header.len() {
        return Err(Malformed);
    }
    Ok((header, length))
}

fn ipv4_packet<'a>(header: &[u8; 20], payload: &'a [u8], read: Transport) -> Result<Packet<'a>, DropReason> {
    let (id, bits, protocol) = (number(header, 4)?, number(header, 6)?, header[9]);
    let piece = piece(u32::from(id), usize::from(bits & 0x1fff) * 8, bits & 0x2000, payload.len())?;
    let address = |at| bytes(header, at).map(|octets: [u8; 4]| IpAddr::from(Ipv4Addr::from(octets)));
    let (source, destination) = (address(12)?, address(16)?);
    Ok(Packet { source, destination, protocol, piece, said: read(protocol, Family::V4, piece, payload)? })
}

fn ipv6(frame: &[u8]) -> Result<Packet<'_>, DropReason> {
    let (header, content) = ipv6_header(frame)?;
    let payload = content.get(..stated(number(&header, 4)?, content)).ok_or(Malformed)?;
    ipv6_packet(&header, payload, transport)
}

/// The header, and all that follows it.
fn ipv6_header(from: &[u8]) -> Result<([u8; 40], &[u8]), DropReason> {
    let header: [u8; 40] = bytes(from, 0)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed);
    }
    Ok((header, behind(from, header.len())?))
}

fn ipv6_packet<'a>(header: &[u8; 40], payload: &'a [u8], read: Transport) -> Result<Packet<'a>, DropReason> {
    let Chain { protocol, piece, payload } = follow(header[6], payload, None, EXTENSIONS_MAX)?;
    let (source, destination) = (ipv6_address(header, 8)?, ipv6_address(header, 24)?);
    Ok(Packet { source, destination, protocol, piece, said: read(protocol, Family::V6, piece, payload)? })
}

/// An IPv4-mapped address on the wire pretends to be of the other family.
fn ipv6_address(header: &[u8], at: usize) -> Result<IpAddr, DropReason> {
    let address = Ipv6Addr::from(bytes::<16>(header, at)?);
    if address.to_ipv4_mapped().is_some() {
        return Err(Malformed);
    }
    Ok(address.into())
}

/// A length of 0 means all there is, if that is more than the field could say ("BIG TCP").
fn stated(length: u16, there: &[u8]) -> usize {
    if length == 0 && there.len() > usize::from(u16::MAX) { there.len() } else { usize::from(length) }
}

/// What stands behind the extension headers.
struct Chain<'a> {
    protocol: u8,
    piece: Piece,
    payload: &'a [u8],
}

/// Follows extension headers, at most `left`. `seen` is what the fragment header before these has said, if there was one.
fn follow(next: u8, rest: &[u8], seen: Option<Piece>, left: u8) -> Result<Chain<'_>, DropReason> {
    if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        return Ok(Chain { protocol: next, piece: seen.unwrap_or(Piece::Whole), payload: rest });
    }
    if left == 0 {
        return Err(Malformed);
    }
    if next == FRAGMENT {
        return fragment(rest, seen, left);
    }
    let [next, units] = bytes(rest, 0)?;
    follow(next, behind(rest, (usize::from(units) + 1) * 8)?, seen, left - 1)
}

fn fragment(rest: &[u8], seen: Option<Piece>, left: u8) -> Result<Chain<'_>, DropReason> {
    // A fragment of a fragment: no sender makes one, and two ids would speak for one packet.
    if seen.is_some() {
        return Err(Malformed);
    }
    let header: [u8; 8] = bytes(rest, 0)?;
    let payload = behind(rest, header.len())?;
    let bits = number(&header, 2)?;
    let id = u32::from_be_bytes(bytes(&header, 4)?);
    match piece(id, usize::from(bits & 0xfff8), bits & 1, payload.len())? {
        piece @ Piece::Later { .. } => Ok(Chain { protocol: header[0], piece, payload }),
        piece => follow(header[0], payload, Some(piece), left - 1),
    }
}

/// `more` is the bit that says more fragments follow. No packet is longer than its length field can say.
fn piece(id: u32, start: usize, more: u16, length: usize) -> Result<Piece, DropReason> {
    match (start, more) {
        (0, 0) => Ok(Piece::Whole),
        _ if start + length > usize::from(u16::MAX) => Err(Malformed),
        (0, _) => Ok(Piece::First { id, end: length }),
        _ => Ok(Piece::Later { id, start }),
    }
}

/// What a packet travels over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

fn transport(protocol: u8, over: Family, piece: Piece, payload: &[u8]) -> Result<Said<'_>, DropReason> {
    if let Piece::Later { start, .. } = piece {
        let overwrites = protocol == TCP && start < TCP_HEADER;
        return if overwrites { Err(Malformed) } else { Ok(Said::Nothing) };
    }
    match (protocol, over) {
        (TCP, _) => tcp(payload),
        (UDP, _) => {
            bytes::<8>(payload, 0)?;
            Ok(Said::Ports { source: number(payload, 0)?, destination: number(payload, 2)?, flags: 0 })
        }
        (ICMP, Family::V4) | (ICMPV6, Family::V6) => {
            let header: [u8; 8] = bytes(payload, 0)?;
            let (id, rest) = (number(&header, 4)?, behind(payload, header.len())?);
            Ok(Said::Icmp { icmp_type: header[0], code: header[1], id, rest })
        }
        _ => Ok(Said::Nothing),
    }
}

fn tcp(payload: &[u8]) -> Result<Said<'_>, DropReason> {
    let header: [u8; TCP_HEADER] = bytes(payload, 0)?;
    let data = usize::from(header[12] >> 4) * 4;
    if data < TCP_HEADER || data > payload.len() {
        return Err(Malformed);
    }
    Ok(Said::Ports { source: number(&header, 0)?, destination: number(&header, 2)?, flags: header[13] })
}

/// The packet that an ICMP error of the same family quotes, as far as it tells its flow. The quote is cut somewhere by
/// nature, so the lengths it states decide nothing.
pub(super) fn quoted(quote: &[u8], error_protocol: u8) -> Option<Packet<'_>> {
    if error_protocol == ICMP { quoted_ipv4(quote).ok() } else { quoted_ipv6(quote).ok() }
}

fn quoted_ipv4(quote: &[u8]) -> Result<Packet<'_>, DropReason> {
    let (header, length) = ipv4_header(quote)?;
    ipv4_packet(&header, behind(quote, length)?, quoted_transport)
}

fn quoted_ipv6(quote: &[u8]) -> Result<Packet<'_>, DropReason> {
    let (header, content) = ipv6_header(quote)?;
    if matches!(header[6], HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS) {
        return Err(Malformed);
    }
    ipv6_packet(&header, content, quoted_transport)
}

fn quoted_transport(protocol: u8, over: Family, _: Piece, payload: &[u8]) -> Result<Said<'_>, DropReason> {
    match (protocol, over) {
        (TCP | UDP, _) => Ok(Said::Ports { source: number(payload, 0)?, destination: number(payload, 2)?, flags: 0 }),
        (ICMP, Family::V4) | (ICMPV6, Family::V6) => {
            let [icmp_type, code, ..] = bytes::<4>(payload, 0)?;
            Ok(Said::Icmp { icmp_type, code, id: number(payload, 4)?, rest: &[] })
        }
        _ => Ok(Said::Nothing),
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Result<[u8; N], DropReason> {
    behind(from, at)?.first_chunk().copied().ok_or(Malformed)
}

fn number(from: &[u8], at: usize) -> Result<u16, DropReason> {
    bytes(from, at).map(u16::from_be_bytes)
}

fn behind(from: &[u8], at: usize) -> Result<&[u8], DropReason> {
    from.get(at..).ok_or(Malformed)
}
