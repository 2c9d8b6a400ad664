//! Puts back the routes that a pod's interfaces lost while one of them was down.

use anyhow::Result;
use sgp_common::addr::Family;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::domain::observed::Observed;
use crate::domain::restoring::{Lost, lost};
use crate::domain::routing::Way;
use crate::io::netlink::{Netlink, Route};
use crate::reconcile::{Status, next_round};

/// Looks after every round of the loop, which comes with every change of a link, and again soon where that failed, for as long as there are rounds. `prefix`
/// is that of standard-mode veths.
pub(crate) async fn restore(netlink: Netlink, prefix: String, family: Family, mut status: watch::Receiver<Status>) {
    let mut failed = false;
    while next_round(&mut status, failed).await {
        let observed = status.borrow_and_update().observed.clone();
        let restored = round(&netlink, &prefix, family, &observed).await;
        failed = restored.is_err();
        if let Err(error) = restored {
            warn!(error = format!("{error:#}"), "routes of pods cannot be put back");
        }
    }
}

async fn round(netlink: &Netlink, prefix: &str, family: Family, observed: &Observed) -> Result<()> {
    let standing = netlink.device_routes(family).await?;
    for missing in lost(observed, prefix, family, &standing) {
        // While it is down the kernel takes none, and its pod is not to be reached.
        if netlink.is_up(missing.device).await? {
            netlink.put_route(&placed(&missing)).await?;
            info!(interface = missing.host, to = %missing.route.to, "put a route back that its interface had lost");
        }
    }
    Ok(())
}

fn placed(missing: &Lost) -> Route {
    let via = if let Way::Router(router) = missing.route.way { Some(router) } else { None };
    Route { to: missing.route.to, via, device: Some(missing.device), table: missing.route.table }
}
