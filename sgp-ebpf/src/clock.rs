//! What time it is.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::maps::CLOCK;

/// See `sgp_common::pins::map::TEST`.
#[unsafe(no_mangle)]
static TEST: Global<u8> = Global::new(0);

/// Whether the program was loaded for tests. A constant to the verifier, so that what hangs on it is gone elsewhere.
#[inline(always)]
pub(crate) fn testing() -> bool {
    TEST.load() != 0
}

/// CLOCK_MONOTONIC, nanoseconds.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    if testing() {
        return CLOCK.get(0).copied().unwrap_or_default();
    }
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
