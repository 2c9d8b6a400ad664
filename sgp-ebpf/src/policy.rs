//! Three lookups and an AND.

use core::mem::offset_of;
use core::ptr;

use aya_ebpf::btf_maps::lpm_trie::Key;
use sgp_common::addr::prefix_name;
use sgp_common::flow::{Admission, Tracking};
use sgp_common::policy::{Answer, Axis, FULL_BITS, PEER_BITS, Question, Selector, first_match, hints};
use sgp_common::{Addr, Direction, DropReason, Family};

use crate::endpoint::Here;
use crate::maps::{PEERS, POLICIES, Policy, REVISIONS};
use crate::packet::scratch;

/// What the next policy is asked, in this CPU's scratch.
#[inline(always)]
pub(crate) fn question() -> Result<&'static mut Question, DropReason> {
    Ok(&mut scratch().ok_or(DropReason::NoPolicy)?.question)
}

/// Asks the endpoint's policy who lets [`question`] pass.
///
/// # Errors
/// `NoPolicy`, `NoMatchingRule`.
#[inline(always)]
pub(crate) fn decide(here: &Here, admission: &mut Admission) -> Result<(), DropReason> {
    // Before the policy: a flow of one that is swapped in between is judged once too often, never once too seldom.
    let revision = revision(here);
    match ask_policy(here.endpoint.group_set) {
        0 => {
            *admission = scratch().ok_or(DropReason::NoPolicy)?.admission;
            admission.revision = revision;
            Ok(())
        }
        1 => Err(DropReason::NoPolicy),
        _ => Err(DropReason::NoMatchingRule),
    }
}

/// Whether the endpoint's policy lets [`question`] pass, and EC2 would not track what it does.
#[inline(always)]
pub(crate) fn passes_untracked(here: &Here) -> bool {
    let is_untracked = || scratch().is_some_and(|scratch| matches!(scratch.admission.tracking, Tracking::Untracked));
    ask_policy(here.endpoint.group_set) == 0 && is_untracked()
}

/// The revision that flows of an endpoint are held against.
#[inline(always)]
pub(crate) fn revision(here: &Here) -> u64 {
    here.revision.copied().unwrap_or_else(|| revision_of(here.endpoint.group_set))
}

/// Likewise, of a group set.
#[inline(always)]
pub(crate) fn revision_of(group_set: u64) -> u64 {
    // SAFETY: an 8-byte value is read whole; that of a slot that was given to another group set meanwhile has a flow judged
    // again, and no more.
    unsafe { REVISIONS.get(&group_set) }.copied().unwrap_or_default()
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
    match ask(policy, &scratch.question, &mut scratch.asked, &mut scratch.admission) {
        Some(()) => 0,
        None => 2,
    }
}

/// A key of a policy trie where it is written, in this CPU's scratch: a `Key<Selector>`, but aligned, so that it is written by
/// words.
#[repr(C, align(8))]
pub(crate) struct Asked {
    bits: u32,
    direction: Direction,
    family: Family,
    axis: Axis,
    reserved: u8,
    data: Addr,
    padding: [u8; 4],
}

const _: () = assert!(offset_of!(Asked, data) == size_of::<u32>() + offset_of!(Selector, data));
const _: () = assert!(offset_of!(Asked, padding) + 4 == size_of::<Key<Selector>>());

impl Asked {
    /// What a policy says to one selector.
    #[inline(always)]
    fn of<'a>(&mut self, policy: &'a Policy, axis: Axis, bits: u32, data: Addr) -> Option<&'a Answer> {
        (self.bits, self.axis, self.data) = (bits, axis, data);
        // SAFETY: what follows the prefix length is laid out as a selector, see above, and a key is not aligned.
        policy.get(unsafe { &*ptr::from_ref(self).cast() })
    }
}

/// The group set that an address carries. The kernel gives the slot of an entry that was replaced to another at once, and peers
/// are too many for the agent to wait for programs (`Slots` does for endpoints): so the entry must still be there after it was
/// read, or the one that is there instead counts.
#[inline(always)]
fn group_set_of(addr: &Addr) -> Option<u64> {
    // SAFETY: an 8-byte value is read whole.
    let peer = unsafe { PEERS.get(addr) }?;
    // SAFETY: as above; volatile, so that it is read before the second lookup.
    let group_set = unsafe { ptr::read_volatile(&raw const peer.group_set) };
    // SAFETY: as above.
    let after = unsafe { PEERS.get(addr) }?;
    Some(if ptr::eq(peer, after) { group_set } else { after.group_set })
}

/// The group set of whom the question is about: of its address, or of the prefix that was delegated to its interface. Those of
/// IPv4 are so short that the agent writes their addresses one by one.
#[inline(always)]
fn carried_by(question: &Question) -> Option<u64> {
    match (group_set_of(&question.remote), question.family) {
        (None, Family::V6) => group_set_of(&prefix_name(&question.remote)),
        (found, _) => found,
    }
}

#[inline(always)]
fn ask(policy: &Policy, question: &Question, asked: &mut Asked, admission: &mut Admission) -> Option<()> {
    let (direction, addr) = (question.direction, &question.remote);
    (asked.direction, asked.family, asked.reserved, asked.padding) = (direction, question.family, 0, [0; 4]);
    let (bits, data) = Selector::service_data(question);
    let service = asked.of(policy, Axis::Service, bits, data.into())?;
    // Now, and not once a rule is found: what need not outlive the other lookups takes no stack.
    admission.policy_digest = service.digest;
    admission.direction = direction;
    admission.nat_port = 0;
    admission.tracking = if service.is_untracked(question.protocol) { Tracking::Untracked } else { Tracking::Tracked };
    let asks = |hint| service.hints & hint != 0;
    let remote = if asks(hints::BY_ADDRESS) { asked.of(policy, Axis::Remote, FULL_BITS, *addr) } else { None };
    let peer = match if asks(hints::BY_GROUP) { carried_by(question) } else { None } {
        Some(group_set) => asked.of(policy, Axis::Peer, PEER_BITS, Selector::peer_data(group_set).into()),
        None => None,
    };
    admission.rule = first_match(remote.map(|it| &it.rules), peer.map(|it| &it.rules), &service.rules)?;
    Some(())
}
