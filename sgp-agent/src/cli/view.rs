//! Where commands look, and how they print.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Row, Table, presets};
use serde::Serialize;
use sgp_common::pins;

use crate::io::kernel::maps::{Maps, PinDirs};

/// Where the pins are.
#[derive(Args, Clone, Debug)]
pub(super) struct Place {
    /// Directory of the agent's pins, as given to `run`
    #[arg(long, env = "SGP_BPF_DIR", default_value = pins::ROOT, value_name = "DIR")]
    pub(super) bpf_dir: PathBuf,
}

/// How a command prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// What every reading command takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sgp-agent status\n  sgp-agent endpoints --json\n  sgp-agent doctor -o json")]
pub(super) struct View {
    #[command(flatten)]
    pub(super) place: Place,
    /// table or json
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The same as `-o json`
    #[arg(long)]
    json: bool,
}

/// A view of one pod, or of all.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  sgp-agent flows\n  sgp-agent drops --pod shop/cart-0\n  sgp-agent flows --pod shop/cart-0 --json"
)]
pub(super) struct Target {
    /// Only this pod, as NAMESPACE/NAME
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(super) pod: Option<String>,
    #[command(flatten)]
    pub(super) view: View,
}

impl View {
    /// The maps this view looks at.
    ///
    /// # Errors
    /// Where nothing is pinned or the maps may not be opened.
    pub(super) fn maps(&self) -> Result<Maps> {
        Maps::open(&self.dirs())
    }

    pub(super) fn dirs(&self) -> PinDirs {
        PinDirs::new(&self.place.bpf_dir)
    }

    /// Prints rows: as a table whose columns are `header`, or all of them as a JSON array.
    ///
    /// # Errors
    /// Where a row cannot be written as JSON.
    pub(super) fn rows<T: Serialize>(
        &self,
        header: &[&str],
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.is_json() {
            return print_json(&rows);
        }
        if rows.is_empty() {
            println!("none");
            return Ok(());
        }
        println!("{}", table(header, rows.iter().map(cells)));
        Ok(())
    }

    /// Prints one thing: `text` for people, `value` for scripts.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub(super) fn one<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        if self.is_json() {
            return print_json(value);
        }
        println!("{}", text(value));
        Ok(())
    }

    fn is_json(&self) -> bool {
        self.json || self.output == Output::Json
    }
}

fn print_json<T: Serialize>(value: &T) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("writing JSON")?);
    Ok(())
}

/// Columns in kubectl's style: no lines, wide enough for the longest cell.
pub(super) fn table<R: Into<Row>>(header: &[&str], rows: impl Iterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
