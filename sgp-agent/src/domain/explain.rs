//! Why would this packet pass?

use sgp_common::Direction;
use sgp_common::packet::Packet;
use sgp_common::policy::{FULL_BITS, PEER_BITS, RuleSet, Selector, first_match};

/// The answers a policy gives about one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Indices of rules that allow its service.
    pub service: Vec<usize>,
    /// Indices of rules that allow its remote address by CIDR or prefix list.
    pub remote: Vec<usize>,
    /// Indices of rules that allow its remote as a member of a group.
    pub peer: Vec<usize>,
    /// The lowest rule that both sides satisfy.
    pub rule: Option<u16>,
}

/// Asks `lookup`, which answers like the policy's trie does, what the data path would ask.
pub fn explain(
    lookup: impl Fn(u32, Selector) -> Option<RuleSet>,
    packet: &Packet,
    direction: Direction,
    peer_set: Option<u64>,
) -> Explanation {
    let (bits, service) = Selector::service(direction, packet);
    let service = lookup(bits, service);
    let addr = *packet.remote(direction);
    let remote = lookup(FULL_BITS, Selector::remote(direction, packet.family, addr));
    let peer = peer_set.and_then(|set| lookup(PEER_BITS, Selector::peer(direction, packet.family, set)));
    let rule = service.as_ref().and_then(|service| first_match(remote.as_ref(), peer.as_ref(), service));
    Explanation { service: members(service), remote: members(remote), peer: members(peer), rule }
}

fn members(set: Option<RuleSet>) -> Vec<usize> {
    let Some(set) = set else { return Vec::new() };
    (0..set.words.len() * 64).filter(|index| set.contains(*index)).collect()
}
