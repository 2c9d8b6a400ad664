//! First fragments remembered, later ones recognised.

use sgp_common::flow::Admission;
use sgp_common::fragment::{Fragment, FragmentKey};
use sgp_common::packet::Packet;
use sgp_common::{Direction, DropReason};

use crate::clock::now_ns;
use crate::maps::FRAGMENTS;
use crate::packet::scratch;

/// Lets what follows this first fragment pass, if it was allowed. Where there is no room, it will be judged without ports.
/// If it was refused, an earlier one with its identification speaks for nothing any more.
#[inline(never)]
pub(crate) fn remember(endpoint: u64, packet: &Packet, direction: Direction, admission: Option<&Admission>) {
    let Some(scratch) = scratch() else { return };
    scratch.fragment_key = FragmentKey::of(endpoint, packet, direction);
    let Some(admission) = admission else {
        let _ = FRAGMENTS.remove(&scratch.fragment_key);
        return;
    };
    scratch.fragment = Fragment::first(packet, admission, now_ns());
    put(&scratch.fragment_key, &scratch.fragment);
}

/// The first fragment of this one's packet, if it still speaks for it.
#[inline(always)]
pub(crate) fn find(endpoint: u64, packet: &Packet, direction: Direction) -> Option<&'static Fragment> {
    let key = &mut scratch()?.fragment_key;
    *key = FragmentKey::of(endpoint, packet, direction);
    // SAFETY: an entry written over meanwhile is one of the same packet's.
    let found = unsafe { FRAGMENTS.get(&*key) };
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
