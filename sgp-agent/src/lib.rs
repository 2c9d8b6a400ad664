//! The node agent of sgp: keeps the data path's maps in step with Kubernetes and EC2.
//!
//! Architecture invariant: `domain` is pure (no I/O, no clock, no SDK types); `io` talks to the world and
//! its modules do not import each other; the two meet in `reconcile`, in `controller`, and in `check`, where nothing real is at stake.

#[cfg(feature = "node")]
pub mod adopt;
pub mod check;
#[cfg(feature = "node")]
pub mod cli;
#[cfg(feature = "node")]
pub mod cni;
#[cfg(feature = "node")]
pub mod controller;
pub mod domain;
#[cfg(feature = "node")]
pub mod host;
pub mod io;
#[cfg(feature = "node")]
pub mod protocol;
#[cfg(feature = "node")]
pub mod reconcile;
#[cfg(feature = "node")]
pub mod serve;
#[cfg(feature = "node")]
pub mod telemetry;
