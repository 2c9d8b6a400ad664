//! Three lookups and an AND.

use core::ptr;

use aya_ebpf::btf_maps::lpm_trie::Key;
use sgp_common::endpoint::Endpoint;
use sgp_common::flow::{Admission, Tracking};
use sgp_common::policy::{Answer, FULL_BITS, PEER_BITS, Question, Selector, first_match};
use sgp_common::{Addr, DropReason};

use crate::maps::{PEERS, POLICIES, Policy, REVISIONS};
use crate::packet::scratch;

/// Puts a question where policies find it, off the stack; `decide` asks it.
#[inline(always)]
pub(crate) fn pose(question: Question) {
    if let Some(scratch) = scratch() {
        scratch.question = question;
    }
}

/// Asks the endpoint's policy who lets this pass that was posed last.
///
/// # Errors
/// `NoPolicy`, `NoMatchingRule`.
#[inline(always)]
pub(crate) fn decide(endpoint: &Endpoint, admission: &mut Admission) -> Result<(), DropReason> {
    let scratch = scratch().ok_or(DropReason::NoPolicy)?;
    match ask_policy(endpoint.group_set) {
        0 => {
            *admission = Admission { nat_port: 0, ..scratch.admission };
            Ok(())
        }
        1 => Err(DropReason::NoPolicy),
        _ => Err(DropReason::NoMatchingRule),
    }
}

/// The revision that flows of a group set are held against.
#[inline(always)]
pub(crate) fn revision(group_set: &u64) -> u64 {
    // SAFETY: an 8-byte value is read whole; that of a slot that was given to another group set meanwhile has a flow judged
    // again, and no more.
    unsafe { REVISIONS.get(group_set) }.copied().unwrap_or_default()
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
    let Some(scratch) = scratch() else { return 1 };
    // Before the policy: a flow of one that is swapped in between is judged once too often, never once too seldom.
    scratch.admission.revision = revision(&group_set);
    // SAFETY: inner maps are immutable once published, and stay until the program ends (RCU).
    let Some(policy) = (unsafe { POLICIES.get(&group_set) }) else { return 1 };
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

/// The group set that an address carries. The kernel gives the slot of an entry that was replaced to another at once, and peers
/// are too many for the agent to wait for programs (`Slots` does for endpoints): so the entry must still be there after it was
/// read, or the one that is there instead counts.
#[inline(never)]
fn group_set_of(addr: &Addr) -> Option<u64> {
    // SAFETY: an 8-byte value is read whole.
    let peer = unsafe { PEERS.get(addr) }?;
    // SAFETY: as above; volatile, so that it is read before the second lookup.
    let group_set = unsafe { ptr::read_volatile(&raw const peer.group_set) };
    // SAFETY: as above.
    let after = unsafe { PEERS.get(addr) }?;
    Some(if ptr::eq(peer, after) { group_set } else { after.group_set })
}

#[inline(always)]
fn ask(policy: &Policy, question: &Question, admission: &mut Admission) -> Option<()> {
    let (bits, service) = Selector::service(question);
    let service = get(policy, bits, service)?;
    let addr = &question.remote;
    let (direction, family) = (question.direction, question.family);
    let remote = get(policy, FULL_BITS, Selector::remote(direction, family, *addr));
    let peer = match group_set_of(addr) {
        Some(group_set) => get(policy, PEER_BITS, Selector::peer(direction, family, group_set)),
        None => None,
    };
    admission.rule = first_match(remote.map(|it| &it.rules), peer.map(|it| &it.rules), &service.rules)?;
    admission.policy_digest = service.digest;
    admission.direction = direction;
    admission.tracking = if service.is_untracked(question.protocol) { Tracking::Untracked } else { Tracking::Tracked };
    Some(())
}
