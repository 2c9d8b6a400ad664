//! `status`: what is enforced here, how fresh it is, and how much room is left.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::variables::NodeFiles;
use super::view::View;
use crate::io::kernel::attached;
use crate::io::kernel::maps::Maps;
use crate::telemetry::pinned::fill;
use crate::telemetry::state::{AgentState, since_start};

/// Where to look.
#[derive(Args)]
pub(super) struct Asked {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    files: NodeFiles,
}

/// One limit of the data path and how much of it is used.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Use {
    what: String,
    used: usize,
    limit: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    bpf_dir: String,
    object_digest: String,
    attached: usize,
    /// Layout of an older data path that still judges.
    predecessor: Option<u32>,
    detached: Vec<String>,
    limits: Vec<Use>,
    /// Sampled events that found no room in the ring.
    events_lost: u64,
    /// Whether an agent runs.
    running: bool,
    /// Seconds since the agent last left the kernel as desired; `None` where none has said so.
    sync_lag_seconds: Option<u64>,
    agent: Option<AgentState>,
}

pub(super) fn print(asked: &Asked) -> Result<()> {
    let view = &asked.view;
    let maps = view.maps()?;
    let status = status(view, &maps, &asked.files.runtime_dir)?;
    view.one(&status, text)
}

/// The agent's own word, whether it runs, and seconds since it last left the kernel as desired.
pub(super) fn agent_of(runtime_dir: &Path) -> Result<Option<(AgentState, bool, u64)>> {
    let now = since_start();
    let agent = AgentState::read(runtime_dir)?;
    Ok(agent.map(|agent| {
        let (running, lag) = (agent.is_alive(), now.saturating_sub(agent.synced_at));
        (agent, running, lag)
    }))
}

fn status(view: &View, maps: &Maps, runtime_dir: &Path) -> Result<Status> {
    let (links, predecessor) = attached(&view.dirs())?;
    let (alive, dead): (Vec<_>, Vec<_>) = links.iter().partition(|link| link.ifindex != 0);
    let agent = agent_of(runtime_dir)?;
    let limits = fill(maps)?.into_iter();
    Ok(Status {
        bpf_dir: view.dirs().root.display().to_string(),
        object_digest: format!("{:016x}", maps.object.get(&0, 0).unwrap_or_default()),
        attached: alive.len(),
        predecessor,
        detached: dead.iter().map(|link| format!("{} on {}", link.program, link.interface)).collect(),
        limits: limits.map(|(what, used, limit)| Use { what: what.to_lowercase(), used, limit }).collect(),
        events_lost: maps.lost_events(),
        running: agent.as_ref().is_some_and(|(_, running, _)| *running),
        sync_lag_seconds: agent.as_ref().map(|(_, _, lag)| *lag),
        agent: agent.map(|(agent, ..)| agent),
    })
}

fn text(status: &Status) -> String {
    let mut text = format!("pins        {}\nobject      {}\n", status.bpf_dir, status.object_digest);
    let _ = writeln!(text, "attached    {} programs", status.attached);
    if let Some(version) = status.predecessor {
        let _ =
            writeln!(text, "upgrade     programs of layout {version} still judge, until an agent's first whole round");
    }
    for dead in &status.detached {
        let _ = writeln!(text, "            {dead}: the interface is gone");
    }
    let _ = writeln!(text, "agent       {}", agent(status));
    for (object, reason) in status.agent.iter().flat_map(|agent| &agent.refused) {
        let _ = writeln!(text, "refused     {object}: {reason}");
    }
    for limit in &status.limits {
        let percent = limit.used * 100 / limit.limit.max(1) as usize;
        let _ = writeln!(text, "{:<11} {} of {} ({percent}%)", limit.what, limit.used, limit.limit);
    }
    if status.events_lost != 0 {
        let _ = writeln!(text, "events      {} samples lost to a full ring; counters are exact", status.events_lost);
    }
    text.trim_end().to_owned()
}

fn agent(status: &Status) -> String {
    let (Some(agent), Some(lag)) = (&status.agent, status.sync_lag_seconds) else {
        return "has not said how far it has come: not running, or another --runtime-dir".into();
    };
    let life = if status.running { "running" } else { "NOT running; what is enforced stays, new pods wait" };
    let ec2 = agent.ec2_age_s.map_or("never".to_owned(), |age| format!("{} s ago", age + lag));
    let kubernetes = match agent.kubernetes_age_s.filter(|_| agent.kubernetes) {
        Some(age) => format!("answered {} s ago", age + lag),
        None => "has not told all yet".to_owned(),
    };
    let members = match agent.membership_age_s {
        Some(age) => format!("the controller's slices, looked after {} s ago", age + lag),
        None => "EC2".to_owned(),
    };
    format!(
        "{life} (pid {}, version {}, {} mode)\nsync        {lag} s ago, took {} ms; EC2 asked {ec2}; API server {kubernetes}\n\
         members     by {members}",
        agent.pid, agent.version, agent.mode, agent.round_ms
    )
}
