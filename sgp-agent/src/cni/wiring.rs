//! Wires a pod to its branch in the layout of its mode (facts 3.2, 3.3), and takes the wiring away.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sgp_common::addr::Family;

use super::config::{BranchLink, Call};
use super::find::{Found, Ours, Uid, find};
use super::{agent, answer, inside};
use crate::domain::observed::LinkFacts;
use crate::domain::routing::{PodRoute, Way};
use crate::domain::wiring::{
    Alias, VPC_ROUTER_V6, Wired, branch_interface, host_interface, parse_mac, pod_hash, table,
};
use crate::io::netlink::{Netlink, Route};
use crate::protocol::{Request, Response, Wiring};

/// How the pod's own end is called until it is moved to the pod.
pub(super) const PASSING: &str = "sgp";

/// The links of a pod while it is wired.
struct Links {
    host: LinkFacts,
    peer: LinkFacts,
    branch: LinkFacts,
}

/// Makes the interfaces, waits until they are enforced, then opens them. A failure takes all of it back.
pub(super) async fn wire(call: &Call, wiring: &Wiring) -> Result<Value> {
    let netlink = Netlink::connect()?;
    let result = wire_with(call, wiring, &netlink).await;
    if result.is_err() {
        // The first error is the one to tell; DEL, which the runtime calls next, tries this again.
        drop(take_back(call).await);
        drop(close(call, &netlink, wiring.vlan_id).await);
    }
    result
}

/// Takes away what stands of any pod of this name.
async fn take_back(call: &Call) -> Result<()> {
    match find(call, Uid::Any).await? {
        Found::Ours(ours) => unwire(call, &ours).await,
        Found::Successors | Found::Nothing => Ok(()),
    }
}

async fn wire_with(call: &Call, wiring: &Wiring, netlink: &Netlink) -> Result<Value> {
    ensure!(!addresses(wiring).is_empty(), "the annotation vpc.amazonaws.com/pod-eni names no address");
    let links = make(call, wiring, netlink).await?;
    enforced(call, wiring, &links)?;
    open(call, wiring, netlink, &links).await?;
    Ok(answer::result(call, wiring, &links.host))
}

/// Addresses of the pod.
pub(super) fn addresses(wiring: &Wiring) -> Vec<IpAddr> {
    wiring.private_ip.map(IpAddr::V4).into_iter().chain(wiring.ipv6_addr.map(IpAddr::V6)).collect()
}

/// Makes both interfaces, down, and names the host veth's endpoint: from here on the agent sees it.
async fn make(call: &Call, wiring: &Wiring, netlink: &Netlink) -> Result<Links> {
    let pod = call.pod.as_ref().context("CNI_ARGS names no pod")?;
    let name = host_interface(wiring.mode, &wiring.veth_prefix, &pod.namespace, &pod.name);
    let passing = format!("{PASSING}{}", pod_hash(&pod.namespace, &pod.name));
    // Of an earlier pod of the same name, whose DEL will find a successor and leave everything alone.
    take_back(call).await?;
    for name in [&name, &passing] {
        netlink.delete(name).await?;
    }
    netlink.add_veth(&name, &passing, wiring.mtu).await?;
    let branch = branch(call, wiring, netlink).await?;
    let host = existing(netlink, &name).await?;
    let peer = existing(netlink, &passing).await?;
    for link in [&host, &branch] {
        quiet(&link.name, wiring.ipv6_addr.is_some())?;
    }
    let alias = Alias { interface_id: wiring.interface_id.clone(), uid: wiring.pod_uid.clone(), mac: peer.mac };
    netlink.set(host.index, |link| link.alias(alias.write())).await?;
    Ok(Links { host, peer, branch })
}

pub(super) async fn existing(netlink: &Netlink, name: &str) -> Result<LinkFacts> {
    netlink.link(name).await?.with_context(|| format!("the link {name} is gone"))
}

async fn branch(call: &Call, wiring: &Wiring, netlink: &Netlink) -> Result<LinkFacts> {
    let name = branch_interface(wiring.vlan_id);
    let mac = parse_mac(&wiring.mac).with_context(|| format!("{:?} is no MAC address", wiring.mac))?;
    if call.config.branch_link == BranchLink::Vlan {
        let trunk_mac = parse_mac(&wiring.trunk_mac).context("the trunk's MAC address cannot be read")?;
        let trunk = netlink.links().await?.into_iter().find(|link| link.mac == trunk_mac);
        let trunk =
            trunk.with_context(|| format!("no link of this node has the trunk's MAC address {}", wiring.trunk_mac))?;
        netlink.delete(&name).await?;
        netlink.add_vlan(&name, trunk.index, wiring.vlan_id, mac).await?;
    }
    let found = netlink.link(&name).await?;
    let found =
        found.with_context(|| format!("there is no link {name}, which \"branchLink\": \"provided\" promises"))?;
    netlink.set(found.index, |link| link.address(mac.to_vec())).await?;
    Ok(LinkFacts { mac, ..found })
}

/// Before a link is up: packets may come in by one interface and be answered by another (rp_filter 2), the
/// host takes no router's word on it (facts 3.2), and where the pod speaks no IPv6, neither does the host: its
/// own multicast reports would be counted as drops of the pod.
fn quiet(link: &str, speaks_ipv6: bool) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
    fs::write(&path, "2").with_context(|| format!("writing {path}"))?;
    let silent = if speaks_ipv6 { "0" } else { "1" };
    for (key, value) in [("disable_ipv6", silent), ("accept_ra", "0"), ("accept_redirects", "1"), ("forwarding", "0")] {
        // A host without IPv6 has no such files (facts: ENOENT ignored).
        drop(fs::write(format!("/proc/sys/net/ipv6/conf/{link}/{key}"), value));
    }
    Ok(())
}

fn enforced(call: &Call, wiring: &Wiring, links: &Links) -> Result<()> {
    let request = Request::Enforce {
        interface_id: wiring.interface_id.clone(),
        host_ifindex: links.host.index,
        branch_ifindex: links.branch.index,
        timeout_seconds: call.config.add_timeout_seconds,
    };
    match agent::ask(&call.config.agent_socket, &request)? {
        Response::Enforced => Ok(()),
        Response::Error { message } => bail!("{message}"),
        other => bail!("the agent answered {other:?}"),
    }
}

/// The pod's side first, so that nothing arrives before it can be answered; and before the host's side is up,
/// the rules by which nothing of the pod can leave by another interface.
async fn open(call: &Call, wiring: &Wiring, netlink: &Netlink, links: &Links) -> Result<()> {
    let namespace =
        fs::File::open(&call.netns).with_context(|| format!("opening the pod's namespace {}", call.netns))?;
    let (fd, name) = (namespace.as_raw_fd(), call.interface.clone());
    netlink.set(links.peer.index, |link| link.setns_by_fd(fd).name(name)).await?;
    inside::set_up(&namespace, call.interface.clone(), addresses(wiring), links.host.mac)?;
    let routers = addresses(wiring).into_iter().map(|address| Ok((address, router(wiring, address)?)));
    let routers: Vec<(IpAddr, IpAddr)> = routers.collect::<Result<_>>()?;
    let wired = routers.iter().map(|(address, router)| Wired {
        mode: wiring.mode,
        host: &links.host.name,
        vlan_id: wiring.vlan_id,
        address: *address,
        router: *router,
    });
    let wired: Vec<Wired<'_>> = wired.collect();
    for pod in &wired {
        if let Some(route) = pod.closing_route() {
            netlink.put_route(&placed(&route, links)).await?;
        }
        for rule in pod.rules() {
            netlink.add_rule(&rule).await?;
        }
    }
    for link in [&links.host, &links.branch] {
        netlink.set(link.index, |link| link.up()).await?;
    }
    for route in wired.iter().flat_map(Wired::routes) {
        netlink.put_route(&placed(&route, links)).await?;
    }
    inside::settled(&namespace, call.interface.clone(), addresses(wiring))?;
    for link in [&links.host, &links.branch] {
        inside::usable(netlink, link.index).await?;
    }
    Ok(())
}

/// A route of the layout, on these links.
fn placed(route: &PodRoute, links: &Links) -> Route {
    let (via, device) = match route.way {
        Way::Pod => (None, Some(links.host.index)),
        Way::Branch => (None, Some(links.branch.index)),
        Way::Router(router) => (Some(router), Some(links.branch.index)),
        Way::Closed => (None, None),
    };
    Route { to: route.to, via, device, table: route.table }
}

/// The router of the branch's subnet.
pub(super) fn router(wiring: &Wiring, address: IpAddr) -> Result<IpAddr> {
    if address.is_ipv6() {
        return Ok(VPC_ROUTER_V6.into());
    }
    let subnet = wiring.subnet_cidr.context("the annotation vpc.amazonaws.com/pod-eni names no subnet")?;
    Ok(Ipv4Addr::from(u32::from(subnet.network()) + 1).into())
}

/// Takes away what stands of a pod: the links first, and last the rules by which the rest is found again
/// should this be cut off. A branch that others use by now stays.
pub(super) async fn unwire(call: &Call, ours: &Ours) -> Result<()> {
    let netlink = Netlink::connect()?;
    for host in &ours.hosts {
        netlink.delete(host).await?;
    }
    for vlan_id in &ours.share.vlan_ids {
        close(call, &netlink, *vlan_id).await?;
    }
    for rule in &ours.share.rules {
        netlink.delete_rule(rule).await?;
    }
    Ok(())
}

/// Most routes of the branch's table go with its link, deleted or down; the closing one does not.
async fn close(call: &Call, netlink: &Netlink, vlan_id: u16) -> Result<()> {
    let name = branch_interface(vlan_id);
    match netlink.link(&name).await? {
        Some(_) if call.config.branch_link == BranchLink::Vlan => netlink.delete(&name).await?,
        Some(link) => netlink.set(link.index, |link| link.down()).await?,
        None => {}
    }
    for family in [Family::V4, Family::V6] {
        netlink.empty_table(family, table(vlan_id)).await?;
    }
    Ok(())
}

/// Everything that ADD made is there.
pub(super) async fn check(call: &Call, ours: &Ours) -> Result<()> {
    ensure!(!ours.hosts.is_empty(), "the host veth of this pod is gone");
    for address in call.addresses() {
        ensure!(ours.routed.contains(&address), "no route leads to {address}");
    }
    ensure!(!ours.share.vlan_ids.is_empty(), "no rule leads from the pod to its branch");
    let netlink = Netlink::connect()?;
    for vlan_id in &ours.share.vlan_ids {
        existing(&netlink, &branch_interface(*vlan_id)).await?;
    }
    Ok(())
}
