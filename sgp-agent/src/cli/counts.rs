//! `drops`: what was dropped, by pod, direction and reason, since the pod came.

use anyhow::Result;
use serde::Serialize;
use sgp_common::DropReason;
use sgp_common::event::Counter;

use super::view::Target;
use crate::domain::groups::EndpointId;
use crate::io::telemetry::direction;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    pod: String,
    direction: &'static str,
    reason: &'static str,
    packets: u64,
    bytes: u64,
}

pub(super) fn print(target: &Target) -> Result<()> {
    let maps = target.view.maps()?;
    let only = target.pod.as_deref().map(|pod| maps.endpoint_of(pod)).transpose()?;
    let mut rows = Vec::new();
    for (key, values) in maps.counters.iter().flatten() {
        let id = EndpointId(key.endpoint);
        let Some(reason) = DropReason::from_code(key.reason) else { continue };
        if only.is_some_and(|only| only != id) {
            continue;
        }
        let total = values.iter().fold(Counter::default(), |sum, one| Counter {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
        });
        let pod = if key.endpoint == 0 { "(no endpoint)".to_owned() } else { maps.pod_name(id) };
        let direction = direction(key.direction);
        rows.push(Row { pod, direction, reason: reason.name(), packets: total.packets, bytes: total.bytes });
    }
    rows.sort_by(|a, b| (&a.pod, a.direction, a.reason).cmp(&(&b.pod, b.direction, b.reason)));
    target.view.rows(&["POD", "DIRECTION", "REASON", "PACKETS", "BYTES"], &rows, |row| {
        let (direction, reason) = (row.direction.to_owned(), row.reason.to_owned());
        vec![row.pod.clone(), direction, reason, row.packets.to_string(), row.bytes.to_string()]
    })
}
