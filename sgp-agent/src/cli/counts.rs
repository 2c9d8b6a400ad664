//! `drops`: what was dropped, by pod, direction and reason, since the pod came; and with `-f` packet by packet.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sgp_common::DropReason;

use super::live;
use super::variables::NodeFiles;
use super::view::View;
use crate::domain::groups::EndpointId;
use crate::domain::reasons;
use crate::io::kernel::Counted;
use crate::io::kernel::maps::Maps;
use crate::io::telemetry::direction;

/// Which drops, and how.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  sgp-agent drops                              counters, exact
  sgp-agent drops --pod shop/cart-0 --reason NoMatchingRule
  sgp-agent drops -f --pod shop/cart-0         packet by packet: samples, at most 64 a second and CPU
  sgp-agent drops -f -n 1 --pod shop/cart-0    only the next one
  sgp-agent drops -f --json                    the same as flow log records")]
pub(super) struct Drops {
    /// Go on with each packet that is dropped, with its peer
    #[arg(short, long)]
    pub(super) follow: bool,
    /// With -f: end after so many packets
    #[arg(short, long, value_name = "PACKETS", requires = "follow")]
    pub(super) number: Option<NonZeroU32>,
    /// Only this pod, as NAMESPACE/NAME
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(super) pod: Option<String>,
    /// Only this reason, as in the column REASON
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub(super) reason: Option<&'static str>,
    #[command(flatten)]
    pub(super) files: NodeFiles,
    #[command(flatten)]
    pub(super) view: View,
}

/// A reason by its name, in any case.
fn reason(text: &str) -> Result<&'static str, String> {
    let mut names = DropReason::ALL.into_iter().map(DropReason::name);
    let known = names.clone().collect::<Vec<_>>().join(", ");
    names.find(|name| name.eq_ignore_ascii_case(text)).ok_or(format!("the reasons are {known}"))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    pod: String,
    direction: &'static str,
    reason: &'static str,
    packets: u64,
    bytes: u64,
}

pub(super) fn print(drops: &Drops) -> Result<()> {
    let maps = drops.view.maps()?;
    let only = drops.pod.as_deref().map(|pod| maps.endpoint_of(pod)).transpose()?;
    if drops.follow {
        return live::follow(drops);
    }
    let mut rows = rows(&maps, only);
    rows.retain(|row| drops.reason.is_none_or(|reason| reason == row.reason));
    drops.view.rows(&["POD", "DIRECTION", "REASON", "PACKETS", "BYTES"], &rows, |row| {
        let (direction, reason) = (row.direction.to_owned(), row.reason.to_owned());
        vec![row.pod.clone(), direction, reason, row.packets.to_string(), row.bytes.to_string()]
    })?;
    if !drops.view.is_json() {
        explain(&rows);
    }
    Ok(())
}

/// What the reasons mean, each once.
fn explain(rows: &[Row]) {
    let told: BTreeSet<&str> = rows.iter().map(|row| row.reason).collect();
    for reason in DropReason::ALL.into_iter().filter(|reason| told.contains(reason.name())) {
        if let Some((meaning, cure)) = reasons::explained(reason) {
            println!("\n{}: {meaning}\n  {cure}", reason.name());
        }
    }
}

fn rows(maps: &Maps, only: Option<EndpointId>) -> Vec<Row> {
    let wanted = maps.counted().into_iter().filter(|counted| only.is_none() || counted.endpoint == only);
    let row = |counted: Counted| {
        let reason = counted.reason?.name();
        let pod = counted.endpoint.map_or_else(|| "(no endpoint)".to_owned(), |id| maps.pod_name(id));
        let (direction, packets, bytes) = (direction(counted.direction), counted.packets, counted.bytes);
        Some(Row { pod, direction, reason, packets, bytes })
    };
    let mut rows: Vec<Row> = wanted.filter_map(row).collect();
    rows.sort_by(|a, b| (&a.pod, a.direction, a.reason).cmp(&(&b.pod, b.direction, b.reason)));
    rows
}
