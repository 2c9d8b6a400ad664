//! Flows: tracked conversations seen from the endpoint, and how they live and die.

mod admission;
mod key;

pub use admission::{Admission, Tracking, Way};
pub use key::{Asker, FlowKey};

use crate::endpoint::Timeouts;
use crate::packet::{Packet, TCP, UDP};
use crate::policy::Question;
use crate::{Direction, Family, plain};

/// How far a conversation has come.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowState {
    /// Only the side that opened it has spoken.
    Opening = 0,
    /// Both have spoken. UDP: one question and its answer.
    Established = 1,
    /// UDP only: a second question was answered too.
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
    /// The revision of the policy that judged the flow last, as `REVISIONS` had it before; of two policies, both in one.
    pub revision: u64,
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
    /// TCP: bit 0 set once the other side, bit 1 once the pod has sent FIN (the values of `Direction`).
    pub fins: u8,
    /// How often the side that speaks has changed, 3 at most.
    pub turns: u8,
    /// Whether EC2 would track it.
    pub tracking: Tracking,
    /// ICMP: code of the packet that opened it, else 0.
    pub icmp_code: u8,
    /// The port, or ICMP identifier, that stands for the pod's; 0 if the flow is not translated and keeps to the branch.
    pub nat_port: u16,
    /// How it came to the node.
    pub way: Way,
    /// Zero.
    pub reserved: [u8; 5],
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
    /// Nothing seen yet.
    pub const EMPTY: Self = Self {
        last_seen_ns: 0,
        policy_digest: 0,
        revision: 0,
        packets_in: 0,
        packets_out: 0,
        bytes_in: 0,
        bytes_out: 0,
        rule: u16::MAX,
        state: FlowState::Opening,
        opened: Direction::Inbound,
        fins: 0,
        turns: 0,
        tracking: Tracking::Tracked,
        icmp_code: 0,
        nat_port: 0,
        way: Way::Branch,
        reserved: [0; 5],
    };

    /// A flow opened by `packet`.
    pub fn open(packet: &Packet, direction: Direction, admission: &Admission, now_ns: u64) -> Self {
        let mut flow = Self::EMPTY;
        flow.begin(packet, direction, admission, now_ns);
        flow
    }

    /// Likewise in place, for a BPF program's small stack.
    #[inline(always)]
    pub fn begin(&mut self, packet: &Packet, direction: Direction, admission: &Admission, now_ns: u64) {
        *self = Self::EMPTY;
        self.opened = direction;
        self.icmp_code = packet.icmp_code;
        self.nat_port = admission.nat_port;
        self.way = admission.way;
        self.admit(admission);
        self.refresh(packet, direction, now_ns);
    }

    /// The rule that admits it.
    #[inline(always)]
    pub fn admission(&self) -> Admission {
        Admission {
            policy_digest: self.policy_digest,
            revision: self.revision,
            rule: self.rule,
            tracking: self.tracking,
            direction: self.opened,
            nat_port: self.nat_port,
            way: self.way,
            padding: 0,
        }
    }

    /// From now on this admits it.
    #[inline(always)]
    pub fn admit(&mut self, admission: &Admission) {
        self.policy_digest = admission.policy_digest;
        self.revision = admission.revision;
        self.rule = admission.rule;
        self.tracking = admission.tracking;
    }

    /// What the packet that opened it asked the rules.
    #[inline(always)]
    pub fn question(&self, key: &FlowKey, family: Family) -> Question {
        let port = match self.opened {
            Direction::Inbound => key.local_port,
            Direction::Outbound => key.remote_port,
        };
        let detail = if key.query == 0 { port.to_be_bytes() } else { [self.icmp_type(key), self.icmp_code] };
        Question {
            remote: key.remote_addr,
            direction: self.opened,
            family,
            protocol: key.protocol,
            detailed: u8::from(matches!(key.protocol, TCP | UDP) || key.query != 0),
            detail,
        }
    }

    /// ICMP: type of the packet that opened it, which is the reply where the question was not seen.
    #[inline(always)]
    fn icmp_type(&self, key: &FlowKey) -> u8 {
        let asked = matches!(
            (key.asker, self.opened),
            (Asker::Local, Direction::Outbound) | (Asker::Remote, Direction::Inbound)
        );
        match (asked, key.query) {
            (true, query) => query,
            // Echo of IPv4 is the one whose reply does not follow it (RFC 792).
            (false, 8) => 0,
            (false, query) => query + 1,
        }
    }

    /// Counts a packet of this flow and moves its state. A closed flow is not kept alive by what is still sent.
    #[inline(always)]
    pub fn refresh(&mut self, packet: &Packet, direction: Direction, now_ns: u64) {
        if self.state != FlowState::Closed {
            self.last_seen_ns = now_ns;
        }
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
        let answer = direction != self.opened;
        if self.turns < TURNS_MAX && answer == self.turns.is_multiple_of(2) {
            self.turns += 1;
        }
        self.state = advance(self.state, packet, self.turns, self.fins);
    }

    /// Whether the flow has been idle for longer than its state allows. Decided at lookup: an expired
    /// entry is a miss, and when memory is reclaimed changes no verdict.
    #[inline(always)]
    pub fn expired(&self, key: &FlowKey, timeouts: &Timeouts, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.last_seen_ns) > lifetime_ns(self.state, key, timeouts)
    }

    /// Whether this packet may not use this entry although it lives: a SYN on a flow that has come further than its
    /// own SYN opens a new one, which the rules of today judge.
    #[inline(always)]
    pub fn reopened_by(&self, packet: &Packet) -> bool {
        packet.protocol == TCP && is_syn(packet) && !matches!(self.state, FlowState::Opening)
    }
}

/// How many turns tell a UDP stream: question, answer, question, answer.
const TURNS_MAX: u8 = 3;

/// Whether a packet asks for a connection: TCP, SYN without ACK.
#[inline(always)]
pub fn is_syn(packet: &Packet) -> bool {
    packet.tcp_flags & (SYN | ACK) == SYN
}

/// Whether a packet opens a flow by itself, rather than going on with one: anything but TCP, and a SYN.
#[inline(always)]
pub fn opens(packet: &Packet) -> bool {
    packet.protocol != TCP || is_syn(packet)
}

/// The state after a packet. `turns` says how often the side that speaks has changed, and `fins` who has sent FIN,
/// this packet's included. A closed flow never comes back to life.
#[inline(always)]
pub fn advance(state: FlowState, packet: &Packet, turns: u8, fins: u8) -> FlowState {
    if packet.protocol == TCP {
        if state == FlowState::Closed || packet.tcp_flags & RST != 0 || fins == 0b11 {
            return FlowState::Closed;
        }
        if fins != 0 {
            return FlowState::Closing;
        }
    }
    match (state, turns) {
        (FlowState::Opening, 1..) => FlowState::Established,
        (FlowState::Established, TURNS_MAX..) if packet.protocol == UDP => FlowState::Stream,
        _ => state,
    }
}

/// How long a flow may be idle, in nanoseconds.
///
/// TCP established, UDP and UDP stream: the interface's own. Other protocols: 600 s (facts 5.2). Opening, closing and
/// ICMP are unpublished; ours follow Linux nf_conntrack's `syn_sent`, `fin_wait`, `close` and ICMP defaults.
#[inline(always)]
pub fn lifetime_ns(state: FlowState, key: &FlowKey, timeouts: &Timeouts) -> u64 {
    let seconds = match (key.protocol, state) {
        (TCP, FlowState::Established | FlowState::Stream) => timeouts.tcp_established_s,
        (TCP, FlowState::Opening | FlowState::Closing) => 120,
        (TCP, FlowState::Closed) => 10,
        (UDP, FlowState::Stream) => timeouts.udp_stream_s,
        (UDP, _) => timeouts.udp_s,
        _ if key.query != 0 => 30,
        _ => 600,
    };
    u64::from(seconds) * SECOND_NS
}

plain!(Flow);
