//! What an ICMP error says of the packet it is about.

use crate::addr::{is_v4_mapped, v4_mapped};
use crate::packet::{Bytes, ETHERNET_LEN, ICMP, ICMP_LEN, ICMPV6, Packet, TCP, Transport, UDP, is_extension, query};
use crate::{Addr, Family};

/// Reads the packet that an ICMP error quotes, as far as a flow is known by it: addresses, and ports or a query's
/// identifier, of a packet that is whole or a first fragment. The quotation may be cut off behind those (RFC 792 asks for 8
/// bytes of the transport header); in IPv6, one with extension headers is not read.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(frame: &B, error: &Packet, quoted: &mut Packet) -> Option<()> {
    let start = usize::from(error.transport_offset) + ICMP_LEN;
    let end = ETHERNET_LEN + error.length as usize;
    let transport = match error.family {
        Family::V4 => quoted_ipv4(frame, start, quoted)?,
        Family::V6 => quoted_ipv6(frame, start, quoted)?,
    };
    quoted.transport_offset = transport as u16;
    match (quoted.family, quoted.protocol) {
        (_, TCP | UDP) => {
            let [a, b, c, d] = within(frame, transport, end)?;
            quoted.transport = Transport::Ports;
            quoted.source_port = u16::from_be_bytes([a, b]);
            quoted.destination_port = u16::from_be_bytes([c, d]);
        }
        (Family::V4, ICMP) | (Family::V6, ICMPV6) => {
            let [icmp_type, _, _, _, high, low] = within(frame, transport, end)?;
            quoted.transport = Transport::Icmp;
            quoted.icmp_type = icmp_type;
            quoted.query = query(quoted.family, icmp_type);
            quoted.query_id = u16::from_be_bytes([high, low]);
        }
        _ if transport > end => return None,
        _ => {}
    }
    Some(())
}

/// Bytes of the quotation, which ends where the error does.
#[inline(always)]
fn within<const N: usize, B: Bytes + ?Sized>(frame: &B, at: usize, end: usize) -> Option<[u8; N]> {
    if at + N > end { None } else { frame.read(at) }
}

/// Reads a quoted IPv4 header; where its transport header begins.
#[inline(always)]
fn quoted_ipv4<B: Bytes + ?Sized>(frame: &B, start: usize, quoted: &mut Packet) -> Option<usize> {
    let header: [u8; 20] = frame.read(start)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < 20 || u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return None;
    }
    quoted.reset(Family::V4, header[9], usize::from(u16::from_be_bytes([header[2], header[3]])));
    quoted.source = v4_mapped([header[12], header[13], header[14], header[15]]);
    quoted.destination = v4_mapped([header[16], header[17], header[18], header[19]]);
    Some(start + header_len)
}

/// Likewise IPv6.
#[inline(always)]
fn quoted_ipv6<B: Bytes + ?Sized>(frame: &B, start: usize, quoted: &mut Packet) -> Option<usize> {
    let header: [u8; 8] = frame.read(start)?;
    if header[0] >> 4 != 6 || is_extension(header[6]) {
        return None;
    }
    quoted.reset(Family::V6, header[6], 40 + usize::from(u16::from_be_bytes([header[4], header[5]])));
    quoted.source = Addr { bytes: frame.read(start + 8)? };
    quoted.destination = Addr { bytes: frame.read(start + 24)? };
    // Such a quotation would be taken for one of an IPv4 flow.
    if is_v4_mapped(&quoted.source) || is_v4_mapped(&quoted.destination) {
        return None;
    }
    Some(start + 40)
}
