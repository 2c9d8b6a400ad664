//! Three lookups and an AND.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sgp_common::endpoint::Endpoint;
use sgp_common::packet::{Packet, Transport};
use sgp_common::policy::{FULL_BITS, PEER_BITS, Selector, first_match};
use sgp_common::{Direction, DropReason};

use crate::maps::{PEERS, POLICIES, Policy};

/// The rule that allows a packet, and the policy it is a rule of.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Matched {
    pub(crate) rule: u16,
    pub(crate) digest: u64,
}

impl Matched {
    /// No rule was asked for, or none matched.
    pub(crate) const NONE: Self = Self { rule: u16::MAX, digest: 0 };
}

/// Asks the endpoint's policy. The policy is looked up once: whatever is swapped in meanwhile, all
/// questions go to the same version.
#[inline(always)]
pub(crate) fn decide(packet: &Packet, endpoint: &Endpoint, direction: Direction) -> Result<Matched, DropReason> {
    // SAFETY: inner maps are immutable once published, and stay until the program ends (RCU).
    let policy = unsafe { POLICIES.get(&endpoint.group_set) }.ok_or(DropReason::NoPolicy)?;
    let rule = matching_rule(policy, packet, direction).ok_or(no_rule(packet))?;
    let digest = policy.get(&Key::new(FULL_BITS, Selector::digest())).map_or(0, |set| set.words[0]);
    Ok(Matched { rule, digest })
}

#[inline(always)]
fn matching_rule(policy: &Policy, packet: &Packet, direction: Direction) -> Option<u16> {
    let (bits, service) = Selector::service(direction, packet);
    let service = policy.get(&Key::new(bits, service))?;
    let addr = packet.remote(direction);
    let remote = policy.get(&Key::new(FULL_BITS, Selector::remote(direction, packet.family, *addr)));
    // SAFETY: an 8-byte value is read whole.
    let peer = match unsafe { PEERS.get(addr) } {
        Some(peer) => policy.get(&Key::new(PEER_BITS, Selector::peer(direction, packet.family, peer.group_set))),
        None => None,
    };
    first_match(remote, peer, service)
}

#[inline(always)]
fn no_rule(packet: &Packet) -> DropReason {
    match packet.transport {
        Transport::LaterFragment => DropReason::FragmentWithoutFlow,
        _ => DropReason::NoMatchingRule,
    }
}
