//! Names the host veths of pods that somebody else wired, so that the loop takes them for endpoints. Nothing else
//! of their wiring is touched.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result};
use sgp_common::addr::Family;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::domain::adoption::{Found, found};
use crate::domain::observed::Observed;
use crate::io::netlink::Netlink;
use crate::reconcile::Status;

/// Looks after every round of the loop, for as long as there are rounds. `prefix` is that of standard-mode veths.
pub async fn adopt(netlink: Netlink, prefix: String, mut status: watch::Receiver<Status>) {
    while status.changed().await.is_ok() {
        let observed = status.borrow_and_update().observed.clone();
        if let Err(error) = round(&netlink, &prefix, &observed).await {
            warn!(error = format!("{error:#}"), "pods wired by others cannot be looked for");
        }
    }
}

async fn round(netlink: &Netlink, prefix: &str, observed: &Observed) -> Result<()> {
    let mut routes: BTreeSet<(IpAddr, u32)> = BTreeSet::new();
    for family in [Family::V4, Family::V6] {
        routes.extend(netlink.host_routes(family).await?.into_iter().map(|route| (route.to, route.device)));
    }
    for host in found(observed, prefix, &routes) {
        match name(netlink, &host).await {
            Ok(()) => {
                info!(interface = host.host, branch = host.interface_id, "adopted a pod that somebody else wired")
            }
            Err(error) => warn!(interface = host.host, error = format!("{error:#}"), "a pod cannot be adopted"),
        }
    }
    Ok(())
}

async fn name(netlink: &Netlink, host: &Found) -> Result<()> {
    let mac = netlink.peer_mac(host.index).await?.context("it is no veth whose other end can be seen")?;
    netlink.set(host.index, |link| link.alias(host.alias(mac).write())).await
}
