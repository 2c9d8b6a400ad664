//! First fragments remembered, later ones recognised.

use sgp_common::flow::Admission;
use sgp_common::fragment::{Fragment, FragmentKey};
use sgp_common::packet::Packet;
use sgp_common::{Direction, DropReason};

use crate::clock::now_ns;
use crate::maps::FRAGMENTS;

/// Lets what follows this first fragment pass, if it was allowed. Where there is no room, it will be judged without ports.
/// If it was refused, an earlier one with its identification speaks for nothing any more.
#[inline(never)]
pub(crate) fn remember(endpoint: u64, packet: &Packet, direction: Direction, admission: Option<&Admission>) {
    let key = FragmentKey::of(endpoint, packet, direction);
    let _ = match admission {
        Some(admission) => FRAGMENTS.insert(key, Fragment::first(packet, admission, now_ns()), 0),
        None => FRAGMENTS.remove(key),
    };
}

/// The first fragment of this one's packet, if it still speaks for it.
#[inline(always)]
pub(crate) fn find(endpoint: u64, packet: &Packet, direction: Direction) -> Option<&'static Fragment> {
    // SAFETY: an entry written over meanwhile is one of the same packet's.
    let found = unsafe { FRAGMENTS.get(FragmentKey::of(endpoint, packet, direction)) };
    found.filter(|first| first.stands(now_ns()))
}

/// Remembers a first fragment as it is described. Where there is no room, what follows will be judged without ports.
#[inline(always)]
pub(crate) fn put(key: &FragmentKey, first: &Fragment) {
    let _ = FRAGMENTS.insert(key, first, 0);
}

/// Whether the first fragment of this one's packet is known, and who let it pass.
///
/// # Errors
/// `Malformed` for a fragment that would overwrite part of the first.
#[inline(never)]
pub(crate) fn first(
    endpoint: u64,
    packet: &Packet,
    direction: Direction,
    admission: &mut Admission,
) -> Result<bool, DropReason> {
    let Some(first) = find(endpoint, packet, direction) else { return Ok(false) };
    if first.is_overlapped_by(packet) {
        return Err(DropReason::Malformed);
    }
    *admission = first.admission;
    Ok(true)
}
