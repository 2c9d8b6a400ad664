//! Look up, refresh, create flows.

use sgp_common::endpoint::Endpoint;
use sgp_common::endpoint::settings::CUT_ON_REVOKE;
use sgp_common::flow::{Admission, Flow, FlowKey, Tracking, Way, opens};
use sgp_common::limits::ENDPOINT_FLOWS_MAX;
use sgp_common::packet::Packet;
use sgp_common::policy::Question;
use sgp_common::{Direction, DropReason};

use crate::clock::now_ns;
use crate::endpoint::Here;
use crate::maps::{FLOW_COUNTS, FLOWS};
use crate::packet::scratch;
use crate::policy;
use crate::snat;

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A live flow; the packet has been counted into it.
    Live,
    /// A flow whose rule is gone, and a packet that is no beginning of another.
    Refused,
    /// An entry that a new flow may take the place of, without growing the table.
    Over,
    /// Nothing.
    Nothing,
}

/// The key of a packet's flow, in this CPU's scratch until the next is asked for; `None` if it belongs to none.
#[inline(always)]
pub(crate) fn key_of(endpoint: u64, packet: &Packet, direction: Direction) -> Option<&'static FlowKey> {
    let key = &mut scratch()?.key;
    if key.write(endpoint, packet, direction) { Some(key) } else { None }
}

/// Looks a packet's flow up and counts the packet into it.
#[inline(always)]
pub(crate) fn find_here(
    key: &FlowKey,
    packet: &Packet,
    direction: Direction,
    here: &Here,
    admission: &mut Admission,
) -> Found {
    match stored(key) {
        Some(flow) => take_up(flow, key, packet, direction, here, admission),
        None => Found::Nothing,
    }
}

#[inline(always)]
fn stored(key: &FlowKey) -> Option<&'static mut Flow> {
    // SAFETY: the verifier knows the pointer is valid; racing writers are accepted (`Flow`).
    FLOWS.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Counts a packet into its flow, if that is live.
#[inline(always)]
fn take_up(
    flow: &mut Flow,
    key: &FlowKey,
    packet: &Packet,
    direction: Direction,
    here: &Here,
    admission: &mut Admission,
) -> Found {
    let now_ns = now_ns();
    if flow.expired(key, &here.endpoint.timeouts, now_ns) || flow.reopened_by(packet) {
        return Found::Over;
    }
    if is_due(flow, here) {
        if judge_again(flow, key, packet, here, admission).is_err() {
            return if opens(packet) { Found::Over } else { Found::Refused };
        }
        flow.admit(admission);
    }
    flow.refresh(packet, direction, now_ns);
    *admission = flow.admission();
    Found::Live
}

/// What `find_plain` finds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// A live flow that nothing on the node rewrites.
    Live,
    /// One that is over, or has another way.
    No,
    /// Nothing.
    Unknown,
}

/// Counts a packet of the pod into its flow, if that is live and seen at the branch under the very addresses that the pod
/// sends to: nothing on the node rewrites them, which the flow is told. Whatever else there is to say of it is said at the
/// branch.
#[inline(always)]
pub(crate) fn find_plain(key: &FlowKey, packet: &Packet, here: &Here, admission: &mut Admission) -> Plain {
    let Some(flow) = stored(key) else { return Plain::Unknown };
    if !flow.way.is_plain() || take_up(flow, key, packet, Direction::Outbound, here, admission) != Found::Live {
        return Plain::No;
    }
    flow.way = Way::Short;
    Plain::Live
}

/// Has a flow's packets take the host stack from now on.
#[inline(never)]
pub(crate) fn keep_to_stack(key: &FlowKey) {
    if let Some(flow) = stored(key) {
        flow.way = Way::Branch;
    }
}

/// As `find_here`, out of line.
#[inline(never)]
pub(crate) fn find(
    key: &FlowKey,
    packet: &Packet,
    direction: Direction,
    here: &Here,
    admission: &mut Admission,
) -> Found {
    find_here(key, packet, direction, here, admission)
}

/// The way of a flow, live or not.
#[inline(always)]
pub(crate) fn way(key: &FlowKey) -> Option<Way> {
    // SAFETY: a byte is read whole.
    unsafe { FLOWS.get(key) }.map(|flow| flow.way)
}

/// Whether the rules have changed since they were asked, and the flow does not outlive its rule.
#[inline(always)]
fn is_due(flow: &Flow, here: &Here) -> bool {
    if matches!(flow.tracking, Tracking::Tracked) && here.endpoint.settings & CUT_ON_REVOKE == 0 {
        return false;
    }
    flow.revision != if flow.nat_port == 0 { policy::revision(here) } else { snat::revision(here) }
}

/// Puts the packet that opened a flow to the rules of today.
#[inline(never)]
fn judge_again(
    flow: &Flow,
    key: &FlowKey,
    packet: &Packet,
    here: &Here,
    admission: &mut Admission,
) -> Result<(), DropReason> {
    *policy::question()? = flow.question(key, packet.family);
    match flow.nat_port {
        0 => policy::decide(here, admission),
        _ => snat::decide(here, admission),
    }
}

/// Whether a packet would pass by its flow, and who admits that; the flow is not touched.
#[inline(never)]
pub(crate) fn would_pass(key: &FlowKey, packet: &Packet, here: &Here, admission: &mut Admission) -> bool {
    // SAFETY: read-only use of a value that others may be writing; any mixture is harmless (`Flow`).
    let Some(flow) = (unsafe { FLOWS.get(key) }) else { return false };
    if flow.expired(key, &here.endpoint.timeouts, now_ns()) || flow.reopened_by(packet) {
        return false;
    }
    if is_due(flow, here) {
        return judge_again(flow, key, packet, here, admission).is_ok();
    }
    *admission = flow.admission();
    true
}

/// Remembers a new flow. Two CPUs may both open the same flow: one entry results, and the endpoint's
/// count is one too high until the sweep counts again. What EC2 would not track needs no entry.
#[inline(always)]
pub(crate) fn open(key: &FlowKey, flow: &Flow, endpoint: &Endpoint, found: Found) -> Result<(), DropReason> {
    match insert(key, flow, endpoint, found) {
        Err(_) if matches!(flow.tracking, Tracking::Untracked) && flow.nat_port == 0 => Ok(()),
        result => result,
    }
}

/// Whether a packet that its own direction's rules allow can be the answer to one whose flow EC2 would not track. Asked only
/// where there is no place for a flow: the rules of both directions let such a conversation through without one.
#[inline(always)]
pub(crate) fn answers_untracked(packet: &Packet, direction: Direction, here: &Here) -> bool {
    let Some(asked) = Question::answered_by(packet, direction) else { return false };
    let Ok(question) = policy::question() else { return false };
    *question = asked;
    policy::passes_untracked(here)
}

#[inline(always)]
fn insert(key: &FlowKey, flow: &Flow, endpoint: &Endpoint, found: Found) -> Result<(), DropReason> {
    if found == Found::Nothing {
        count(endpoint)?;
    }
    FLOWS.insert(key, flow, 0).map_err(|_| {
        uncount(endpoint, found);
        DropReason::FlowTableFull
    })
}

/// Counts a flow of an endpoint. Plain stores: CPUs may lose a count to each other, and the sweep counts
/// again, so the limit is approximate for as long as a sweep takes to come.
#[inline(always)]
fn count(endpoint: &Endpoint) -> Result<(), DropReason> {
    // The agent refuses VLAN ids that are beyond the map.
    let flows = FLOW_COUNTS.get_ptr_mut(u32::from(endpoint.vlan_id)).ok_or(DropReason::EndpointFlowLimit)?;
    // SAFETY: a value of the map, valid for the program's run.
    let flows = unsafe { &mut *flows };
    if *flows >= u64::from(ENDPOINT_FLOWS_MAX) {
        return Err(DropReason::EndpointFlowLimit);
    }
    *flows += 1;
    Ok(())
}

#[inline(always)]
fn uncount(endpoint: &Endpoint, found: Found) {
    if found == Found::Nothing
        && let Some(flows) = FLOW_COUNTS.get_ptr_mut(u32::from(endpoint.vlan_id))
    {
        // SAFETY: as in `count`.
        let flows = unsafe { &mut *flows };
        *flows = flows.saturating_sub(1);
    }
}
