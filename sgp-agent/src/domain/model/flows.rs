//! What is remembered of conversations (docs/semantics.md, sections 5 and 8).

use std::collections::BTreeMap;
use std::net::IpAddr;

use sgp_common::{Direction, DropReason};

use super::Limits;
use super::frame::{ICMP, ICMPV6, Packet, Piece, Said, TCP, UDP};
use super::rules::{Grounds, Question};
use crate::domain::observed::Timeouts;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Queries of ICMP over IPv4 and of ICMPv6, each as (type of the request, type of the reply).
const QUERIES_V4: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
const QUERIES_V6: [(u8, u8); 1] = [(128, 129)];

/// Idle lifetimes that are not the interface's, in seconds.
const TCP_OPENING_S: u64 = 120;
const TCP_CLOSING_S: u64 = 120;
const TCP_CLOSED_S: u64 = 10;
const ICMP_S: u64 = 30;
const OTHERS_S: u64 = 600;

/// Nanoseconds of a second.
pub(super) const NS: u64 = 1_000_000_000;

/// Which flow a packet is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) endpoint: String,
    local: IpAddr,
    remote: IpAddr,
    protocol: u8,
    talk: Talk,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Talk {
    Ports {
        local: u16,
        remote: u16,
    },
    /// `asked` is the direction of the request.
    Query {
        request: u8,
        id: u16,
        asked: Direction,
    },
    /// Addresses and protocol are all.
    All,
}

impl Key {
    /// `None` for what belongs to no flow: later fragments, and ICMP that neither asks nor answers.
    pub(super) fn of(endpoint: &str, direction: Direction, packet: &Packet) -> Option<Self> {
        let talk = match packet.said {
            _ if matches!(packet.piece, Piece::Later { .. }) => return None,
            Said::Ports { source, destination, .. } => match direction {
                Direction::Inbound => Talk::Ports { local: destination, remote: source },
                Direction::Outbound => Talk::Ports { local: source, remote: destination },
            },
            Said::Icmp { icmp_type, id, .. } => query(packet.protocol, icmp_type, id, direction)?,
            Said::Nothing => Talk::All,
        };
        let sides = packet.sides(direction);
        let endpoint = endpoint.to_owned();
        Some(Self { endpoint, local: sides.local, remote: sides.remote, protocol: packet.protocol, talk })
    }
}

fn query(protocol: u8, icmp_type: u8, id: u16, direction: Direction) -> Option<Talk> {
    let queries = if protocol == ICMP { &QUERIES_V4[..] } else { &QUERIES_V6[..] };
    let of = |(request, reply): &(u8, u8)| match icmp_type {
        kind if kind == *request => Some(Talk::Query { request: *request, id, asked: direction }),
        kind if kind == *reply => Some(Talk::Query { request: *request, id, asked: opposite(direction) }),
        _ => None,
    };
    queries.iter().find_map(of)
}

pub(super) fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    }
}

/// Whether a packet opens a connection: SYN without ACK.
pub(super) fn is_syn(packet: &Packet) -> bool {
    packet.protocol == TCP && flags(packet) & (SYN | ACK) == SYN
}

/// Whether a packet could be the first of its flow as EC2 sees it, so that rules of today may let it start anew.
pub(super) fn opens_by_itself(packet: &Packet) -> bool {
    packet.protocol != TCP || is_syn(packet)
}

fn flags(packet: &Packet) -> u8 {
    match packet.said {
        Said::Ports { flags, .. } => flags,
        _ => 0,
    }
}

/// One conversation.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// What the rules were asked when it was opened.
    pub(super) opener: Question,
    pub(super) grounds: Grounds,
    pub(super) state: State,
    /// When the last packet passed that counts: a closed flow is not kept alive by what follows.
    last_seen_ns: u64,
    last_direction: Direction,
    /// How often the direction has changed from one packet to the next.
    turns: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Opening,
    Established,
    Stream,
    /// `fin` is the direction of the FIN.
    Closing {
        fin: Direction,
    },
    Closed,
}

impl Flow {
    pub(super) fn open(at_ns: u64, packet: &Packet, opener: Question, grounds: Grounds) -> Self {
        let last_direction = opener.direction;
        let mut flow = Self { opener, grounds, state: State::Opening, last_seen_ns: at_ns, last_direction, turns: 0 };
        flow.state = flow.after(last_direction, packet);
        flow
    }

    /// A packet of the flow has passed.
    pub(super) fn advance(&mut self, at_ns: u64, direction: Direction, packet: &Packet) {
        if self.state == State::Closed {
            return;
        }
        if direction != self.last_direction {
            self.turns = self.turns.saturating_add(1);
        }
        self.state = self.after(direction, packet);
        (self.last_direction, self.last_seen_ns) = (direction, at_ns);
    }

    fn after(&self, direction: Direction, packet: &Packet) -> State {
        let flags = flags(packet);
        match self.state {
            State::Closed => State::Closed,
            _ if flags & RST != 0 => State::Closed,
            State::Closing { fin } if flags & FIN != 0 && fin != direction => State::Closed,
            State::Closing { fin } => State::Closing { fin },
            _ if flags & FIN != 0 => State::Closing { fin: direction },
            State::Opening if direction != self.opener.direction => State::Established,
            State::Established if packet.protocol == UDP && self.turns >= 3 => State::Stream,
            state => state,
        }
    }

    /// Idle for longer than its lifetime.
    fn is_over(&self, at_ns: u64, timeouts: &Timeouts) -> bool {
        at_ns.saturating_sub(self.last_seen_ns) > self.lifetime_s(timeouts) * NS
    }

    fn lifetime_s(&self, timeouts: &Timeouts) -> u64 {
        match (self.opener.protocol, self.state) {
            (TCP, State::Opening) => TCP_OPENING_S,
            (TCP, State::Closing { .. }) => TCP_CLOSING_S,
            (TCP, State::Closed) => TCP_CLOSED_S,
            (TCP, _) => timeouts.tcp_established_s.into(),
            (UDP, State::Stream) => timeouts.udp_stream_s.into(),
            (UDP, _) => timeouts.udp_s.into(),
            (ICMP, _) if self.opener.remote.is_ipv4() => ICMP_S,
            (ICMPV6, _) if self.opener.remote.is_ipv6() => ICMP_S,
            _ => OTHERS_S,
        }
    }
}

/// All flows of the node. What is over is as good as gone, also where a limit is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows {
    all: BTreeMap<Key, Flow>,
    /// Of each endpoint, as last known.
    timeouts: BTreeMap<String, Timeouts>,
}

impl Flows {
    pub(super) fn set_timeouts(&mut self, endpoint: &str, timeouts: Timeouts) {
        self.timeouts.insert(endpoint.to_owned(), timeouts);
    }

    /// The live flow of this key.
    pub(super) fn live(&mut self, at_ns: u64, key: &Key) -> Option<&mut Flow> {
        let timeouts = self.timeouts.get(&key.endpoint).copied().unwrap_or_default();
        self.all.get_mut(key).filter(|flow| !flow.is_over(at_ns, &timeouts))
    }

    /// Remembers a flow; one that stands in its place, live or over, is replaced.
    pub(super) fn insert(&mut self, key: Key, flow: Flow) {
        self.all.insert(key, flow);
    }

    /// Whether a flow finds room beside the live ones; one that is there already needs none.
    pub(super) fn room(&mut self, at_ns: u64, key: &Key, limits: &Limits) -> Result<(), DropReason> {
        if self.all.len() < limits.endpoint_flows.min(limits.node_flows) {
            return Ok(());
        }
        let timeouts = |key: &Key| self.timeouts.get(&key.endpoint).copied().unwrap_or_default();
        self.all.retain(|key, flow| !flow.is_over(at_ns, &timeouts(key)));
        let of_endpoint = self.all.keys().filter(|other| other.endpoint == key.endpoint).count();
        match self.all.len() {
            _ if self.all.contains_key(key) => Ok(()),
            _ if of_endpoint >= limits.endpoint_flows => Err(DropReason::EndpointFlowLimit),
            all if all >= limits.node_flows => Err(DropReason::FlowTableFull),
            _ => Ok(()),
        }
    }
}
