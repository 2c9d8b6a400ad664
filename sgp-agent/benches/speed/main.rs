//! How long each program takes for a packet, beside the least that any stateful filter takes. `cargo xtask bench` builds
//! what this needs, runs it, and makes tables of what it prints.

mod cases;
#[path = "../../../sgp-ebpf/src/floor/drive.rs"]
#[allow(dead_code, reason = "the programs' half is not called here")]
mod drive;
mod driver;
mod early;
#[path = "../../../sgp-common/tests/frames/mod.rs"]
mod frames;
#[path = "../../tests/node/mod.rs"]
mod node;
mod place;
mod primary;
mod rules;
mod tables;
mod talk;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use cases::{Case, Kind};
use clap::Parser;
use driver::Driver;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;
use place::Place;
use serde::Serialize;

/// What the benchmark is told.
#[derive(Parser)]
struct Args {
    /// Object of the floors
    #[arg(long)]
    floor: PathBuf,
    /// Object of the data path; the agent's own where none is given
    #[arg(long)]
    object: Option<PathBuf>,
    /// Where to write what was measured
    #[arg(long)]
    out: PathBuf,
    /// How often every case is measured, in turn with the others
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Only cases whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// One case, measured.
#[derive(Serialize)]
struct Measured {
    /// What was measured.
    case: String,
    /// The case it is held against, if any.
    floor: Option<String>,
    /// Nanoseconds a packet, one for each round: of the case, less those of a program that does nothing.
    ns: Vec<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    stay()?;
    let object = args.object.as_ref().map(std::fs::read).transpose().context("reading the object of the data path")?;
    let mut measured = Vec::new();
    for kind in [Kind::Strict, Kind::Standard] {
        let cases = cases::of(kind, &args.only);
        if cases.is_empty() {
            continue;
        }
        let place = Place::start(kind, object.as_deref())?;
        let driver = Driver::load(&args.floor)?;
        measured.extend(measure(&cases, args.rounds, place, driver)?);
    }
    serde_json::to_writer(File::create(&args.out).context("creating the file of results")?, &measured)
        .context("writing the results")
}

/// Keeps to the processor this happens to run on: its caches are what is measured.
fn stay() -> Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().context("asking for the processor")?)?;
    sched_setaffinity(Pid::from_raw(0), &here).context("keeping to one processor")
}

/// What is being done, on a terminal's last line.
fn tell(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// Measures every case in turn, as often as there are rounds.
fn measure(cases: &[Case], rounds: usize, mut place: Place, mut driver: Driver) -> Result<Vec<Measured>> {
    let mut found: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for (index, case) in cases.iter().enumerate() {
            tell(&format!("round {round} of {rounds}: {}", case.name));
            let ns = case.run(&mut place, &mut driver).with_context(|| case.name.clone())?;
            found.entry(index).or_default().push(ns);
        }
    }
    tell("");
    let of = |(index, ns)| {
        let case: &Case = &cases[index];
        Measured { case: case.name.clone(), floor: case.floor.clone(), ns }
    };
    Ok(found.into_iter().map(of).collect())
}
