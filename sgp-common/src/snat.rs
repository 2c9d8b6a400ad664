//! Translated flows: how replies find back, and how a source port is chosen.
//!
//! The map `SNAT` is the allocator: a port is taken by inserting its key where there is none. Keys hold the remote, so
//! one port serves as many destinations as there are. Entries have no lifetime of their own; they go with their flow.

use crate::flow::{Asker, FlowKey};
use crate::packet::{Packet, Transport};
use crate::{Addr, plain};

/// Key of `SNAT`: what a reply says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnatKey {
    /// The other side's address.
    pub remote_addr: Addr,
    /// The other side's port, host order; 0 for ICMP.
    pub remote_port: u16,
    /// The port, or ICMP identifier, that stands for the pod's, host order.
    pub nat_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// ICMP: type of the query, else 0.
    pub query: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of `SNAT`: whose flow it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatEntry {
    /// Endpoint id.
    pub endpoint: u64,
    /// The pod's address.
    pub local_addr: Addr,
    /// The pod's port, or ICMP identifier, host order.
    pub local_port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Whose groups judge what leaves translated (`--snat-policy`).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnatPolicy {
    /// The primary interface's, whose address it bears, as on AWS.
    Node = 0,
    /// The pod's.
    Pod = 1,
    /// Both: each must allow it.
    Both = 2,
}

/// How a source port is chosen (`AWS_VPC_K8S_CNI_RANDOMIZESNAT`).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnatPorts {
    /// `prng`: at random.
    Random = 0,
    /// `hashrandom`: by a hash over the flow, so that a pod's next flow to the same place mostly gets the same.
    Hash = 1,
    /// `none`: the pod's own, where it is free.
    Keep = 2,
}

/// Value of the one-entry map `NODE`: the node's own way out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Endpoint of the primary interface, whose groups judge translated flows; 0 while it is not known.
    pub endpoint: u64,
    /// Primary IPv4 address, v4-mapped.
    pub addr: Addr,
    /// Router of the primary interface's subnet, v4-mapped.
    pub gateway: Addr,
    /// Interface index of the primary interface.
    pub ifindex: u32,
    /// First port of the range that is kept apart from the host's.
    pub first_port: u16,
    /// Last port of it.
    pub last_port: u16,
    /// Whose groups judge.
    pub policy: SnatPolicy,
    /// How a port is chosen.
    pub ports: SnatPorts,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Ports tried before a flow is refused. With half of the range taken towards one destination, 32 misses in a row come once in
/// 2^32 flows.
pub const TRIES: u32 = 32;

/// Below this, a pod's own port is not kept: such ports mean services.
pub const KEPT_PORT_MIN: u16 = 1024;

/// 2^32 divided by the golden ratio, odd: multiples of it spread evenly over all 32-bit numbers.
const SPREAD: u32 = 0x9e37_79b9;

impl Node {
    /// The port to try for the n-th time, from a seed.
    #[inline(always)]
    pub fn candidate(&self, seed: u32, attempt: u32) -> u16 {
        let size = u64::from(self.last_port.wrapping_sub(self.first_port)) + 1;
        let spread = seed.wrapping_add(attempt.wrapping_mul(SPREAD));
        self.first_port.wrapping_add(((u64::from(spread) * size) >> 32) as u16)
    }
}

impl SnatKey {
    /// The key under which replies to a flow come back.
    #[inline(always)]
    pub fn of(flow: &FlowKey, nat_port: u16) -> Self {
        Self {
            remote_addr: flow.remote_addr,
            remote_port: flow.remote_port,
            nat_port,
            protocol: flow.protocol,
            query: flow.query,
            reserved: [0; 2],
        }
    }

    /// The key that a packet to the node's own address asks for; `None` for what no translated flow can get.
    #[inline(always)]
    pub fn of_reply(packet: &Packet) -> Option<Self> {
        let (remote_port, nat_port) = match packet.transport {
            Transport::Ports => (packet.source_port, packet.destination_port),
            Transport::Icmp if packet.query != 0 && !packet.asks() => (0, packet.query_id),
            _ => return None,
        };
        Some(Self {
            remote_addr: packet.source,
            remote_port,
            nat_port,
            protocol: packet.protocol,
            query: packet.query,
            reserved: [0; 2],
        })
    }

    /// The key of the flow that an ICMP error to the node's own address is about; `quoted` is the packet it quotes.
    #[inline(always)]
    pub fn of_quoted(quoted: &Packet) -> Option<Self> {
        let (nat_port, remote_port) = match quoted.transport {
            Transport::Ports => (quoted.source_port, quoted.destination_port),
            Transport::Icmp if quoted.query != 0 && quoted.asks() => (quoted.query_id, 0),
            _ => return None,
        };
        Some(Self {
            remote_addr: quoted.destination,
            remote_port,
            nat_port,
            protocol: quoted.protocol,
            query: quoted.query,
            reserved: [0; 2],
        })
    }
}

impl SnatEntry {
    /// The key of the flow it was made for.
    pub fn flow(&self, key: &SnatKey) -> FlowKey {
        FlowKey {
            endpoint: self.endpoint,
            local_addr: self.local_addr,
            remote_addr: key.remote_addr,
            local_port: self.local_port,
            remote_port: key.remote_port,
            protocol: key.protocol,
            query: key.query,
            asker: if key.query == 0 { Asker::Nobody } else { Asker::Local },
            reserved: 0,
        }
    }

    /// A flow's.
    #[inline(always)]
    pub fn of(flow: &FlowKey) -> Self {
        Self { endpoint: flow.endpoint, local_addr: flow.local_addr, local_port: flow.local_port, reserved: [0; 6] }
    }
}

plain!(SnatKey, SnatEntry, Node);
