//! By what a packet's flow is found.

use crate::addr::UNSPECIFIED;
use crate::packet::{Packet, Transport};
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
    /// The pod's port, host order; for ICMP queries the identifier.
    pub local_port: u16,
    /// The other port, host order; 0 for ICMP.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// ICMP: type of the query, else 0.
    pub query: u8,
    /// ICMP: which side asked, so that the pod cannot ask by answering.
    pub asker: Asker,
    /// Zero.
    pub reserved: u8,
}

/// Which side of a conversation asked, where that is part of its key.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// Not an ICMP query.
    Nobody = 0,
    /// The pod.
    Local = 1,
    /// The other side.
    Remote = 2,
}

impl FlowKey {
    /// No flow's.
    pub const EMPTY: Self = Self {
        endpoint: 0,
        local_addr: UNSPECIFIED,
        remote_addr: UNSPECIFIED,
        local_port: 0,
        remote_port: 0,
        protocol: 0,
        query: 0,
        asker: Asker::Nobody,
        reserved: 0,
    };

    /// The key of the flow a packet belongs to, or `None` for packets that belong to none: later
    /// fragments, and ICMP other than queries, are judged one by one.
    pub fn of(endpoint: u64, packet: &Packet, direction: Direction) -> Option<Self> {
        let mut key = Self::EMPTY;
        key.write(endpoint, packet, direction).then_some(key)
    }

    /// Likewise in place, for a BPF program's small stack. Whether the packet belongs to a flow.
    #[inline(always)]
    pub fn write(&mut self, endpoint: u64, packet: &Packet, direction: Direction) -> bool {
        let (local_port, remote_port) = match packet.transport {
            Transport::Ports => packet.ports(direction),
            Transport::None => (0, 0),
            Transport::Icmp if packet.query != 0 => (packet.query_id, 0),
            Transport::Icmp | Transport::LaterFragment => return false,
        };
        self.asker = match (packet.query, packet.asks(), direction) {
            (0, ..) => Asker::Nobody,
            (_, true, Direction::Outbound) | (_, false, Direction::Inbound) => Asker::Local,
            _ => Asker::Remote,
        };
        self.endpoint = endpoint;
        self.local_addr = *packet.local(direction);
        self.remote_addr = *packet.remote(direction);
        self.local_port = local_port;
        self.remote_port = remote_port;
        self.protocol = packet.protocol;
        self.query = packet.query;
        self.reserved = 0;
        true
    }
}

plain!(FlowKey);
