//! Real interfaces between pods, their node and a server outside the VPC.

use std::fs;

use nix::net::if_::if_nametoindex;

use crate::leaving::{NODE, NODE_MAC, OUTSIDE};
use crate::node::Pod;
use crate::node::wire::{Namespace, ip};

/// How many pods.
pub(crate) const PODS: u16 = 4;
const ROUTER: &str = "10.200.0.1";
const ROUTER_MAC: &str = "02:00:00:00:0c:01";

/// Pods, and a server outside; the node between them is the namespace this was made in.
pub(crate) struct Net {
    pub(crate) pods: Vec<Namespace>,
    pub(crate) outside: Namespace,
}

/// Everybody is told everybody's MAC address: what is tested is not how they would ask.
pub(crate) fn lay() -> (Net, Vec<Pod>) {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("root may set this");
    ip("link set lo up");
    let outside = Namespace::new("outside");
    ip(&format!(
        "link add primary0 address {NODE_MAC} type veth peer name inet0 address {ROUTER_MAC} netns {}",
        outside.name
    ));
    ip(&format!("address add {NODE}/32 dev primary0"));
    ip("link set primary0 up");
    ip(&format!("neigh add {ROUTER} lladdr {ROUTER_MAC} dev primary0 nud permanent"));
    ["link set lo up", "link set inet0 up"].iter().for_each(|words| outside.ip(words));
    outside.ip(&format!("address add {OUTSIDE}/32 dev lo"));
    outside.ip(&format!("route add {NODE}/32 dev inet0 src {OUTSIDE}"));
    outside.ip(&format!("neigh add {NODE} lladdr {NODE_MAC} dev inet0 nud permanent"));
    let (pods, wired) = (1..=PODS).map(|number| lay_pod(number, &outside)).unzip();
    (Net { pods, outside }, wired)
}

fn lay_pod(number: u16, outside: &Namespace) -> (Namespace, Pod) {
    let space = Namespace::new(&format!("pod{number}"));
    let (host, branch) = (format!("host{number}"), format!("vlan.eth.{number}"));
    let (mac, host_mac, own) =
        (format!("02:00:00:00:09:0{number}"), format!("02:00:00:00:0a:0{number}"), format!("10.9.9.{number}"));
    ip(&format!("link add {host} address {host_mac} type veth peer name eth0 address {mac} netns {}", space.name));
    ip(&format!("link add {branch} type veth peer name vpc{number} netns {}", outside.name));
    ip(&format!("link set {host} up"));
    ip(&format!("link set {branch} up"));
    outside.ip(&format!("link set vpc{number} up"));
    ip(&format!("route add {own}/32 dev {host}"));
    ip(&format!("neigh add {own} lladdr {mac} dev {host} nud permanent"));
    ip(&format!("rule add from {own} priority 1536 table {}", 100 + number));
    ip(&format!("neigh add {ROUTER} lladdr {ROUTER_MAC} dev {branch} nud permanent"));
    ip(&format!("route add default via {ROUTER} dev {branch} onlink table {}", 100 + number));
    space.ip("link set eth0 up");
    space.ip(&format!("address add {own}/32 dev eth0"));
    space.ip(&format!("neigh add 169.254.1.1 lladdr {host_mac} dev eth0 nud permanent"));
    space.ip("route add default via 169.254.1.1 dev eth0 onlink");
    let index = |name: &str| if_nametoindex(name).expect("the link is there");
    let pod = Pod::on(number, index(&host), index(&branch));
    (space, pod)
}
