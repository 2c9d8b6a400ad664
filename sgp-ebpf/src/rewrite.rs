//! Writing another address and port into a packet, checksums included.

use aya_ebpf::programs::TcContext;
use sgp_common::addr::v4_bytes;
use sgp_common::packet::{ETHERNET_LEN, ICMP, Packet, Part, TCP, UDP};
use sgp_common::{Addr, DropReason, checksum};

use crate::packet::bytes_at;

/// Which end of a packet is written.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Offset of the checksum in an IPv4 header (RFC 791).
const IP_CHECKSUM: usize = 10;
/// Length of an IPv4 header without options.
const IP_LEN: usize = 20;
/// The checksum covers the addresses (`linux/bpf.h`).
const PSEUDO_HEADER: u64 = 1 << 4;
/// A UDP checksum of 0 means none, and is left so.
const ZERO_MEANS_NONE: u64 = 1 << 5;

impl Side {
    /// Offset of its address in an IPv4 header.
    #[inline(always)]
    fn address(self) -> usize {
        match self {
            Self::Source => 12,
            Self::Destination => 16,
        }
    }

    /// Offset of its port in a TCP or UDP header.
    #[inline(always)]
    fn port(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Destination => 2,
        }
    }
}

/// What stands together in an IPv4 header and is written by one call (RFC 791).
#[repr(C)]
#[derive(Clone, Copy)]
struct Addresses {
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

/// Likewise, where no options stand in between, with both ports (RFC 768, RFC 9293).
#[repr(C)]
#[derive(Clone, Copy)]
struct Ends {
    addresses: Addresses,
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// Gives one side of an IPv4 packet this address and port; of an ICMP query, this identifier. Port 0 stays as it is, and a
/// later fragment has none.
///
/// Only checksums over a payload are a helper's to correct, since only it knows which of them a NIC will fill in. All else is
/// known or read without a call: each looks at the whole skb again.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext, packet: &Packet, side: Side, addr: &Addr, port: u16) -> Result<(), DropReason> {
    let addresses = addresses(ctx, packet, side, addr)?;
    let transport = usize::from(packet.transport_offset);
    let at = ETHERNET_LEN + IP_CHECKSUM;
    if matches!(packet.part, Part::Later) {
        return ctx.store(at, &addresses, 0).map_err(failed);
    }
    match packet.protocol {
        TCP => correct(ctx, packet, side, (transport + 16, 0), (addr, port))?,
        UDP => correct(ctx, packet, side, (transport + 6, ZERO_MEANS_NONE), (addr, port))?,
        _ => {
            // The identifier is one for both sides, and the checksum does not cover addresses.
            if matches!(packet.protocol, ICMP) {
                write_port(ctx, transport + 4, (transport + 2, 0), port)?;
            }
            return ctx.store(at, &addresses, 0).map_err(failed);
        }
    }
    let ends = ends(packet, side, addresses, port);
    if transport == ETHERNET_LEN + IP_LEN {
        return ctx.store(at, &ends, 0).map_err(failed);
    }
    ctx.store(at, &ends.addresses, 0).map_err(failed)?;
    ctx.store(transport, &[ends.source_port, ends.destination_port], 0).map_err(failed)
}

#[inline(always)]
fn addresses(ctx: &TcContext, packet: &Packet, side: Side, addr: &Addr) -> Result<Addresses, DropReason> {
    let (source, destination) = (v4_bytes(&packet.source), v4_bytes(&packet.destination));
    let before = bytes_at(ctx, ETHERNET_LEN + IP_CHECKSUM).ok_or(DropReason::RewriteFailed)?;
    let to = v4_bytes(addr);
    Ok(match side {
        Side::Source => Addresses { checksum: checksum::after(before, source, to), source: to, destination },
        Side::Destination => Addresses { checksum: checksum::after(before, destination, to), source, destination: to },
    })
}

#[inline(always)]
fn ends(packet: &Packet, side: Side, addresses: Addresses, port: u16) -> Ends {
    let (mut source, mut destination) = (packet.source_port, packet.destination_port);
    if port != 0 {
        match side {
            Side::Source => source = port,
            Side::Destination => destination = port,
        }
    }
    Ends { addresses, source_port: source.to_be_bytes(), destination_port: destination.to_be_bytes() }
}

/// Makes the checksum at this place right for another address and port.
#[inline(always)]
fn correct(
    ctx: &TcContext,
    packet: &Packet,
    side: Side,
    (at, flags): (usize, u64),
    (addr, port): (&Addr, u16),
) -> Result<(), DropReason> {
    replace(ctx, at, word(v4_bytes(before(packet, side))), word(v4_bytes(addr)), PSEUDO_HEADER | flags | 4)?;
    let from = port_before(packet, side);
    if port == 0 || port == from {
        return Ok(());
    }
    replace(ctx, at, half(from.to_be_bytes()), half(port.to_be_bytes()), flags | 2)
}

/// Likewise the packet that an ICMP error quotes. Its addresses and its own header checksum change by the same amount, so the
/// error's checksum knows only of the port; the quoted transport checksum is not kept right, since nobody can check it.
#[inline(always)]
pub(crate) fn quoted(
    ctx: &TcContext,
    error: &Packet,
    quoted: &Packet,
    side: Side,
    (addr, port): (&Addr, u16),
) -> Result<(), DropReason> {
    let header = usize::from(error.transport_offset) + 8;
    let (from, to) = (v4_bytes(before(quoted, side)), v4_bytes(addr));
    let error_checksum = usize::from(error.transport_offset) + 2;
    let at = usize::from(quoted.transport_offset) + if quoted.protocol == ICMP { 4 } else { side.port() };
    write_port(ctx, at, (error_checksum, 0), port)?;
    ctx.l3_csum_replace(header + IP_CHECKSUM, word(from), word(to), 4).map_err(failed)?;
    ctx.store(header + side.address(), &to, 0).map_err(failed)
}

#[inline(always)]
fn before(packet: &Packet, side: Side) -> &Addr {
    match side {
        Side::Source => &packet.source,
        Side::Destination => &packet.destination,
    }
}

#[inline(always)]
fn port_before(packet: &Packet, side: Side) -> u16 {
    match side {
        Side::Source => packet.source_port,
        Side::Destination => packet.destination_port,
    }
}

/// Writes a port where another stands; `checksum` is where the sum over it stands, and how it is kept right.
#[inline(always)]
fn write_port(ctx: &TcContext, at: usize, (sum, flags): (usize, u64), port: u16) -> Result<(), DropReason> {
    if port == 0 {
        return Ok(());
    }
    let to = port.to_be_bytes();
    let from: [u8; 2] = ctx.load(at).map_err(failed)?;
    replace(ctx, sum, half(from), half(to), flags | 2)?;
    ctx.store(at, &to, 0).map_err(failed)
}

#[inline(always)]
fn replace(ctx: &TcContext, at: usize, from: u64, to: u64, flags: u64) -> Result<(), DropReason> {
    ctx.l4_csum_replace(at, from, to, flags).map_err(failed)
}

#[inline(always)]
fn half(bytes: [u8; 2]) -> u64 {
    u64::from(u16::from_ne_bytes(bytes))
}

/// As the helpers take it: the bytes as they stand.
#[inline(always)]
fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

#[inline(always)]
fn failed(_: i64) -> DropReason {
    DropReason::RewriteFailed
}
