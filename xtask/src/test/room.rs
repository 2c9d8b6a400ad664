//! Room on the disk: without it compilers, clusters and tests fail, each in words of its own.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::Results;
use crate::build::cargo;
use crate::setup;

const MIB: u64 = 1 << 20;
/// What a run from nothing takes at most, Go's caches while setup builds the control plane included; 4 GiB stay.
const FROM_NOTHING: u64 = 9 << 30;
/// With less nothing can be relied on.
const TOO_LITTLE: u64 = 500 * MIB;

/// Says where there is less than a run from nothing takes.
pub(super) fn warn() {
    for (place, free) in places().filter(|(_, free)| *free < FROM_NOTHING) {
        println!("disk: {} MiB free for {place}; a run from nothing takes {} MiB", free / MIB, FROM_NOTHING / MIB);
    }
}

/// After failures: whether the disk is the reason.
pub(super) fn blame(results: &mut Results) {
    for (place, free) in places().filter(|(_, free)| *free < TOO_LITTLE) {
        results
            .tell(format!("disk: {} MiB free for {place}: what failed may have failed for want of room", free / MIB));
    }
}

/// Directories that a run fills, with the bytes that are free there.
fn places() -> impl Iterator<Item = (String, u64)> {
    let target = cargo::debug_directory();
    [target, setup::cache_root()].into_iter().filter_map(|place| Some((place.display().to_string(), free(&place)?)))
}

/// Of the first directory above that exists: the place itself may still have to be made.
fn free(place: &Path) -> Option<u64> {
    let found = place.ancestors().find_map(|place| statvfs(place).ok())?;
    Some(found.blocks_available() * found.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_still_to_be_made_has_the_room_of_the_one_above() {
        let there = std::env::temp_dir();
        assert!(free(&there.join("not/yet")).is_some_and(|free| free > 0));
    }
}
