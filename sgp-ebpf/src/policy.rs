//! Three lookups and an AND.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sgp_common::DropReason;
use sgp_common::endpoint::Endpoint;
use sgp_common::flow::{Admission, Tracking};
use sgp_common::policy::{Answer, FULL_BITS, PEER_BITS, Question, Selector, first_match};

use crate::maps::{PEERS, POLICIES, Policy};
use crate::packet::scratch;

/// Asks the endpoint's policy who lets this pass. The policy is looked up once: whatever is swapped in meanwhile, all
/// questions go to the same version.
///
/// # Errors
/// `NoPolicy`, `NoMatchingRule`.
#[inline(never)]
pub(crate) fn decide(question: &Question, endpoint: &Endpoint, admission: &mut Admission) -> Result<(), DropReason> {
    // SAFETY: inner maps are immutable once published, and stay until the program ends (RCU).
    let policy = unsafe { POLICIES.get(&endpoint.group_set) }.ok_or(DropReason::NoPolicy)?;
    ask(policy, question, endpoint.revision, admission).ok_or(DropReason::NoMatchingRule)
}

/// What a policy says to one selector, which is asked from this CPU's scratch: the stack has no room for three.
#[inline(always)]
fn get(policy: &Policy, bits: u32, selector: Selector) -> Option<&Answer> {
    let key = &mut scratch()?.selector;
    *key = Key::new(bits, selector);
    policy.get(&*key)
}

#[inline(always)]
fn ask(policy: &Policy, question: &Question, revision: u64, admission: &mut Admission) -> Option<()> {
    let (bits, service) = Selector::service(question);
    let service = get(policy, bits, service)?;
    let addr = &question.remote;
    let (direction, family) = (question.direction, question.family);
    let remote = get(policy, FULL_BITS, Selector::remote(direction, family, *addr));
    // SAFETY: an 8-byte value is read whole.
    let peer = match unsafe { PEERS.get(addr) } {
        Some(peer) => get(policy, PEER_BITS, Selector::peer(direction, family, peer.group_set)),
        None => None,
    };
    admission.rule = first_match(remote.map(|it| &it.rules), peer.map(|it| &it.rules), &service.rules)?;
    admission.policy_digest = service.digest;
    admission.revision = revision;
    admission.tracking = if service.is_untracked(question.protocol) { Tracking::Untracked } else { Tracking::Tracked };
    Some(())
}
