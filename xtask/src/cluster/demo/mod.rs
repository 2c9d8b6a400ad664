//! `sgp-dev demo`: AWS's tutorial on a cluster made for it.

pub(crate) mod hands;
pub(crate) mod narrator;
mod proofs;
pub(crate) mod tutorial;
