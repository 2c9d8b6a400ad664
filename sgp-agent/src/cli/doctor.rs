//! `doctor`: findings, each with its cure.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use sgp_common::addr::UNSPECIFIED;

use super::variables::NodeFiles;
use super::view::View;
use crate::host;
use crate::io::kernel::maps::Maps;
use crate::io::kernel::{installed, preflight};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    ok: bool,
    what: &'static str,
    detail: String,
}

/// Where to look.
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    files: NodeFiles,
}

pub(super) fn print(doctor: &Doctor) -> Result<ExitCode> {
    let view = &doctor.view;
    let mut findings = vec![finding("kernel, permission and bpffs", preflight::check(&view.place.bpf_dir))];
    findings.push(finding("the node is set as its pods need it", node(&doctor.files)));
    match view.maps() {
        Ok(maps) => findings.extend(of_maps(view, &maps)),
        Err(error) => findings.push(finding("pins", Err(error))),
    }
    let healthy = findings.iter().all(|finding| finding.ok);
    view.rows(&["", "CHECK", "DETAIL"], &findings, |row| {
        vec![if row.ok { "ok" } else { "!!" }.to_owned(), row.what.to_owned(), row.detail.clone()]
    })?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn finding(what: &'static str, result: Result<()>) -> Finding {
    match result {
        Ok(()) => Finding { ok: true, what, detail: String::new() },
        Err(error) => Finding { ok: false, what, detail: format!("{error:#}") },
    }
}

fn node(files: &NodeFiles) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the async runtime")?.block_on(host::check(&files.proc_sys, &files.runtime_dir))
}

fn of_maps(view: &View, maps: &Maps) -> Vec<Finding> {
    vec![
        finding("every endpoint has a policy", policies(maps)),
        finding("every link is attached", links(view, maps)),
        finding("every endpoint has an address", addresses(maps)),
    ]
}

fn policies(maps: &Maps) -> Result<()> {
    for (id, endpoint) in maps.endpoints.iter().flatten() {
        let pod = maps.pod_name(crate::domain::groups::EndpointId(id));
        let policy = maps.policy(crate::domain::groups::GroupSetId(endpoint.group_set));
        anyhow::ensure!(
            policy.is_some(),
            "pod {pod} has none, so all of its packets drop with NoPolicy: see the agent's log for why it was refused"
        );
    }
    Ok(())
}

fn links(view: &View, maps: &Maps) -> Result<()> {
    let state = installed(maps, &view.dirs())?;
    if let Some(link) = state.links.iter().find(|link| link.ifindex == 0) {
        anyhow::bail!(
            "{} on {}: the interface is gone; a running agent removes the pin within 30 s",
            link.program,
            link.interface
        );
    }
    let expected = state.endpoints.len() * 4;
    anyhow::ensure!(
        state.links.len() >= expected,
        "{} of {expected} programs are attached: is the agent running?",
        state.links.len()
    );
    Ok(())
}

fn addresses(maps: &Maps) -> Result<()> {
    for (id, endpoint) in maps.endpoints.iter().flatten() {
        let pod = maps.pod_name(crate::domain::groups::EndpointId(id));
        anyhow::ensure!(
            endpoint.ipv4 != UNSPECIFIED || endpoint.ipv6 != UNSPECIFIED,
            "pod {pod} has none: its annotation vpc.amazonaws.com/pod-eni names no address"
        );
    }
    Ok(())
}
