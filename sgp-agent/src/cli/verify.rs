//! `verify`: would this kernel take the programs?

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::view::View;
use crate::io::kernel::{Bpf, Cost};
use crate::io::seclusion;

/// One program, and what the kernel's verifier says of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    program: &'static str,
    /// Instructions the verifier has walked; it gives up at a million.
    verified: Option<u32>,
    /// Bytes of the program as the kernel holds it.
    size: Option<u32>,
}

impl From<Cost> for Row {
    fn from(cost: Cost) -> Self {
        Self { program: cost.program, verified: cost.verified_instructions, size: cost.bytes }
    }
}

/// Loads them where nobody else is, so that what enforces here is not touched.
pub(super) fn print(view: &View) -> Result<()> {
    seclusion::enter()?;
    let bpf = Bpf::open(&Path::new(seclusion::BPFFS).join("sgp-verify")).context("this kernel does not take them")?;
    let rows: Vec<Row> = bpf.costs().into_iter().map(Row::from).collect();
    let number = |number: Option<u32>| number.map_or_else(|| "-".into(), |number| number.to_string());
    view.rows(&["PROGRAM", "INSTRUCTIONS WALKED", "BYTES"], &rows, |row| {
        vec![row.program.into(), number(row.verified), number(row.size)]
    })
}
