//! What the model says: row by row of facts 5.3, table by table of `docs/semantics.md`, and for anything at all.

mod bench;
mod exempt;
mod flows;
mod fragments;
#[path = "../../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod limits;
mod properties;
mod related;
mod revoked;
mod text;
mod vectors;
mod wire;
