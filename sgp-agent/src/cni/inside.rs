//! The pod's side of its wiring, done in the pod's network namespace.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wiring::existing;
use crate::domain::wiring::{MAIN, everywhere, pod_router};
use crate::io::netlink::{Netlink, Route};

/// How long duplicate address detection may take, and how often to look (facts 3.2).
const DETECTION: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(50));

/// Gives the pod its addresses and its way out.
pub(super) fn set_up(namespace: &fs::File, name: String, addresses: Vec<IpAddr>, host_mac: [u8; 6]) -> Result<()> {
    within(namespace, || inner(name, addresses, host_mac))
}

/// Waits until the pod may use its IPv6 addresses: until nobody is known to have them too.
pub(super) fn settled(namespace: &fs::File, name: String, addresses: Vec<IpAddr>) -> Result<()> {
    if addresses.iter().all(IpAddr::is_ipv4) {
        return Ok(());
    }
    within(namespace, || detected(name))
}

/// Runs on a thread that has joined the namespace: a thread's namespace cannot be given back reliably.
fn within<F>(namespace: &fs::File, work: impl FnOnce() -> F + Send) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .context("joining the pod's namespace")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("starting the async runtime")?.block_on(work())
        });
        thread.join().unwrap_or_else(|_| bail!("the thread in the pod's namespace panicked"))
    })
}

async fn inner(name: String, addresses: Vec<IpAddr>, host_mac: [u8; 6]) -> Result<()> {
    let netlink = Netlink::connect()?;
    let lo = existing(&netlink, "lo").await?;
    let link = existing(&netlink, &name).await?;
    if addresses.iter().any(IpAddr::is_ipv6) {
        for interface in ["lo", &name] {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
            fs::write(&path, "0").with_context(|| format!("writing {path}"))?;
        }
    }
    for index in [lo.index, link.index] {
        netlink.set(index, |link| link.up()).await?;
    }
    for address in addresses {
        let router = pod_router(address);
        netlink.add_address(link.index, address.into()).await?;
        netlink.put_neighbour(link.index, router, host_mac).await?;
        let route = |to, via| Route { to, via, device: Some(link.index), table: MAIN };
        netlink.put_route(&route(router.into(), None)).await?;
        netlink.put_route(&route(everywhere(address), Some(router))).await?;
    }
    Ok(())
}

async fn detected(name: String) -> Result<()> {
    let netlink = Netlink::connect()?;
    let link = existing(&netlink, &name).await?;
    usable(&netlink, link.index).await
}

/// Waits until a link may use its IPv6 addresses. A node's own link cannot ask for a neighbour before.
pub(super) async fn usable(netlink: &Netlink, index: u32) -> Result<()> {
    let (limit, pause) = DETECTION;
    let end = tokio::time::Instant::now() + limit;
    loop {
        let tentative = netlink.tentative_addresses(index).await?;
        let Some(address) = tentative.first() else { return Ok(()) };
        if tokio::time::Instant::now() > end {
            bail!(
                "the address {address} may not be used after {limit:?}: duplicate address detection failed or goes on"
            );
        }
        tokio::time::sleep(pause).await;
    }
}
