//! What the data path and user space of sgp agree on.
//!
//! Architecture invariant: this crate does no I/O, allocates nothing, and depends on nothing
//! (but for aya's `Pod` marker in user space). The same parser, flow machine and first match run in
//! the kernel, in the agent and in the tests.
//!
//! Directions are always the pod's point of view: [`Direction::Inbound`] comes to the pod.
#![no_std]

pub mod addr;
pub mod checksum;
mod direction;
pub mod endpoint;
pub mod event;
pub mod exempt;
pub mod flow;
pub mod fragment;
pub mod limits;
pub mod packet;
pub mod pins;
pub mod policy;
pub mod quoted;
pub mod snat;
pub mod trunk;
pub mod verdict;

pub use addr::{Addr, Family};
pub use direction::Direction;
pub use verdict::{DropReason, Verdict};

/// Version of every layout in this crate. It is part of the pin path, so programs and maps of two
/// versions never meet, but for [`pins::CARRIED`]. `tests/abi.rs` holds the layouts against a golden file.
pub const ABI_VERSION: u32 = 2;

/// Marks shared structures as plain old data for aya's user-space maps.
macro_rules! plain {
    ($($name:ty),+ $(,)?) => {
        $(
            // SAFETY: `repr(C)` with explicit padding and no pointers; every enum in it is only ever
            // written by programs and agents of this ABI_VERSION.
            #[cfg(feature = "user")]
            unsafe impl aya::Pod for $name {}
        )+
    };
}
pub(crate) use plain;
