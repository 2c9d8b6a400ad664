//! First fragments remembered, so that what comes behind them is known for what it is.

use crate::addr::UNSPECIFIED;
use crate::flow::Admission;
use crate::packet::Packet;
use crate::{Addr, Direction, Family, plain};

/// Key of `FRAGMENTS`: the packet that later fragments belong to (RFC 791 section 3.2), at one endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Endpoint id.
    pub endpoint: u64,
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// The packet's identification.
    pub id: u32,
    /// IPv4: protocol. IPv6: 0, since later fragments need not say the same as the first (RFC 8200 section 4.5).
    pub protocol: u8,
    /// The pod's point of view.
    pub direction: Direction,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of `FRAGMENTS`: a first fragment that was allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub seen_ns: u64,
    /// Who let it pass, and so those that follow.
    pub admission: Admission,
    /// Replies to a translated flow: endpoint of the pod they are for, else 0.
    pub endpoint: u64,
    /// Replies to a translated flow: address of the pod they are for, else unspecified.
    pub local_addr: Addr,
    /// Where its payload ended, in bytes of the whole packet's.
    pub end: u32,
    /// Zero.
    pub reserved: u32,
}

/// How long a first fragment speaks for others: what Linux gives reassembly (`ipfrag_time`).
pub const LIFETIME_NS: u64 = 30_000_000_000;

impl FragmentKey {
    /// The key of a fragment.
    #[inline(always)]
    pub fn of(endpoint: u64, packet: &Packet, direction: Direction) -> Self {
        let protocol = if matches!(packet.family, Family::V4) { packet.protocol } else { 0 };
        Self {
            endpoint,
            source: packet.source,
            destination: packet.destination,
            id: packet.fragment_id,
            protocol,
            direction,
            reserved: [0; 2],
        }
    }
}

impl Fragment {
    /// A first fragment, allowed.
    #[inline(always)]
    pub fn first(packet: &Packet, admission: &Admission, now_ns: u64) -> Self {
        Self {
            seen_ns: now_ns,
            admission: *admission,
            endpoint: 0,
            local_addr: UNSPECIFIED,
            end: packet.fragment_end.into(),
            reserved: 0,
        }
    }

    /// Whether it still speaks for others.
    #[inline(always)]
    pub fn stands(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns) <= LIFETIME_NS
    }

    /// Whether a later fragment would change what was judged.
    #[inline(always)]
    pub fn is_overlapped_by(&self, later: &Packet) -> bool {
        u32::from(later.fragment_start) < self.end
    }
}

plain!(FragmentKey, Fragment);
