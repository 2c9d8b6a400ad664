//! Flows: tracked conversations seen from the endpoint, and how they live and die.

use crate::packet::{Packet, TCP, Transport, UDP};
use crate::{Addr, Direction, plain};

/// Key of `FLOWS`: one key for both directions, because it says local and remote.
///
/// The endpoint's id keeps pods apart and makes the reuse of a VLAN id or an address harmless.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Endpoint id.
    pub endpoint: u64,
    /// The pod's address.
    pub local_addr: Addr,
    /// The other address.
    pub remote_addr: Addr,
    /// The pod's port, host order; for ICMP the echo id if the pod asked, else 0.
    pub local_port: u16,
    /// The other port, host order; for ICMP the echo id if the other side asked, else 0.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl FlowKey {
    /// The key of the flow a packet belongs to, or `None` for packets that belong to none: later
    /// fragments, and ICMP other than echo, are judged one by one.
    #[inline(always)]
    pub fn of(endpoint: u64, packet: &Packet, direction: Direction) -> Option<Self> {
        let (source_port, destination_port) = match packet.transport {
            Transport::Ports => (packet.source_port, packet.destination_port),
            Transport::None => (0, 0),
            Transport::Icmp if packet.is_echo_request() => (packet.echo_id, 0),
            Transport::Icmp if packet.is_echo() => (0, packet.echo_id),
            Transport::Icmp | Transport::LaterFragment => return None,
        };
        let (local_addr, local_port, remote_addr, remote_port) = match direction {
            Direction::Outbound => (packet.source, source_port, packet.destination, destination_port),
            Direction::Inbound => (packet.destination, destination_port, packet.source, source_port),
        };
        Some(Self {
            endpoint,
            local_addr,
            remote_addr,
            local_port,
            remote_port,
            protocol: packet.protocol,
            reserved: [0; 3],
        })
    }
}

/// How far a conversation has come.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowState {
    /// Only the side that opened it has spoken.
    Opening = 0,
    /// Both have spoken. UDP: one request and its response.
    Established = 1,
    /// UDP only: more than one request and response.
    Stream = 2,
    /// TCP only: one side has sent FIN.
    Closing = 3,
    /// TCP only: RST, or FIN from both sides. The next SYN is judged as a new flow.
    Closed = 4,
}

/// Value of `FLOWS`. Programs on several CPUs update it in place with plain stores: a lost count, a
/// lost refresh or a state one packet late is accepted, since no verdict depends on it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// CLOCK_MONOTONIC of the last packet, nanoseconds.
    pub last_seen_ns: u64,
    /// Digest of the policy that admitted the flow; names the rule together with `rule`.
    pub policy_digest: u64,
    /// Packets to the pod.
    pub packets_in: u64,
    /// Packets from the pod.
    pub packets_out: u64,
    /// Bytes of IP packets to the pod.
    pub bytes_in: u64,
    /// Bytes of IP packets from the pod.
    pub bytes_out: u64,
    /// Index of the rule that admitted the flow.
    pub rule: u16,
    /// How far it has come.
    pub state: FlowState,
    /// Who opened it.
    pub opened: Direction,
    /// TCP: bit 0 set once the pod, bit 1 once the other side has sent FIN.
    pub fins: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// TCP FIN flag (RFC 9293 §3.1).
pub const FIN: u8 = 0x01;
/// TCP SYN flag.
pub const SYN: u8 = 0x02;
/// TCP RST flag.
pub const RST: u8 = 0x04;
/// TCP ACK flag.
pub const ACK: u8 = 0x10;

const SECOND_NS: u64 = 1_000_000_000;

impl Flow {
    /// A flow opened by `packet`.
    #[inline(always)]
    pub fn open(packet: &Packet, direction: Direction, rule: u16, policy_digest: u64, now_ns: u64) -> Self {
        let mut flow = Self {
            last_seen_ns: now_ns,
            policy_digest,
            packets_in: 0,
            packets_out: 0,
            bytes_in: 0,
            bytes_out: 0,
            rule,
            state: FlowState::Opening,
            opened: direction,
            fins: 0,
            reserved: [0; 3],
        };
        flow.refresh(packet, direction, now_ns);
        flow
    }

    /// Counts a packet of this flow and moves its state.
    #[inline(always)]
    pub fn refresh(&mut self, packet: &Packet, direction: Direction, now_ns: u64) {
        self.last_seen_ns = now_ns;
        match direction {
            Direction::Inbound => {
                self.packets_in += 1;
                self.bytes_in += u64::from(packet.length);
            }
            Direction::Outbound => {
                self.packets_out += 1;
                self.bytes_out += u64::from(packet.length);
            }
        }
        if packet.protocol == TCP && packet.tcp_flags & FIN != 0 {
            self.fins |= 1 << direction as u8;
        }
        self.state = advance(self.state, packet, direction != self.opened, self.fins);
    }

    /// Whether the flow has been idle for longer than its state allows. Decided at lookup: an expired
    /// entry is a miss, and when memory is reclaimed changes no verdict.
    #[inline(always)]
    pub fn expired(&self, protocol: u8, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_seen_ns) > lifetime_ns(self.state, protocol)
    }

    /// Whether this packet may not use this entry although it lives: a SYN on a flow that is over
    /// opens a new one, which the rules of today judge.
    #[inline(always)]
    pub fn reopened_by(&self, packet: &Packet) -> bool {
        packet.protocol == TCP
            && packet.tcp_flags & (SYN | ACK) == SYN
            && matches!(self.state, FlowState::Closing | FlowState::Closed)
    }
}

/// The state after a packet. `answer`: it goes against the direction the flow was opened in.
/// `fins` are those seen so far, this packet's included. A closed flow never comes back to life.
#[inline(always)]
pub fn advance(state: FlowState, packet: &Packet, answer: bool, fins: u8) -> FlowState {
    if packet.protocol == TCP {
        if state == FlowState::Closed || packet.tcp_flags & RST != 0 || fins == 0b11 {
            return FlowState::Closed;
        }
        if fins != 0 {
            return FlowState::Closing;
        }
    }
    match (state, answer) {
        (FlowState::Opening, true) => FlowState::Established,
        (FlowState::Established, false) if packet.protocol == UDP => FlowState::Stream,
        _ => state,
    }
}

/// How long a flow may be idle, in nanoseconds.
///
/// TCP established, UDP and UDP stream: EC2's defaults (EC2 user guide, idle connection tracking
/// timeout). Other protocols: 600 s (facts 5.2). Opening, closing and ICMP are unpublished; ours
/// follow Linux nf_conntrack's `syn_sent`, `fin_wait`, `close` and ICMP defaults.
#[inline(always)]
pub fn lifetime_ns(state: FlowState, protocol: u8) -> u64 {
    let seconds = match (protocol, state) {
        (TCP, FlowState::Established | FlowState::Stream) => 432_000,
        (TCP, FlowState::Opening | FlowState::Closing) => 120,
        (TCP, FlowState::Closed) => 10,
        (UDP, FlowState::Stream) => 180,
        (UDP, _) => 30,
        (crate::packet::ICMP | crate::packet::ICMPV6, _) => 30,
        _ => 600,
    };
    seconds * SECOND_NS
}

plain!(FlowKey, Flow);
