//! First fragments remembered, later ones recognised.

use sgp_common::flow::Admission;
use sgp_common::fragment::{Fragment, FragmentKey};
use sgp_common::packet::Packet;
use sgp_common::{Direction, DropReason};

use crate::clock::now_ns;
use crate::maps::FRAGMENTS;

/// Lets what follows this first fragment pass. Where there is no room, it will be judged without ports.
#[inline(always)]
pub(crate) fn remember(endpoint: u64, packet: &Packet, direction: Direction, admission: &Admission) {
    let key = FragmentKey::of(endpoint, packet, direction);
    let _ = FRAGMENTS.insert(key, Fragment::first(packet, admission, now_ns()), 0);
}

/// A first fragment was refused: an earlier one with its identification speaks for nothing any more.
#[inline(always)]
pub(crate) fn forget(endpoint: u64, packet: &Packet, direction: Direction) {
    let _ = FRAGMENTS.remove(FragmentKey::of(endpoint, packet, direction));
}

/// Who let the first fragment of this one's packet pass, if it is known.
///
/// # Errors
/// `Malformed` for a fragment that would overwrite part of the first.
#[inline(always)]
pub(crate) fn first(endpoint: u64, packet: &Packet, direction: Direction) -> Result<Option<Admission>, DropReason> {
    // SAFETY: an entry written over meanwhile is one of the same packet's.
    let found = unsafe { FRAGMENTS.get(FragmentKey::of(endpoint, packet, direction)) };
    let Some(first) = found.filter(|first| first.stands(now_ns())) else { return Ok(None) };
    if first.is_overlapped_by(packet) {
        return Err(DropReason::Malformed);
    }
    Ok(Some(first.admission))
}
