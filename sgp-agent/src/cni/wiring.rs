//! Wires a pod to its branch in AWS's standard-mode layout (facts 3.2, 3.3), and takes the wiring away.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use serde_json::Value;

use super::config::{BranchLink, Call};
use super::find::{Found, Ours, Uid, find};
use super::{agent, answer};
use crate::domain::observed::LinkFacts;
use crate::domain::wiring::{
    Alias, CLOSED_PRIORITY, FROM_POD_PRIORITY, TO_POD_PRIORITY, VPC_ROUTER_V6, branch_interface, host_interface,
    parse_mac, pod_hash, pod_router, table,
};
use crate::io::netlink::{End, Netlink, PodRule, Route};
use crate::protocol::{Request, Response, Wiring};

/// The routing table `main` (`linux/rtnetlink.h`).
const MAIN: u32 = 254;

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
        let known = Ours {
            host_interface: host_name(call),
            host_stands: true,
            addresses: addresses(wiring).into_iter().collect(),
            vlan_ids: [wiring.vlan_id].into(),
            ..Ours::default()
        };
        // The first error is the one to tell; DEL, which the runtime calls next, tries this again.
        drop(take_back(call, known).await);
    }
    result
}

/// Takes away what stands of a pod, and what is known of it beside.
async fn take_back(call: &Call, known: Ours) -> Result<()> {
    let Found::Ours(mut ours) = find(call, Uid::Any).await? else { return unwire(call, &known).await };
    ours.addresses.extend(known.addresses);
    ours.vlan_ids.extend(known.vlan_ids);
    unwire(call, &ours).await
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

/// Name of the pod's host veth; of nothing where CNI_ARGS names no pod.
fn host_name(call: &Call) -> String {
    let named = call.pod.as_ref().map(|pod| host_interface(&call.config.veth_prefix, &pod.namespace, &pod.name));
    named.unwrap_or_default()
}

/// Makes both interfaces, down, and names the host veth's endpoint: from here on the agent sees it.
async fn make(call: &Call, wiring: &Wiring, netlink: &Netlink) -> Result<Links> {
    let pod = call.pod.as_ref().context("CNI_ARGS names no pod")?;
    let name = host_name(call);
    let passing = format!("sgp{}", pod_hash(&pod.namespace, &pod.name));
    // Of an earlier pod of the same name, whose DEL will find a successor and leave everything alone.
    take_back(call, Ours::default()).await?;
    netlink.delete(&name).await?;
    netlink.add_veth(&name, &passing, call.config.mtu).await?;
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

async fn existing(netlink: &Netlink, name: &str) -> Result<LinkFacts> {
    netlink.link(name).await?.with_context(|| format!("the link {name} is gone"))
}

async fn branch(call: &Call, wiring: &Wiring, netlink: &Netlink) -> Result<LinkFacts> {
    let name = branch_interface(wiring.vlan_id);
    if call.config.branch_link == BranchLink::Vlan {
        let mac = parse_mac(&wiring.mac).with_context(|| format!("{:?} is no MAC address", wiring.mac))?;
        let trunk_mac = parse_mac(&wiring.trunk_mac).context("the trunk's MAC address cannot be read")?;
        let trunk = netlink.links().await?.into_iter().find(|link| link.mac == trunk_mac);
        let trunk =
            trunk.with_context(|| format!("no link of this node has the trunk's MAC address {}", wiring.trunk_mac))?;
        netlink.delete(&name).await?;
        netlink.add_vlan(&name, trunk.index, wiring.vlan_id, mac).await?;
    }
    let found = netlink.link(&name).await?;
    found.with_context(|| format!("there is no link {name}, which \"branchLink\": \"provided\" promises"))
}

/// Before a link is up: packets may come in by one interface and be answered by another (rp_filter 2), the
/// host takes no router's word on it (facts 3.2), and where the pod speaks no IPv6, neither does the host: its
/// own multicast reports would be counted as drops of the pod.
fn quiet(link: &str, speaks_ipv6: bool) -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("turning on IPv4 forwarding")?;
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

/// The pod's side first, so that nothing arrives before it can be answered.
async fn open(call: &Call, wiring: &Wiring, netlink: &Netlink, links: &Links) -> Result<()> {
    let namespace =
        fs::File::open(&call.netns).with_context(|| format!("opening the pod's namespace {}", call.netns))?;
    let (fd, name) = (namespace.as_raw_fd(), call.interface.clone());
    netlink.set(links.peer.index, |link| link.setns_by_fd(fd).name(name)).await?;
    let (interface, addresses, host_mac) = (call.interface.clone(), addresses(wiring), links.host.mac);
    inside(&namespace, || inner(interface, addresses, host_mac))?;
    for address in self::addresses(wiring) {
        let closed = PodRule { priority: CLOSED_PRIORITY, table: None, end: End::Source, address };
        netlink.add_rule(&closed).await?;
    }
    for link in [&links.host, &links.branch] {
        netlink.set(link.index, |link| link.up()).await?;
    }
    for address in self::addresses(wiring) {
        let router = router(wiring, address)?;
        let number = table(wiring.vlan_id);
        let host = IpNet::from(address);
        netlink.put_route(&Route { to: host, via: None, device: links.host.index, table: MAIN }).await?;
        let branch = links.branch.index;
        netlink.put_route(&Route { to: router.into(), via: None, device: branch, table: number }).await?;
        netlink.put_route(&Route { to: everywhere(address), via: Some(router), device: branch, table: number }).await?;
        let rule = |priority, table, end| PodRule { priority, table, end, address };
        netlink.add_rule(&rule(TO_POD_PRIORITY, Some(MAIN), End::Destination)).await?;
        netlink.add_rule(&rule(FROM_POD_PRIORITY, Some(number), End::Source)).await?;
    }
    Ok(())
}

/// The router of the branch's subnet.
pub(super) fn router(wiring: &Wiring, address: IpAddr) -> Result<IpAddr> {
    if address.is_ipv6() {
        return Ok(VPC_ROUTER_V6.into());
    }
    let subnet = wiring.subnet_cidr.context("the annotation vpc.amazonaws.com/pod-eni names no subnet")?;
    Ok(Ipv4Addr::from(u32::from(subnet.network()) + 1).into())
}

fn everywhere(address: IpAddr) -> IpNet {
    if address.is_ipv4() { IpNet::from(ipnet::Ipv4Net::default()) } else { IpNet::from(ipnet::Ipv6Net::default()) }
}

/// Runs on a thread that has joined the namespace: a thread's namespace cannot be given back reliably.
fn inside<F>(namespace: &fs::File, work: impl FnOnce() -> F + Send) -> Result<()>
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
        netlink.put_route(&Route { to: router.into(), via: None, device: link.index, table: MAIN }).await?;
        netlink
            .put_route(&Route { to: everywhere(address), via: Some(router), device: link.index, table: MAIN })
            .await?;
    }
    Ok(())
}

/// Takes away what stands of a pod: the links first, and last the rules by which the rest is found again
/// should this be cut off. What the pod still sends meets `CLOSED_PRIORITY`.
pub(super) async fn unwire(call: &Call, ours: &Ours) -> Result<()> {
    let netlink = Netlink::connect()?;
    if ours.host_stands {
        netlink.delete(&ours.host_interface).await?;
    }
    for vlan_id in &ours.vlan_ids {
        close(call, &netlink, &branch_interface(*vlan_id)).await?;
    }
    for priority in [TO_POD_PRIORITY, CLOSED_PRIORITY, FROM_POD_PRIORITY] {
        for version in [IpVersion::V4, IpVersion::V6] {
            remove_rules(&netlink, &netlink.rules(version, priority).await?, ours).await?;
        }
    }
    Ok(())
}

async fn remove_rules(netlink: &Netlink, rules: &[RuleMessage], ours: &Ours) -> Result<()> {
    let about = |one: &RuleAttribute| match one {
        RuleAttribute::Source(addr) | RuleAttribute::Destination(addr) => ours.addresses.contains(addr),
        _ => false,
    };
    for rule in rules.iter().filter(|rule| rule.attributes.iter().any(about)) {
        netlink.delete_rule(rule.clone()).await?;
    }
    Ok(())
}

/// Routes of the branch's table go with its link, deleted or down.
async fn close(call: &Call, netlink: &Netlink, name: &str) -> Result<()> {
    if call.config.branch_link == BranchLink::Vlan {
        return netlink.delete(name).await;
    }
    match netlink.link(name).await? {
        Some(link) => netlink.set(link.index, |link| link.down()).await,
        None => Ok(()),
    }
}

/// Everything that ADD made is there.
pub(super) async fn check(call: &Call, ours: &Ours) -> Result<()> {
    ensure!(ours.host_stands, "the host veth {} is gone", ours.host_interface);
    for address in call.addresses() {
        ensure!(ours.routed.contains(&address), "no route leads to {address}");
    }
    ensure!(!ours.vlan_ids.is_empty(), "no rule leads from the pod to its branch");
    let netlink = Netlink::connect()?;
    for vlan_id in &ours.vlan_ids {
        existing(&netlink, &branch_interface(*vlan_id)).await?;
    }
    Ok(())
}
