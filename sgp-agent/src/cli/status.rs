//! `status`: what is enforced here, and how much room is left.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;
use sgp_common::limits;

use super::view::View;
use crate::io::kernel::installed;

/// One limit of the data path and how much of it is used.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Use {
    what: &'static str,
    used: usize,
    limit: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    bpf_dir: String,
    object_digest: String,
    attached: usize,
    detached: Vec<String>,
    limits: Vec<Use>,
}

pub(super) fn print(view: &View) -> Result<()> {
    let maps = view.maps()?;
    let state = installed(&maps, &view.dirs())?;
    let (alive, dead): (Vec<_>, Vec<_>) = state.links.iter().partition(|link| link.ifindex != 0);
    let status = Status {
        bpf_dir: view.dirs().root.display().to_string(),
        object_digest: format!("{:016x}", maps.object.get(&0, 0).unwrap_or_default()),
        attached: alive.len(),
        detached: dead.iter().map(|link| format!("{} on {}", link.program, link.interface)).collect(),
        limits: vec![
            Use { what: "endpoints", used: state.endpoints.len(), limit: limits::ENDPOINTS_MAX },
            Use { what: "policies", used: state.policies.len(), limit: limits::POLICIES_MAX },
            Use { what: "peers", used: state.peers.len(), limit: limits::PEERS_MAX },
            Use { what: "flows", used: maps.flows.keys().flatten().count(), limit: limits::FLOWS_MAX },
        ],
    };
    view.one(&status, text)
}

fn text(status: &Status) -> String {
    let mut text = format!("pins      {}\nobject    {}\n", status.bpf_dir, status.object_digest);
    let _ = writeln!(text, "attached  {} programs", status.attached);
    for dead in &status.detached {
        let _ = writeln!(text, "          {dead}: the interface is gone");
    }
    for limit in &status.limits {
        let _ = writeln!(text, "{:<9} {} of {}", limit.what, limit.used, limit.limit);
    }
    text.trim_end().to_owned()
}
