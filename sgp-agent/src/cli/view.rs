//! Where commands look, and how they print.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color, ContentArrangement, Row, Table, presets};
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
    /// For people, with more columns, and wider than the terminal if need be.
    Wide,
    /// For scripts.
    Json,
}

/// What every reading command takes.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sgp-agent status\n  sgp-agent endpoints --json\n  sgp-agent doctor -o json")]
pub(super) struct View {
    #[command(flatten)]
    pub(super) place: Place,
    /// table, wide or json
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The same as `-o json`
    #[arg(long)]
    json: bool,
}

/// A view of one pod, or of all.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  sgp-agent flows\n  sgp-agent snat --pod shop/cart-0\n  sgp-agent flows --pod shop/cart-0 --json"
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
        println!("{}", table(header, rows.iter().map(|row| cells(row).into_iter().map(cell).collect::<Vec<Cell>>())));
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

    /// Likewise, with more columns behind the others where the person asked for `-o wide`.
    ///
    /// # Errors
    /// Where a row cannot be written as JSON.
    pub(super) fn wide_rows<T: Serialize>(
        &self,
        (header, more): (&[&str], &[&str]),
        rows: &[T],
        cells: impl Fn(&T) -> Vec<String>,
    ) -> Result<()> {
        let columns = header.len() + if self.is_wide() { more.len() } else { 0 };
        let header: Vec<&str> = header.iter().chain(more).copied().take(columns).collect();
        self.rows(&header, rows, |row| cells(row).into_iter().take(columns).collect())
    }

    /// Whether the person asked for all columns.
    pub(super) fn is_wide(&self) -> bool {
        self.output == Output::Wide
    }

    /// Whether scripts read it.
    pub(super) fn is_json(&self) -> bool {
        self.json || self.output == Output::Json
    }
}

fn print_json<T: Serialize>(value: &T) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("writing JSON")?);
    Ok(())
}

/// Columns in kubectl's style: no lines. On a terminal cells wrap where the table would not fit; elsewhere each is as wide
/// as its longest cell.
pub(super) fn table<R: Into<Row>>(header: &[&str], rows: impl Iterator<Item = R>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    // No terminal, or one that does not say how wide it is, as serial consoles do not.
    if table.width().is_none_or(|width| width == 0) {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Coloured where it says that something is wrong; comfy-table leaves colours out where nobody sees them.
fn cell(text: String) -> Cell {
    let colour = match text.as_str() {
        "ok" => Some(Color::Green),
        "!!" => Some(Color::Red),
        _ => None,
    };
    let cell = Cell::new(text);
    colour.map_or(cell.clone(), |colour| cell.fg(colour))
}
