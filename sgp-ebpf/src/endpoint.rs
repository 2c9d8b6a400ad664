//! Which endpoint is this?

use core::ptr;

use aya_ebpf::helpers::bpf_jiffies64;
use sgp_common::endpoint::{Endpoint, Side};
use sgp_common::limits::INTERFACES_MAX;
use sgp_common::{Addr, DropReason};

use crate::maps::{CHANGES, ENDPOINTS, INTERFACES, LOCAL, NEAR};
use crate::policy;

/// An endpoint that a packet is seen at.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub(crate) id: u64,
    pub(crate) endpoint: &'static Endpoint,
    /// The revision of its policy, where it has been read.
    pub(crate) revision: Option<&'static u64>,
}

/// What a CPU has read of an interface and its endpoint: three lookups that need not be made for each packet.
#[repr(C)]
pub(crate) struct Near {
    /// When it was read, in ticks of the kernel's clock, and what `CHANGES` said then.
    tick: u64,
    changes: u64,
    /// Of the interface; 0 for nothing read.
    ifindex: u32,
    reserved: u32,
    id: u64,
    endpoint: Endpoint,
    revision: u64,
}

/// The endpoint that the interface a program runs on belongs to.
///
/// It is read anew where the agent has changed anything, and at each tick of the clock: a processor that sees the agent's writes in
/// another order goes by what was for no longer than that.
#[inline(always)]
pub(crate) fn at(ifindex: u32) -> Result<Here, DropReason> {
    // SAFETY: this CPU's own cell, which only `read` writes, and for no other interface while the program runs.
    let near = NEAR.get_ptr_mut(ifindex % INTERFACES_MAX).map(|near| unsafe { &mut *near });
    let near = near.ok_or(DropReason::UnknownEndpoint)?;
    // SAFETY: a helper without arguments (Linux 5.5).
    let tick = unsafe { bpf_jiffies64() };
    let is_known = near.tick == tick && near.changes == changes() && near.ifindex == ifindex;
    if !is_known && !read(near, ifindex, tick) {
        return Err(DropReason::UnknownEndpoint);
    }
    Ok(Here { id: near.id, endpoint: &near.endpoint, revision: Some(&near.revision) })
}

/// Reads what is known of an interface; whether it has an endpoint.
#[inline(never)]
fn read(near: &mut Near, ifindex: u32, tick: u64) -> bool {
    near.ifindex = 0;
    // Before the rest: what changes meanwhile is read again.
    near.changes = changes();
    near.tick = tick;
    let Some((here, _)) = find(ifindex) else { return false };
    near.id = here.id;
    near.endpoint = *here.endpoint;
    near.revision = policy::revision(&here);
    near.ifindex = ifindex;
    true
}

#[inline(always)]
fn changes() -> u64 {
    // SAFETY: an 8-byte value is read whole; volatile, so that it is read here and not elsewhere.
    CHANGES.get(0).map_or(0, |changes| unsafe { ptr::read_volatile(changes) })
}

/// The endpoint an interface belongs to, if any, and the side of it that the interface is.
#[inline(always)]
pub(crate) fn find(ifindex: u32) -> Option<(Here, Side)> {
    // SAFETY: entries are replaced whole; a reader sees the old or the new one until the program ends.
    let interface = unsafe { INTERFACES.get(&ifindex) }?;
    Some((known(interface.endpoint)?, interface.side))
}

/// The endpoint with this id.
#[inline(always)]
pub(crate) fn known(id: u64) -> Option<Here> {
    // SAFETY: as above.
    let endpoint = unsafe { ENDPOINTS.get(&id) }?;
    Some(Here { id, endpoint, revision: None })
}

/// Whether an address is one of the endpoint's own: a primary one, which it says itself, or a secondary one.
#[inline(always)]
pub(crate) fn owns(here: &Here, addr: &Addr) -> bool {
    here.endpoint.owns(addr) || local(addr) == Some(here.id)
}

/// Id of the endpoint on this node that owns an address.
#[inline(always)]
pub(crate) fn local(addr: &Addr) -> Option<u64> {
    // SAFETY: an 8-byte value is read whole.
    unsafe { LOCAL.get(addr) }.copied()
}
