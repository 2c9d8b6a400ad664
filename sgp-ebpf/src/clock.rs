//! What time it is.

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};

use crate::maps::CLOCK;
use crate::packet::scratch;

/// See `sgp_common::pins::map::TEST`.
#[unsafe(no_mangle)]
static TEST: Global<u8> = Global::new(0);

/// Whether the program was loaded for tests. A constant to the verifier, so that what hangs on it is gone elsewhere.
#[inline(always)]
pub(crate) fn testing() -> bool {
    TEST.load() != 0
}

/// CLOCK_MONOTONIC as of the kernel's last tick (at most 10 ms ago), nanoseconds. The count of ticks costs nothing to read, the
/// clock as much as a lookup, and what lives by it lives for seconds: so each CPU reads the clock once a tick.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    if testing() {
        return CLOCK.get(0).copied().unwrap_or_default();
    }
    // SAFETY: a helper without arguments (Linux 5.5).
    let tick = unsafe { bpf_jiffies64() };
    let Some(read) = scratch().map(|scratch| &mut scratch.clock) else { return 0 };
    if read.tick != tick {
        // SAFETY: a helper without arguments.
        *read = Read { tick, now_ns: unsafe { bpf_ktime_get_ns() } };
    }
    read.now_ns
}

/// What this CPU's clock said when it was read last.
#[repr(C)]
pub(crate) struct Read {
    tick: u64,
    now_ns: u64,
}
