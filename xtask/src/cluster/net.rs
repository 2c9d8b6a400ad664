//! The VPC: a router, an internet host, and nodes, each a network namespace. Nothing here filters.

use std::process::Command;

use anyhow::Result;

use crate::place::{Cloud, Family, INTERNET, INTERNET_V6, Place, ROUTER_V6};
use crate::process::{finish, within};

/// Makes all namespaces and links of a cluster.
pub(crate) fn make(place: &Place) -> Result<()> {
    for what in namespaces(place) {
        let name = place.netns(&what);
        finish(Command::new("ip").args(["netns", "add", &name]))?;
        finish(within(&name, "sysctl").args([
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
        ]))?;
        finish(within(&name, "ip").args(["link", "set", "lo", "up"]))?;
    }
    let router = place.netns("router");
    finish(within(&router, "sysctl").arg("-eqw").args(router_sysctls(place.family)))?;
    for subnet in [0, 1] {
        ip(&router, &format!("addr add {}/32 dev lo", place.address(subnet, 1)))?;
    }
    control_plane(place)?;
    internet(place)?;
    (1..=place.nodes).try_for_each(|node| make_node(place, node))?;
    if place.family == Family::V6 { ipv6(place) } else { Ok(()) }
}

/// What the links of an IPv4 VPC would say of themselves in IPv6 is noise to the pods' counters.
fn router_sysctls(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"],
        Family::V6 => ["net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_dad=0"],
    }
}

/// IPv6 beside what is there: one router that answers under the same address on every link, and routes to
/// everything but branches, which join by themselves.
fn ipv6(place: &Place) -> Result<()> {
    let router = place.netns("router");
    let links = finish(within(&router, "ip").args(["-o", "link", "show", "type", "veth"]))?;
    let links = links.lines().filter_map(|line| line.split([' ', '@']).nth(1));
    batch(place, "router", links.map(|link| format!("addr add {ROUTER_V6}/64 dev {link} nodad\n")).collect())?;
    let hosts = [("cp", "cp", place.address_v6(250, 10)), ("inet", "inet", INTERNET_V6.to_owned())];
    let nodes = (1..=place.nodes).map(|node| (format!("n{node}"), format!("n{node}p"), place.node_address_v6(node)));
    let hosts = hosts.into_iter().map(|(space, link, address)| (space.to_owned(), link.to_owned(), address));
    for (space, link, address) in hosts.chain(nodes) {
        let here = place.netns(&space);
        ip(&here, &format!("addr add {address}/128 dev eth0 nodad"))?;
        ip(&here, &format!("-6 route add default via {ROUTER_V6} dev eth0"))?;
        ip(&router, &format!("-6 route add {address}/128 dev {link}"))?;
    }
    for node in 1..=place.nodes {
        let (pods, via) = (place.address_v6(100 + node, 0), place.node_address_v6(node));
        ip(&router, &format!("-6 route add {pods}/64 via {via} dev n{node}p onlink"))?;
    }
    Ok(())
}

/// Every namespace of a cluster but those of pods.
fn namespaces(place: &Place) -> Vec<String> {
    ["router", "cp", "inet"].into_iter().map(str::to_owned).chain(place.node_names()).collect()
}

/// Runs `ip` in a namespace, on words separated by blanks.
fn ip(netns: &str, words: &str) -> Result<()> {
    finish(within(netns, "ip").args(words.split(' '))).map(drop)
}

/// A veth from the router to `inner` in another namespace.
fn cable(place: &Place, outer: &str, what: &str, inner: &str) -> Result<()> {
    let (router, other) = (place.netns("router"), place.netns(what));
    ip(&router, &format!("link add {outer} type veth peer name {inner} netns {other}"))?;
    ip(&router, &format!("link set {outer} up"))
}

fn control_plane(place: &Place) -> Result<()> {
    let (router, here) = (place.netns("router"), place.netns("cp"));
    cable(place, "cp", "cp", "eth0")?;
    ip(&router, &format!("addr add {}/24 dev cp", place.address(250, 1)))?;
    ip(&here, &format!("addr add {}/24 dev eth0", place.control_plane()))?;
    ip(&here, "link set eth0 up")?;
    ip(&here, &format!("route add default via {}", place.address(250, 1)))?;
    // For kubectl and aws on this machine, outside the cluster's own namespaces.
    let outside = format!("sgpdev{}", place.index);
    let root = |words: String| finish(Command::new("ip").args(words.split(' '))).map(drop);
    root(format!("link add {outside} type veth peer name host netns {here}"))?;
    root(format!("addr add {}/24 dev {outside}", place.address(251, 1)))?;
    root(format!("link set {outside} up"))?;
    ip(&here, &format!("addr add {}/24 dev host", place.address(251, 2)))?;
    ip(&here, "link set host up")?;
    root(format!("route add {}/32 via {}", place.control_plane(), place.address(251, 2)))
}

fn internet(place: &Place) -> Result<()> {
    let (router, here) = (place.netns("router"), place.netns("inet"));
    cable(place, "inet", "inet", "eth0")?;
    ip(&here, &format!("addr add {INTERNET}/32 dev eth0"))?;
    ip(&here, "link set eth0 up")?;
    ip(&here, "route add default dev eth0")?;
    ip(&router, &format!("route add {INTERNET}/32 dev inet"))?;
    finish(within(&router, "sysctl").args([
        "-qw",
        "net.ipv4.conf.inet.proxy_arp=1",
        "net.ipv4.neigh.inet.proxy_delay=0",
    ]))
    .map(drop)
}

/// The primary interface, the addresses of the node's ordinary pods, and a link for each possible branch.
fn make_node(place: &Place, node: u8) -> Result<()> {
    let (router, name) = (place.netns("router"), format!("n{node}"));
    let (here, address) = (place.netns(&name), place.node_address(node));
    cable(place, &format!("{name}p"), &name, "eth0")?;
    ip(&here, &format!("addr add {address}/32 dev eth0"))?;
    ip(&here, "link set eth0 up")?;
    ip(&here, &format!("route add default via {} dev eth0 onlink", place.address(Place::subnet_of(node), 1)))?;
    ip(&router, &format!("route add {address}/32 dev {name}p"))?;
    ip(&router, &format!("route add {}/24 via {address} dev {name}p onlink", place.address(100 + node, 0)))?;
    branch_links(place, &name)
}

/// Primary interfaces get the MAC addresses that EC2 gave them: by these they are known.
pub(crate) fn name_primaries(place: &Place, cloud: &Cloud) -> Result<()> {
    cloud
        .instances
        .iter()
        .try_for_each(|(name, instance)| ip(&place.netns(name), &format!("link set eth0 address {}", instance.mac)))
}

/// One batch: dozens of commands would take seconds.
fn branch_links(place: &Place, name: &str) -> Result<()> {
    let here = place.netns(name);
    let line = |vlan: u16| {
        format!("link add {name}b{vlan} type veth peer name vlan.eth.{vlan} netns {here}\nlink set {name}b{vlan} up\n")
    };
    batch(place, name, (1..=place.machine.branches()).map(line).collect())
}

fn batch(place: &Place, name: &str, lines: String) -> Result<()> {
    let path = place.dir().join(format!("{name}.links"));
    std::fs::write(&path, lines)?;
    finish(within(&place.netns("router"), "ip").arg("-batch").arg(&path)).map(drop)
}

/// Takes every namespace and link of a cluster away, pods' included.
pub(crate) fn remove(place: &Place) {
    let begin = format!("sgp-{}-", place.name);
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&begin))
    {
        // What is gone already needs no removing; what stays shows in `ip netns`.
        drop(finish(Command::new("ip").args(["netns", "del", &name])));
    }
    drop(finish(Command::new("ip").args(["link", "del", &format!("sgpdev{}", place.index)])));
}
