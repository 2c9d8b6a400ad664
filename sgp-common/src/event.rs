//! Counters (of everything) and events (samples).

use crate::{Addr, Direction, DropReason, Verdict, plain};

/// Room for what is counted by: 0 for allowed packets, else the value of a `DropReason`.
pub const REASONS: usize = 16;
const _: () = assert!(DropReason::ALL.len() < REASONS);

/// Value of `COUNTERS`, one a CPU, at the VLAN id of the endpoint's branch; at 0, what belongs to no endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To the pod, by reason.
    pub inbound: [Counter; REASONS],
    /// From the pod, by reason.
    pub outbound: [Counter; REASONS],
}

impl Counts {
    /// Where a packet is counted.
    #[inline(always)]
    pub fn cell(&mut self, direction: Direction, reason: u8) -> &mut Counter {
        let cells = match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        };
        &mut cells[usize::from(reason) % REASONS]
    }
}

/// A cell of [`Counts`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; a GSO packet counts once.
    pub packets: u64,
    /// Bytes of IP packets, Ethernet header not included.
    pub bytes: u64,
}

/// One sampled verdict, as it stands in the ring `EVENTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time_ns: u64,
    /// Endpoint id, or 0 where no endpoint was found.
    pub endpoint: u64,
    /// Digest of the policy that was asked, or 0.
    pub policy_digest: u64,
    /// The pod's address.
    pub local_addr: Addr,
    /// The other address.
    pub remote_addr: Addr,
    /// The pod's port, host order; 0 where the packet has none.
    pub local_port: u16,
    /// The other port, host order; 0 where the packet has none.
    pub remote_port: u16,
    /// Interface the packet was seen on.
    pub ifindex: u32,
    /// IP packet length in bytes.
    pub length: u32,
    /// Index of the rule that allowed it; `u16::MAX` where none did.
    pub rule: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's point of view.
    pub direction: Direction,
    /// 0 for allowed, else the value of a `DropReason`.
    pub reason: u8,
    /// TCP flags, or the ICMP type.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Value of the one-entry map `OUTCOME`, which only programs loaded for tests write.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Endpoint id, or 0 where no endpoint was found.
    pub endpoint: u64,
    /// Digest of the policy of `rule`, or 0.
    pub policy_digest: u64,
    /// Index of the rule that let it pass, also by its flow; `u16::MAX` for none.
    pub rule: u16,
    /// The pod's point of view.
    pub direction: Direction,
    /// 0 for allowed, else the value of a `DropReason`.
    pub reason: u8,
    /// If allowed, how.
    pub verdict: Verdict,
    /// The direction whose rules `rule` is one of.
    pub rule_direction: Direction,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of the one-entry, per-CPU map `SAMPLER`: how many events this CPU emitted in this second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampler {
    /// CLOCK_MONOTONIC, whole seconds.
    pub second: u64,
    /// Events emitted in that second.
    pub emitted: u64,
}

plain!(Counts, Counter, Event, Outcome, Sampler);
