//! Names the host veths of pods that somebody else wired, so that the loop takes them for endpoints, and keeps them to their branches
//! where aws-node would send them past. Nothing of their wiring is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sgp_common::addr::Family;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::domain::adoption::{Found, found};
use crate::domain::observed::Observed;
use crate::domain::own_way;
use crate::domain::routing::RoutingRule;
use crate::io::netlink::Netlink;
use crate::reconcile::{Status, next_round};

/// Looks after every round of the loop, and again soon where that failed, for as long as there are rounds. `prefix` is that of standard-mode veths.
pub async fn adopt(netlink: Netlink, prefix: String, mut status: watch::Receiver<Status>) {
    let (mut left, mut failed) = (BTreeMap::new(), false);
    while next_round(&mut status, failed).await {
        let observed = status.borrow_and_update().observed.clone();
        let named = round(&netlink, &prefix, &observed).await;
        if let Err(error) = &named {
            warn!(error = format!("{error:#}"), "pods wired by others cannot be looked for");
        }
        let kept = keep_to_branches(&netlink, &observed, &mut left).await;
        if let Err(error) = &kept {
            warn!(error = format!("{error:#}"), "pods wired by others cannot be kept to their branches");
        }
        failed = named.is_err() || kept.is_err();
    }
}

/// Puts rules that keep pods to their branches where aws-node translates, and takes away those of pods that are gone. `left` has since
/// when each was seen to be left.
async fn keep_to_branches(
    netlink: &Netlink,
    observed: &Observed,
    left: &mut BTreeMap<RoutingRule, Instant>,
) -> Result<()> {
    let standing = netlink.rules(Family::V4).await?;
    for rule in own_way::missing(observed, &standing) {
        netlink.add_rule(&rule).await?;
        info!(%rule, "keeps a pod that somebody else wired to its branch");
    }
    let now_left = own_way::left(&standing);
    left.retain(|rule, _| now_left.contains(rule));
    for rule in now_left {
        if left.entry(rule.clone()).or_insert_with(Instant::now).elapsed() >= SURELY_LEFT {
            netlink.delete_rule(&rule).await?;
            info!(%rule, "took away what kept a pod to its branch that is gone");
        }
    }
    Ok(())
}

/// Our own plugin makes and takes a pod's rules within moments.
const SURELY_LEFT: Duration = Duration::from_secs(10);

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
