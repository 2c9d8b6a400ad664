//! The node agent of sgp: keeps the data path's maps in step with Kubernetes and EC2.
//!
//! Architecture invariant: `domain` is pure (no I/O, no clock, no SDK types); `io` talks to the world and
//! its modules do not import each other; the two meet in `reconcile`, in `controller`, and in `check`, where nothing real is at stake.

pub mod adopt;
pub mod check;
pub mod cli;
pub mod cni;
pub mod controller;
pub mod domain;
pub mod host;
pub mod io;
pub mod protocol;
pub mod reconcile;
mod restore;
pub mod serve;
pub mod telemetry;
