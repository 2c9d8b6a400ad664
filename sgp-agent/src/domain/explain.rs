//! Why would this packet pass?

use sgp_common::Direction;
use sgp_common::packet::Packet;
use sgp_common::policy::{Answer, FULL_BITS, PEER_BITS, Question, Selector, first_match};

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
    lookup: impl Fn(u32, Selector) -> Option<Answer>,
    packet: &Packet,
    direction: Direction,
    peer_set: Option<u64>,
) -> Explanation {
    let (bits, service) = Selector::service(&Question::of(packet, direction));
    let service = lookup(bits, service);
    let addr = *packet.remote(direction);
    let remote = lookup(FULL_BITS, Selector::remote(direction, packet.family, addr));
    let peer = peer_set.and_then(|set| lookup(PEER_BITS, Selector::peer(direction, packet.family, set)));
    let rules = |answer: &'_ Option<Answer>| answer.map(|answer| answer.rules);
    let (who, member) = (rules(&remote), rules(&peer));
    let rule = rules(&service).and_then(|service| first_match(who.as_ref(), member.as_ref(), &service));
    Explanation { service: members(service), remote: members(remote), peer: members(peer), rule }
}

fn members(answer: Option<Answer>) -> Vec<usize> {
    let Some(set) = answer.map(|answer| answer.rules) else { return Vec::new() };
    (0..set.words.len() * 64).filter(|index| set.contains(*index)).collect()
}
