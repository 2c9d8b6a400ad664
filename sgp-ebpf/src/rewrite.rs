//! Writing another address and port into a packet, checksums included.

use aya_ebpf::programs::TcContext;
use sgp_common::addr::v4_bytes;
use sgp_common::packet::{ETHERNET_LEN, ICMP, Packet, Part, TCP, UDP};
use sgp_common::{Addr, DropReason};

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

/// Gives one side of an IPv4 packet this address and port; of an ICMP query, this identifier. Port 0 stays as it is, and a
/// later fragment has none.
#[inline(always)]
pub(crate) fn packet(ctx: &TcContext, packet: &Packet, side: Side, addr: &Addr, port: u16) -> Result<(), DropReason> {
    let (from, to) = (v4_bytes(before(packet, side)), v4_bytes(addr));
    let transport = usize::from(packet.transport_offset);
    if !matches!(packet.part, Part::Later) {
        match packet.protocol {
            TCP => {
                checksum(ctx, transport + 16, word(from), word(to), PSEUDO_HEADER | 4)?;
                write_port(ctx, transport + side.port(), (transport + 16, 0), port)?;
            }
            UDP => {
                checksum(ctx, transport + 6, word(from), word(to), PSEUDO_HEADER | ZERO_MEANS_NONE | 4)?;
                write_port(ctx, transport + side.port(), (transport + 6, ZERO_MEANS_NONE), port)?;
            }
            // The identifier is one for both sides, and the checksum does not cover addresses.
            ICMP => write_port(ctx, transport + 4, (transport + 2, 0), port)?,
            _ => {}
        }
    }
    ctx.l3_csum_replace(ETHERNET_LEN + IP_CHECKSUM, word(from), word(to), 4).map_err(failed)?;
    ctx.store(ETHERNET_LEN + side.address(), &to, 0).map_err(failed)
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

/// Writes a port where another stands; `checksum` is where the sum over it stands, and how it is kept right.
#[inline(always)]
fn write_port(ctx: &TcContext, at: usize, (sum, flags): (usize, u64), port: u16) -> Result<(), DropReason> {
    if port == 0 {
        return Ok(());
    }
    let to = port.to_be_bytes();
    let from: [u8; 2] = ctx.load(at).map_err(failed)?;
    let half = |bytes: [u8; 2]| u64::from(u16::from_ne_bytes(bytes));
    checksum(ctx, sum, half(from), half(to), flags | 2)?;
    ctx.store(at, &to, 0).map_err(failed)
}

#[inline(always)]
fn checksum(ctx: &TcContext, at: usize, from: u64, to: u64, flags: u64) -> Result<(), DropReason> {
    ctx.l4_csum_replace(at, from, to, flags).map_err(failed)
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
