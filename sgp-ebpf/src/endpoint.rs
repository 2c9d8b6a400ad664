//! Which endpoint is this?

use sgp_common::endpoint::{Endpoint, Side};
use sgp_common::{Addr, DropReason};

use crate::maps::{ENDPOINTS, INTERFACES, LOCAL};

/// An endpoint, and the side of it that a packet was seen on.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub(crate) id: u64,
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) side: Side,
}

/// The endpoint an interface belongs to, if any.
#[inline(always)]
pub(crate) fn find(ifindex: u32) -> Option<Here> {
    // SAFETY: entries are replaced whole; a reader sees the old or the new one until the program ends.
    let interface = unsafe { INTERFACES.get(&ifindex) }?;
    let here = known(interface.endpoint)?;
    Some(Here { side: interface.side, ..here })
}

/// The endpoint with this id, as if seen from its pod.
#[inline(always)]
pub(crate) fn known(id: u64) -> Option<Here> {
    // SAFETY: as above.
    let endpoint = unsafe { ENDPOINTS.get(&id) }?;
    Some(Here { id, endpoint, side: Side::Pod })
}

/// Whether an address is one of the endpoint's own: a primary one, which it says itself, or a secondary one.
#[inline(always)]
pub(crate) fn owns(here: &Here, addr: &Addr) -> bool {
    here.endpoint.owns(addr) || local(addr) == Some(here.id)
}

/// Likewise, where there must be one.
#[inline(always)]
pub(crate) fn at(ifindex: u32) -> Result<Here, DropReason> {
    find(ifindex).ok_or(DropReason::UnknownEndpoint)
}

/// Id of the endpoint on this node that owns an address.
#[inline(always)]
pub(crate) fn local(addr: &Addr) -> Option<u64> {
    // SAFETY: an 8-byte value is read whole.
    unsafe { LOCAL.get(addr) }.copied()
}
