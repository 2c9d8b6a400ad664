//! Look up, refresh, create flows.

use sgp_common::flow::{Flow, FlowKey};
use sgp_common::limits::ENDPOINT_FLOWS_MAX;
use sgp_common::packet::Packet;
use sgp_common::{Direction, DropReason};

use crate::maps::{FLOW_COUNTS, FLOWS};

/// What a lookup found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A live flow; it has been refreshed.
    Live,
    /// An entry that is over: a new flow may take its place without growing the table.
    Over,
    /// Nothing.
    Nothing,
}

/// Looks a packet's flow up and counts the packet into it.
#[inline(always)]
pub(crate) fn refresh(key: &FlowKey, packet: &Packet, direction: Direction, now_ns: u64) -> Found {
    let Some(flow) = FLOWS.get_ptr_mut(key) else { return Found::Nothing };
    // SAFETY: the verifier knows the pointer is valid; racing writers are accepted (`Flow`).
    let flow = unsafe { &mut *flow };
    if flow.expired(packet.protocol, now_ns) || flow.reopened_by(packet) {
        return Found::Over;
    }
    flow.refresh(packet, direction, now_ns);
    Found::Live
}

/// Whether a flow lives, without touching it.
#[inline(always)]
pub(crate) fn lives(key: &FlowKey, packet: &Packet, now_ns: u64) -> bool {
    // SAFETY: read-only use of a value that others may be writing; any mixture is harmless (`Flow`).
    let Some(flow) = (unsafe { FLOWS.get(key) }) else { return false };
    !flow.expired(packet.protocol, now_ns) && !flow.reopened_by(packet)
}

/// Remembers a new flow. Two CPUs may both open the same flow: one entry results, and the endpoint's
/// count is one too high until the sweep counts again.
#[inline(always)]
pub(crate) fn open(key: &FlowKey, flow: &Flow, found: Found) -> Result<(), DropReason> {
    if found == Found::Nothing {
        count(key.endpoint)?;
    }
    FLOWS.insert(key, flow, 0).map_err(|_| {
        uncount(key.endpoint, found);
        DropReason::FlowTableFull
    })
}

/// Counts a flow of an endpoint. Plain stores: CPUs may lose a count to each other, and the sweep counts
/// again, so the limit is approximate for as long as a sweep takes to come.
#[inline(always)]
fn count(endpoint: u64) -> Result<(), DropReason> {
    let Some(flows) = FLOW_COUNTS.get_ptr_mut(endpoint) else {
        // A full map here means more endpoints than ENDPOINTS holds, which the agent prevents.
        return FLOW_COUNTS.insert(endpoint, 1, 0).map_err(|_| DropReason::EndpointFlowLimit);
    };
    // SAFETY: a value of the map, valid for the program's run.
    let flows = unsafe { &mut *flows };
    if *flows >= u64::from(ENDPOINT_FLOWS_MAX) {
        return Err(DropReason::EndpointFlowLimit);
    }
    *flows += 1;
    Ok(())
}

#[inline(always)]
fn uncount(endpoint: u64, found: Found) {
    if found == Found::Nothing
        && let Some(flows) = FLOW_COUNTS.get_ptr_mut(endpoint)
    {
        // SAFETY: as in `count`.
        let flows = unsafe { &mut *flows };
        *flows = flows.saturating_sub(1);
    }
}
