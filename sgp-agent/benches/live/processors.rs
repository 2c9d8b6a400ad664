//! Who runs where: one processor makes and carries the packets, a second one is for whoever receives streams.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// See the module. Where there is one processor, both are that.
#[derive(Clone, Copy)]
pub(crate) struct Processors {
    first: usize,
    second: usize,
}

impl Processors {
    /// The first two that this process may use.
    pub(crate) fn here() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("asking for processors")?;
        let mut all = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or_default());
        let first = all.next().context("no processor may be used")?;
        Ok(Self { first, second: all.next().unwrap_or(first) })
    }

    /// Does work on the first; the thread stays there.
    pub(crate) fn on_first<T>(&self, work: impl FnOnce() -> T) -> T {
        stay(self.first);
        work()
    }

    /// Likewise on the second.
    pub(crate) fn on_second<T>(&self, work: impl FnOnce() -> T) -> T {
        stay(self.second);
        work()
    }
}

/// A thread that may not be held elsewhere is measured where it is.
fn stay(cpu: usize) {
    let mut here = CpuSet::new();
    let _ = here.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &here));
}
