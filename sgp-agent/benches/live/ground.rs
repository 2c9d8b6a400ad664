//! Pods, their node, and what is outside, with veths between: `pod - node - outside`, once by the pod's branch and once by
//! the node's primary interface.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use sgp_agent::domain::routing::{PodRoute, RoutingRule, Way};
use sgp_agent::domain::wiring::{LOCAL_PRIORITY, Mode, POD_ROUTER_V4, Wired, branch_interface, mac_text};

use crate::node::Pod;
use crate::node::wire::{Namespace, ip};
use crate::primary::{NODE, NODE_MAC};

/// The router of the subnet, which is what is outside.
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// Network of the VPC.
pub(crate) const VPC: &str = "10.200.0.0/16";
/// The node's primary interface.
pub(crate) const PRIMARY: &str = "eth0";
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0x0c, 1];
/// All that answers outside.
const ANSWERING: [&str; 3] = ["10.200.64.0/18", "10.200.128.0/17", "198.18.0.0/15"];

/// Pods open thousands of connections to one port, no connection is to learn from the one before, and none to wait for a clock,
/// as BBR does.
const SOCKETS: [(&str, &str); 4] = [
    ("ip_local_port_range", "1024 65535"),
    ("tcp_tw_reuse", "1"),
    ("tcp_no_metrics_save", "1"),
    ("tcp_congestion_control", "reno"),
];

/// Which ways the node knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// The table `main` only: the least that forwarding takes.
    Main,
    /// As pods of this mode are wired.
    Of(Mode),
}

/// See the module. All of it goes with this.
pub(crate) struct Ground {
    pub(crate) pods: Vec<Seat>,
    pub(crate) outside: Namespace,
}

/// A pod's end of the wires.
pub(crate) struct Seat {
    pub(crate) pod: Pod,
    pub(crate) space: Namespace,
    number: u16,
}

impl Seat {
    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 9, self.number as u8)
    }

    /// MAC address of its host veth.
    pub(crate) fn host_mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0x0a, self.number as u8]
    }

    fn branch_mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0x0b, self.number as u8]
    }

    /// Name of its host veth.
    pub(crate) fn host(&self) -> String {
        format!("host{}", self.number)
    }

    /// Name of its branch.
    pub(crate) fn branch(&self) -> String {
        branch_interface(self.number)
    }

    /// Name of the branch's other end, outside.
    pub(crate) fn beyond(&self) -> String {
        format!("vpc{}", self.number)
    }

    /// MAC addresses (destination, source) of a frame that it sends.
    pub(crate) fn sent(&self) -> [[u8; 6]; 2] {
        [self.host_mac(), self.pod.mac]
    }

    /// Likewise of one that comes to its branch.
    pub(crate) fn delivered(&self) -> [[u8; 6]; 2] {
        [self.branch_mac(), ROUTER_MAC]
    }
}

/// Likewise of one that comes to the primary interface.
pub(crate) fn returned() -> [[u8; 6]; 2] {
    [NODE_MAC, ROUTER_MAC]
}

/// Lays the wires of this many pods; the node is the namespace in which this is called.
pub(crate) fn lay(ways: Ways, pods: u16) -> Result<Ground> {
    set("ip_forward", "1")?;
    // What is measured is forwarding, and answers of plain forwarding come back by another way than they went.
    ["all", "default"].iter().try_for_each(|of| set(&format!("conf/{of}/rp_filter"), "0"))?;
    let outside = Namespace::new("outside");
    outside.inside(|| ["all", "default"].iter().try_for_each(|of| set(&format!("conf/{of}/rp_filter"), "0")))?;
    lay_primary(&outside);
    if ways == Ways::Of(Mode::Strict) {
        ip(&format!("rule add priority {LOCAL_PRIORITY} lookup local"));
        ip("rule delete priority 0");
    }
    let pods = (1..=pods).map(|number| lay_pod(number, ways, &outside)).collect::<Result<_>>()?;
    Ok(Ground { pods, outside })
}

fn set(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| format!("setting {name}"))
}

fn lay_primary(outside: &Namespace) {
    let (node, mac, router_mac) = (Ipv4Addr::from(NODE), mac_text(&NODE_MAC), mac_text(&ROUTER_MAC));
    ip("link set lo up");
    ip(&format!(
        "link add {PRIMARY} address {mac} type veth peer name inet0 address {router_mac} netns {}",
        outside.name
    ));
    ip(&format!("address add {node}/24 dev {PRIMARY}"));
    ip(&format!("link set {PRIMARY} up"));
    ip(&format!("neigh add {ROUTER} lladdr {router_mac} dev {PRIMARY} nud permanent"));
    ip(&format!("route add default via {ROUTER} dev {PRIMARY}"));
    ["link set lo up", "link set inet0 up"].iter().for_each(|words| outside.ip(words));
    ANSWERING.iter().for_each(|net| outside.ip(&format!("route add local {net} dev lo")));
    outside.ip(&format!("route add {node}/32 dev inet0"));
    outside.ip(&format!("neigh add {node} lladdr {mac} dev inet0 nud permanent"));
}

fn lay_pod(number: u16, ways: Ways, outside: &Namespace) -> Result<Seat> {
    let mut seat = Seat { pod: Pod::on(number, 0, 0), space: Namespace::new("pod"), number };
    let (host, branch, beyond, own) = (seat.host(), seat.branch(), seat.beyond(), seat.address());
    let [host_mac, mac, branch_mac, router_mac] =
        [seat.host_mac(), seat.pod.mac, seat.branch_mac(), ROUTER_MAC].map(|mac| mac_text(&mac));
    let space = &seat.space;
    ip(&format!("link add {host} address {host_mac} type veth peer name eth0 address {mac} netns {}", space.name));
    ip(&format!(
        "link add {branch} address {branch_mac} type veth peer name {beyond} address {router_mac} netns {}",
        outside.name
    ));
    [&host, &branch].iter().for_each(|name| ip(&format!("link set {name} up")));
    // Everybody is told everybody's MAC address: what is measured is not how they would ask.
    ip(&format!("neigh add {own} lladdr {mac} dev {host} nud permanent"));
    ip(&format!("neigh add {ROUTER} lladdr {router_mac} dev {branch} nud permanent"));
    route(ways, &seat);
    outside.ip(&format!("link set {beyond} up"));
    outside.ip(&format!("route add {own}/32 dev {beyond}"));
    outside.ip(&format!("neigh add {own} lladdr {branch_mac} dev {beyond} nud permanent"));
    space.ip("link set eth0 up");
    space.ip(&format!("address add {own}/32 dev eth0"));
    space.ip(&format!("neigh add {POD_ROUTER_V4} lladdr {host_mac} dev eth0 nud permanent"));
    space.ip(&format!("route add default via {POD_ROUTER_V4} dev eth0 onlink"));
    space.inside(|| SOCKETS.iter().try_for_each(|(name, value)| set(name, value)))?;
    let index = |name: &str| if_nametoindex(name).with_context(|| format!("interface {name}"));
    seat.pod = Pod::on(number, index(&host)?, index(&branch)?);
    Ok(seat)
}

/// How the node finds from and to a pod.
fn route(ways: Ways, seat: &Seat) {
    let (host, branch, own) = (seat.host(), seat.branch(), seat.address());
    let Ways::Of(mode) = ways else {
        ip(&format!("route add {own}/32 dev {host}"));
        return ip(&format!("route add {VPC} via {ROUTER} dev {branch} onlink"));
    };
    let router = IpAddr::from(ROUTER);
    let wired = Wired { mode, host: &host, vlan_id: seat.number, address: own.into(), router };
    wired.rules().iter().for_each(add_rule);
    wired.closing_route().iter().chain(&wired.routes()).for_each(|route| add_route(route, seat));
}

/// The rule as `ip rule` says it begins with its priority.
fn add_rule(rule: &RoutingRule) {
    let said = rule.to_string();
    let (priority, rest) = said.split_once(": ").unwrap_or(("", &said));
    ip(&format!("rule add priority {priority} {rest}"));
}

fn add_route(route: &PodRoute, seat: &Seat) {
    let PodRoute { to, way, table } = route;
    let (host, branch) = (seat.host(), seat.branch());
    match way {
        Way::Pod => ip(&format!("route add {to} dev {host} table {table}")),
        Way::Branch => ip(&format!("route add {to} dev {branch} table {table}")),
        Way::Router(router) => ip(&format!("route add {to} via {router} dev {branch} onlink table {table}")),
        Way::Closed => ip(&format!("route add unreachable {to} metric {} table {table}", u32::MAX)),
    }
}
