//! What is remembered of the first fragments of datagrams (docs/semantics.md, section 4).

use std::collections::BTreeMap;
use std::net::IpAddr;

use sgp_common::Direction;

use super::RuleName;
use super::flows::NS;
use super::frame::Packet;

const LIFETIME_S: u64 = 30;

/// The first fragments that were allowed.
#[derive(Clone, Debug, Default)]
pub(super) struct Fragments(BTreeMap<FragmentKey, FirstFragment>);

/// Which datagram a fragment is of. IPv6 fragments are told apart without their protocol: a later one may not know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FragmentKey {
    endpoint: String,
    direction: Direction,
    source: IpAddr,
    destination: IpAddr,
    ipv4_protocol: Option<u8>,
    id: u32,
}

#[derive(Clone, Debug)]
pub(super) struct FirstFragment {
    pub(super) at_ns: u64,
    /// Where its own payload ended.
    pub(super) end: usize,
    pub(super) rule: RuleName,
}

impl FragmentKey {
    pub(super) fn of(endpoint: &str, direction: Direction, packet: &Packet, id: u32) -> Self {
        let ipv4_protocol = packet.source.is_ipv4().then_some(packet.protocol);
        let (source, destination) = (packet.source, packet.destination);
        Self { endpoint: endpoint.to_owned(), direction, source, destination, ipv4_protocol, id }
    }
}

impl Fragments {
    pub(super) fn remember(&mut self, key: FragmentKey, first: FirstFragment) {
        self.0.insert(key, first);
    }

    pub(super) fn forget(&mut self, key: &FragmentKey) {
        self.0.remove(key);
    }

    pub(super) fn first(&self, at_ns: u64, key: &FragmentKey) -> Option<&FirstFragment> {
        self.0.get(key).filter(|first| at_ns.saturating_sub(first.at_ns) <= LIFETIME_S * NS)
    }
}
