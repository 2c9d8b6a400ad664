//! `cargo xtask bench`: what enforcement costs, beside what it is held against, measured in turn.

mod against;
mod agent;
mod document;
mod figures;
mod live;
mod machine;
mod programs;
mod table;
mod targets;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::unistd::{dup, dup2_stdout};
use serde::de::DeserializeOwned;

use crate::build::{self, cargo};
use crate::dev;
use crate::progress::command;
use figures::Figure;
use machine::Machine;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench                     everything, as a table; takes some minutes and wants a quiet machine
  cargo xtask bench --quick             three rounds: enough to see an effect of a third
  cargo xtask bench --only established  only cases with `established` in their name, and their floors
  cargo xtask bench --only live         only traffic through a node; `--only 'live: ours'` without what it is compared with
  cargo xtask bench --only agent        only the agent itself: peers and rules that change, starts, memory
  cargo xtask bench --against main      this tree's programs and those of another revision, in turn
  cargo xtask bench -o json             for a program to read")]
pub(crate) struct Args {
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Compare with the programs of this git revision, whose maps must have the same layout; without live traffic
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// Also write docs/performance.md anew
    #[arg(long, conflicts_with_all = ["only", "against"])]
    document: bool,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The same as `-o json`
    #[arg(long)]
    json: bool,
}

/// How to print the result.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What a run found.
#[derive(serde::Serialize)]
struct Report {
    machine: Machine,
    rounds: usize,
    programs: Vec<Figure>,
    live_rounds: usize,
    live: Vec<live::Figure>,
    agent: Vec<agent::Figure>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    against: Vec<against::Compared>,
}

/// Rounds of a run, and of a quick one.
const ROUNDS: [usize; 2] = [15, 3];

/// Rounds of live traffic, and turns in each; and of a quick run.
const LIVE: [(usize, usize); 2] = [(5, 5), (3, 2)];

/// Samples of the agent's quick measures, and of a quick run.
const AGENT: [usize; 2] = [300, 30];

/// Runs `cargo xtask bench`.
pub(crate) fn run(args: &Args) -> Result<()> {
    dev::need_root("bench")?;
    let rounds = ROUNDS[usize::from(args.quick)];
    let report = aside(|| {
        build::everything(false)?;
        measured(args, rounds)
    })?;
    let json = serde_json::to_string_pretty(&report)?;
    fs::write(directory()?.join("latest.json"), &json).context("target/bench/latest.json cannot be written")?;
    if args.document {
        document::write(&report)?;
    }
    match args.json || args.output == Output::Json {
        true => println!("{json}"),
        false => print!("{}", table::text(&report)),
    }
    Ok(())
}

/// Does work whose words go to the standard error: the standard output belongs to the result.
fn aside<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let kept = dup(std::io::stdout()).context("keeping the standard output")?;
    dup2_stdout(std::io::stderr()).context("turning the standard output aside")?;
    let done = work();
    dup2_stdout(kept).context("turning the standard output back")?;
    done
}

fn measured(args: &Args, rounds: usize) -> Result<Report> {
    let (machine, (live_rounds, turns)) = (Machine::here(), LIVE[usize::from(args.quick)]);
    let Some(revision) = &args.against else {
        let programs = match live::is_all_of(&args.only) || agent::is_all_of(&args.only) {
            true => Vec::new(),
            false => figures::figures(programs::measure(&args.only, rounds, None)?),
        };
        let live = live::measure(&args.only, live_rounds, turns)?;
        let agent = agent::measure(&args.only, AGENT[usize::from(args.quick)])?;
        ensure!(
            !programs.is_empty() || !live.is_empty() || !agent.is_empty(),
            "nothing has {:?} in its name",
            args.only
        );
        return Ok(Report { machine, rounds, programs, live_rounds, live, agent, against: Vec::new() });
    };
    let (programs, against) = against::measure(revision, &args.only, rounds)?;
    Ok(Report { machine, rounds, programs, live_rounds, live: Vec::new(), agent: Vec::new(), against })
}

/// Runs a benchmark of sgp-agent, and reads what it writes to this file.
fn written<T: DeserializeOwned>(name: &str, bench: &mut Command, out: &Path) -> Result<T> {
    let status = bench.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("the benchmark `{name}` cannot be started"))?;
    ensure!(status.success(), "`{}` failed; what it printed is above", command::shown(bench));
    let written = fs::read(out).with_context(|| format!("{} cannot be read", out.display()))?;
    serde_json::from_slice(&written).context("what the benchmark wrote is not understood")
}

/// Where a run leaves its files.
fn directory() -> Result<PathBuf> {
    let directory = cargo::root().join("target/bench");
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    Ok(directory)
}
