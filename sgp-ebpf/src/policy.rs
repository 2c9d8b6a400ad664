//! Three lookups and an AND.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sgp_common::DropReason;
use sgp_common::endpoint::Endpoint;
use sgp_common::flow::{Admission, Tracking};
use sgp_common::policy::{Answer, FULL_BITS, PEER_BITS, Question, Selector, first_match};

use crate::maps::{PEERS, POLICIES, Policy};
use crate::packet::scratch;

/// Asks the endpoint's policy who lets this pass.
///
/// # Errors
/// `NoPolicy`, `NoMatchingRule`.
#[inline(always)]
pub(crate) fn decide(question: &Question, endpoint: &Endpoint, admission: &mut Admission) -> Result<(), DropReason> {
    let scratch = scratch().ok_or(DropReason::NoPolicy)?;
    scratch.question = *question;
    match ask_policy(endpoint.group_set) {
        0 => {
            *admission = Admission { revision: endpoint.revision, nat_port: 0, ..scratch.admission };
            Ok(())
        }
        1 => Err(DropReason::NoPolicy),
        _ => Err(DropReason::NoMatchingRule),
    }
}

/// Puts the question in scratch to a group set's policy, and the answer beside it: 0 if a rule allows it, 1 if there is no
/// policy, 2 if no rule does. The policy is looked up once: whatever is swapped in meanwhile, all questions go to the same
/// version.
///
/// A global function to the kernel (Linux 5.6), which its verifier walks once by itself and not again for each caller: hence
/// plain numbers across the call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_policy(group_set: u64) -> u32 {
    // SAFETY: inner maps are immutable once published, and stay until the program ends (RCU).
    let Some(policy) = (unsafe { POLICIES.get(&group_set) }) else { return 1 };
    let Some(scratch) = scratch() else { return 1 };
    match ask(policy, &scratch.question, &mut scratch.admission) {
        Some(()) => 0,
        None => 2,
    }
}

/// What a policy says to one selector, which is asked from this CPU's scratch: the stack has no room for three.
#[inline(always)]
fn get(policy: &Policy, bits: u32, selector: Selector) -> Option<&Answer> {
    let key = &mut scratch()?.selector;
    *key = Key::new(bits, selector);
    policy.get(&*key)
}

#[inline(always)]
fn ask(policy: &Policy, question: &Question, admission: &mut Admission) -> Option<()> {
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
    admission.direction = direction;
    admission.tracking = if service.is_untracked(question.protocol) { Tracking::Untracked } else { Tracking::Tracked };
    Some(())
}
