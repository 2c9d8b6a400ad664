//! `sgp-dev demo`: AWS's tutorial on a cluster made for it.

pub(crate) mod hands;
mod narrator;
mod proofs;
pub(crate) mod tutorial;
