//! Real packets from a pod through its node, beside plain forwarding and what else could stand there. `cargo xtask bench`
//! builds what this needs, runs it, and makes tables of what it writes.
//!
//! All of it lives in namespaces that nobody else sees, and that the kernel takes away when this ends, however it ends.

#[path = "../../../xtask/src/cluster/test/aws_node.rs"]
mod aws_node;
#[path = "../../../sgp-ebpf/src/floor/course.rs"]
#[allow(dead_code, reason = "the programs' half is not called here")]
mod course;
#[path = "../../../sgp-ebpf/src/floor/drive.rs"]
#[allow(dead_code, reason = "the programs' half is not called here")]
mod drive;
mod ground;
mod lane;
mod measure;
#[path = "../../tests/node/mod.rs"]
mod node;
#[path = "../speed/primary.rs"]
mod primary;
mod processors;
mod rules;
mod sockets;
mod stand;
#[path = "../speed/tables.rs"]
mod tables;
mod traffic;

use std::fs::{self, File};
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use lane::{Bench, Far, Lane, PLAIN};
use measure::Measure;
use nix::mount::{MsFlags, mount};
use processors::Processors;
use serde::Serialize;
use sgp_agent::domain::enforcement::Shortcuts;
use sgp_agent::domain::wiring::Mode;
use sgp_agent::io::seclusion;
use stand::Stand;
use traffic::Traffic;

/// What the benchmark is told.
#[derive(Parser)]
struct Args {
    /// Object of the floors, which has the generator of packets
    #[arg(long)]
    floor: PathBuf,
    /// Where to write what was measured
    #[arg(long)]
    out: PathBuf,
    /// How often everything is measured, in turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many values of what is done by sockets make a round's
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Only what has this in its name, which begins with `live`
    #[arg(long, default_value = "")]
    only: String,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A configuration and a measure.
#[derive(Serialize)]
struct Measured {
    configuration: &'static str,
    measure: String,
    /// Of what a second had so many.
    unit: &'static str,
    /// One for each round.
    values: Vec<f64>,
    /// Those of plain forwarding, each taken beside the one of the same round.
    plain: Vec<f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let processors = Processors::here()?;
    seclude()?;
    let mut all = Vec::new();
    for mode in [Mode::Strict, Mode::Standard] {
        let chosen = chosen(&lanes(mode), &args.only);
        if chosen.is_empty() {
            continue;
        }
        let mut bench = bench(mode, &args, processors)?;
        all.extend(measure_all(&mut bench, &chosen, args.rounds)?);
    }
    serde_json::to_writer(File::create(&args.out).context("creating the file of results")?, &all)
        .context("writing the results")
}

/// Where names of network namespaces are kept.
const NAMES: &str = "/run/netns";

/// Leaves the machine's network, bpffs and names of namespaces.
fn seclude() -> Result<()> {
    fs::create_dir_all(NAMES).with_context(|| format!("{NAMES} cannot be made"))?;
    seclusion::enter()?;
    mount(Some("tmpfs"), NAMES, Some("tmpfs"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting a tmpfs at {NAMES}"))
}

/// What stands between in this part of the run, in the order of [`bench`]'s stands.
fn lanes(mode: Mode) -> Vec<Lane> {
    let lane = |name, stand, pod, far| Lane { name, stand, pod, far, shortcuts: Shortcuts::Auto };
    let all = |name, stand, pod, far| Lane { name, stand, pod, far, shortcuts: Shortcuts::All };
    match mode {
        Mode::Strict => vec![
            lane("nftables, set of 60 rules", 1, 0, Far::Vpc),
            lane("bare redirect", 2, 0, Far::Vpc),
            lane("ours, strict, 60 rules", 3, 0, Far::Vpc),
            lane("ours, strict, 1000 rules", 3, 1, Far::Vpc),
            all("ours, strict, 60 rules, --shortcut all", 3, 0, Far::Vpc),
            all("ours, strict, 1000 rules, --shortcut all", 3, 1, Far::Vpc),
        ],
        Mode::Standard => vec![
            lane("ours, standard, 60 rules", 3, 0, Far::Vpc),
            lane("nftables, set of 60 rules, masquerade", 1, 0, Far::Beyond),
            lane("iptables, 60 rules, aws-node's SNAT", 2, 0, Far::Beyond),
            lane("ours, standard, 60 rules, SNAT", 3, 0, Far::Beyond),
            all("ours, standard, 60 rules, --shortcut all", 3, 0, Far::Vpc),
            all("ours, standard, 60 rules, SNAT, --shortcut all", 3, 0, Far::Beyond),
        ],
    }
}

/// Makes the stands.
fn bench(mode: Mode, args: &Args, processors: Processors) -> Result<Bench> {
    tell(&format!("wiring nodes, {} mode", mode.name()));
    let mut traffic = Traffic::load(&args.floor)?;
    let mut stands = vec![Stand::plain()?];
    if mode == Mode::Strict {
        stands.push(Stand::nftables("")?);
        let bare = Stand::plain()?;
        traffic.redirect(bare.node.as_ref().context("the node has a name")?, &bare.ground.pods[0])?;
        stands.push(bare);
    } else {
        stands.push(Stand::nftables(rules::MASQUERADE)?);
        stands.push(Stand::iptables()?);
    }
    stands.push(Stand::ours(mode)?);
    stands.iter().try_for_each(|stand| traffic.end_at(&stand.ground))?;
    let mut bench = Bench { stands, traffic, processors, turns: args.turns, fresh: 0 };
    let plain = [Far::Vpc, Far::Beyond].map(plain);
    for lane in plain.iter().chain(&lanes(mode)) {
        bench.try_out(lane).with_context(|| format!("{} ({:?})", lane.name, lane.far))?;
    }
    Ok(bench)
}

fn plain(far: Far) -> Lane {
    Lane { name: "plain forwarding", stand: PLAIN, pod: 0, far, shortcuts: Shortcuts::Off }
}

/// What is asked for.
fn chosen(lanes: &[Lane], only: &str) -> Vec<(Lane, Measure)> {
    let all = lanes.iter().flat_map(|lane| Measure::ALL.map(|measure| (lane.clone(), measure)));
    all.filter(|(lane, measure)| lane.is_worth(*measure))
        .filter(|(lane, measure)| format!("live: {}: {}", lane.name, measure.name()).contains(only))
        .collect()
}

/// Measures everything in turn, as often as there are rounds, each next to plain forwarding.
fn measure_all(bench: &mut Bench, chosen: &[(Lane, Measure)], rounds: usize) -> Result<Vec<Measured>> {
    let empty = |(lane, measure): &(Lane, Measure)| Measured {
        configuration: lane.name,
        measure: measure.name(),
        unit: measure.unit(),
        values: Vec::new(),
        plain: Vec::new(),
    };
    let mut all: Vec<Measured> = chosen.iter().map(empty).collect();
    for round in 1..=rounds {
        for ((lane, measure), measured) in chosen.iter().zip(&mut all) {
            tell(&format!("round {round} of {rounds}: {}: {}", lane.name, measured.measure));
            let pair = bench.pair([lane, &plain(lane.far)], *measure, round);
            let [value, plain] = pair.with_context(|| format!("{}: {}", lane.name, measured.measure))?;
            measured.values.push(value);
            measured.plain.push(plain);
        }
    }
    tell("");
    Ok(all)
}

/// What is being done, on a terminal's last line.
fn tell(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}
