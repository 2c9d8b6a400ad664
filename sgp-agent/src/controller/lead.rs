//! Holds the Lease, or waits for it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::Role;
use crate::domain::lease::{Move, Watcher};
use crate::io::kubernetes::Cluster;

/// How long the Lease is held without renewal.
const HELD: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops: another takes over at `HELD`.
const STOPS: Duration = Duration::from_secs(10);
/// Time between two looks, and the longest one may take.
const EVERY: Duration = Duration::from_secs(3);

/// Tells what this replica is, for as long as the process lives.
pub(super) async fn lead(cluster: &Cluster, identity: &str, role: &watch::Sender<Role>) {
    let (begun, mut watcher, mut renewed, mut told) = (Instant::now(), Watcher::default(), None, false);
    loop {
        let asked = Instant::now();
        let look = look(cluster, identity, &mut watcher, begun.elapsed().as_secs());
        match timeout(EVERY, look).await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(Role::Leader) => (renewed, told) = (Some(asked), false),
            Ok(Role::Standby) => (renewed, told) = (None, false),
            Err(reason) if !told => {
                told = true;
                warn!(reason, "the Lease cannot be looked at; trying again");
            }
            Err(_) => {}
        }
        let now = if renewed.is_some_and(|at| at.elapsed() < STOPS) { Role::Leader } else { Role::Standby };
        role.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                info!(role = ?now, identity, "this controller has another role");
            }
            *before = now;
            changed
        });
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(cluster: &Cluster, identity: &str, watcher: &mut Watcher, now_s: u64) -> Result<Role, String> {
    let found = cluster.lease().await.map_err(|error| error.to_string())?;
    if watcher.decide(&found.held, identity, now_s) == Move::Wait {
        return Ok(Role::Standby);
    }
    match cluster.hold(found, identity, HELD.as_secs()).await {
        Ok(()) => Ok(Role::Leader),
        // Somebody else was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Role::Standby),
        Err(error) => Err(error.to_string()),
    }
}

/// Gives the Lease back, if it is held; another takes it in any case once its time is up.
pub(super) async fn give_back(cluster: &Cluster, identity: &str) {
    let give = async {
        match cluster.lease().await {
            Ok(found) if found.held.holder == identity => cluster.hold(found, "", HELD.as_secs()).await,
            other => other.map(drop),
        }
    };
    if let Ok(Err(error)) = timeout(EVERY, give).await {
        warn!(%error, "the Lease could not be given back");
    }
}
