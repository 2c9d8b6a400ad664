//! How fast the agent itself is: a peer that changes, a rule that changes, everything anew, a start; and how much memory it
//! takes. Its own library, with real maps and programs on a node in a network namespace. What a watch of the API server
//! would deliver comes as the JSON that it would.

#[path = "../../tests/node/mod.rs"]
mod node;
mod world;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use sgp_agent::io::kernel::Bpf;
use sgp_agent::reconcile::{Members, MembershipFrom, Nudges, follow};
use sgp_agent::telemetry::metrics::Metrics;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use world::{ENDPOINTS, World};

/// What the benchmark is told.
#[derive(Parser)]
struct Args {
    /// Where to write what was measured
    #[arg(long)]
    out: PathBuf,
    /// Samples of what is quick; a tenth of them of what is slow
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Only with this many peers
    #[arg(long)]
    peers: Option<usize>,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// One measure, at one number of peers.
#[derive(Serialize)]
struct Measured {
    measure: &'static str,
    peers: usize,
    unit: &'static str,
    values: Vec<f64>,
}

const PEERS: [usize; 3] = [1_000, 10_000, 100_000];
/// The loop looks, and sweeps, this often where there is no news; what watches and EC2's answers cost comes on top.
const RESYNC: Duration = Duration::from_secs(30);
/// Peers that change each second under churn: a cluster of 100,000 pods that live for a quarter of an hour each.
const CHURN: u64 = 100;

fn main() -> Result<()> {
    let args = Args::parse();
    let mut all = Vec::new();
    for peers in PEERS.into_iter().filter(|peers| args.peers.is_none_or(|only| only == *peers)) {
        eprintln!("the agent with {peers} peers");
        let mut found = measure(peers, args.samples)?;
        all.append(&mut found);
    }
    serde_json::to_writer(File::create(&args.out).context("creating the file of results")?, &all)
        .context("writing the results")
}

fn measure(peers: usize, samples: usize) -> Result<Vec<Measured>> {
    let mut world = World::start(peers);
    let few = (samples / 10).max(3);
    let members = Arc::new(Members::new(MembershipFrom::Auto));
    let kernel = Arc::new(Mutex::new(Bpf::open(&world.node.dir)?));
    let runtime = Runtime::new().context("starting the async runtime")?;
    let (hear, heard) = mpsc::unbounded_channel();
    let nudges = Nudges { changed: Arc::new(Notify::new()), look: Arc::new(Notify::new()), each: false };
    let stream = futures::stream::unfold(heard, async |mut heard| heard.recv().await.map(|news| (news, heard)));
    runtime.spawn(follow(stream, Arc::clone(&members), Arc::clone(&kernel), nudges, Arc::new(Metrics::default())));
    world.all().into_iter().try_for_each(|news| hear.send(news)).context("following members")?;
    wait(|| members.published().is_some_and(|published| published.peers.len() == peers))?;
    let full = timed(|| world.round(&members, &kernel))?;
    ensure!(world.node.maps.endpoints.iter().flatten().count() >= usize::from(ENDPOINTS), "endpoints are missing");
    let mut found =
        vec![Measured { measure: "full plan and apply, 120 endpoints", peers, unit: "ms", values: vec![full] }];
    let mut put = |measure, unit, values| found.push(Measured { measure, peers, unit, values });
    let rule = || {
        world.edit_rule();
        timed(|| world.round(&members, &kernel))
    };
    put("rule edit to enforced, 1,000 rules", "ms", std::iter::repeat_with(rule).take(few).collect::<Result<_>>()?);
    let mut change = || {
        let (text, coming) = world.change();
        timed(|| {
            hear.send(World::heard(&text)?).context("following members")?;
            wait(|| world.node.maps.peers.get(&coming, 0).is_ok())
        })
    };
    put("peer change to map", "ms", std::iter::repeat_with(&mut change).take(samples).collect::<Result<_>>()?);
    let (begun, before) = (Instant::now(), cpu()?);
    let mut due = begun;
    while begun.elapsed() < Duration::from_secs(5) {
        change()?;
        due += Duration::from_micros(1_000_000 / CHURN);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let busy = (cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    put("CPU at 100 changes a second", "%", vec![busy * 100.0]);
    let mut idle = || {
        let before = cpu()?;
        world.rest(&members, &kernel)?;
        Ok((cpu()? - before).as_secs_f64() / RESYNC.as_secs_f64() * 100.0)
    };
    put("CPU where nothing changes", "%", std::iter::repeat_with(&mut idle).take(few).collect::<Result<_>>()?);
    put("memory", "MiB", vec![resident()?]);
    drop(hear);
    drop(runtime);
    let start = || timed(|| world.restart());
    put("start to enforced, all there already", "ms", std::iter::repeat_with(start).take(few).collect::<Result<_>>()?);
    Ok(found)
}

/// Milliseconds that something takes.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

fn wait(until: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !until() {
        ensure!(begun.elapsed() < Duration::from_secs(60), "it did not come about within a minute");
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// Processor time of this process so far.
fn cpu() -> Result<Duration> {
    let used = getrusage(UsageWho::RUSAGE_SELF).context("asking for processor time")?;
    let micros = used.user_time().num_microseconds() + used.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

/// MiB of this process that are in memory.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kib / 1024.0)
}

/// The kernel, for a round.
fn lock(kernel: &Mutex<Bpf>) -> std::sync::MutexGuard<'_, Bpf> {
    kernel.lock().unwrap_or_else(PoisonError::into_inner)
}
