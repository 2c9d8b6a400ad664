//! The pure core: facts in, plans out.
//!
//! Architecture invariants:
//! - nothing here does I/O, is async, reads a clock or names a type of aya, kube or the AWS SDK
//!   (`tests/architecture.rs` holds it);
//! - ids are derived, never allocated: a restarted or upgraded agent computes the same ones;
//! - `Desired` says what should be, `Installed` what the kernel holds, and a plan is an ordered list of
//!   steps of which every prefix leaves the node safe: it may deny more, never less.

pub mod admission;
pub mod adoption;
pub mod annotation;
pub mod answers;
mod branch_steps;
pub mod branches;
pub mod cloud_steps;
pub mod compile;
pub mod desired;
pub mod early;
pub mod enforcement;
pub mod explain;
pub mod failure;
pub mod flow_record;
pub mod groups;
pub mod host;
pub mod installed;
pub mod instance_types;
pub mod interface;
pub mod lease;
pub mod leaving;
pub mod matching;
pub mod membership;
pub mod memo;
pub mod model;
mod node_facts;
pub mod node_object;
pub mod observed;
pub mod orphans;
pub mod own_way;
pub mod packing;
pub mod plan;
mod pool;
pub mod prefix;
pub mod readback;
pub mod reasons;
pub mod restoring;
pub mod routing;
#[cfg(test)]
mod sample;
pub mod scenario;
pub mod settings;
pub mod shortcut;
pub mod site;
pub mod stack_nets;
pub mod tags;
pub mod teardown;
mod tracking;
mod trunk;
pub mod unmatched;
mod vlans;
pub mod wiring;
