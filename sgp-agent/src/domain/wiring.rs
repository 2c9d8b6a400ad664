//! Names, numbers, routes and rules of a pod's wiring: those of the VPC CNI (facts 3.1-3.5), so that each can
//! read and take away the other's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sgp_common::addr::Family;
use sha1::{Digest, Sha1};

use super::routing::{Packets, PodRoute, RoutingRule, Way};

/// Rule priority: what comes by a strict pod's host veth or branch is looked up in the branch's own table.
pub const STRICT_PRIORITY: u32 = 10;
/// Rule priority of the table `local` on a node with strict pods: behind theirs.
pub const LOCAL_PRIORITY: u32 = 20;
/// Rule priority: everything to a standard pod's address is looked up in `main`.
pub const TO_POD_PRIORITY: u32 = 512;
/// Rule priority: what answers a NodePort, and what is for an external service, is looked up in `main`: before the pods'
/// own way. Ours, as the next two: on AWS 1024, 1535 and 1536 do it. But where aws-node translates, its chains give the mark
/// of 1024 to whatever a standard pod sends out of the VPC, and that would leave by `main`, past everybody who judges.
pub const BY_NODE_PRIORITY: u32 = 1021;
/// Rule priority: everything from a standard pod's address is looked up in the branch's own table.
pub const OWN_WAY_PRIORITY: u32 = 1022;
/// Rule priority: what comes from a standard pod's address and found no way in the branch's table, because the
/// branch is down, goes nowhere. Without it `main` would send it out by the node's own interface, where nobody
/// judges.
pub const CLOSED_PRIORITY: u32 = 1023;
/// Rule priority: packets with the mark are looked up in `main`.
pub const MARK_PRIORITY: u32 = 1024;
/// Rule priority: everything to an external service is looked up in `main`.
pub const EXTERNAL_PRIORITY: u32 = 1535;
/// Rule priority at which the VPC CNI has the standard pod's own way, and looks for it.
pub const FROM_POD_PRIORITY: u32 = 1536;
/// Metric of the route that does the same in a strict pod's table. A route and not a rule, since it must leave
/// link-local IPv6 alone: by that the node learns where the pod is, and routes that are on another interface
/// do not apply to it.
pub const CLOSED_METRIC: u32 = u32::MAX;
/// The branch's table is its VLAN id and this.
pub const TABLE_BASE: u32 = 100;
/// The routing table `main` (`linux/rtnetlink.h`).
pub const MAIN: u32 = 254;
/// The routing table `local`.
pub const LOCAL: u32 = 255;
/// How a strict pod's host veth begins.
pub const STRICT_PREFIX: &str = "vlan";
/// The pod's router: an address of nobody, with a static neighbour entry.
pub const POD_ROUTER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Likewise for IPv6.
pub const POD_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The VPC's router for IPv6, in every subnet.
pub const VPC_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1);

/// Which ways a pod's packets take (AWS's `POD_SECURITY_GROUP_ENFORCING_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All of them by the branch, even to the pod's own node.
    Strict,
    /// What is on the node stays on the node.
    Standard,
}

impl Mode {
    /// As AWS writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
        }
    }
}

/// A pod of one address, as it is wired to its branch.
#[derive(Clone, Copy, Debug)]
pub struct Wired<'a> {
    /// The layout.
    pub mode: Mode,
    /// Name of the host veth.
    pub host: &'a str,
    /// The branch.
    pub vlan_id: u16,
    /// The pod's address.
    pub address: IpAddr,
    /// The router of the branch's subnet.
    pub router: IpAddr,
}

impl Wired<'_> {
    /// Its rules, in the order in which they are made: first what closes.
    pub fn rules(&self) -> Vec<RoutingRule> {
        let own = Some(table(self.vlan_id));
        let rule = |priority, packets, table| RoutingRule { family: family_of(self.address), priority, packets, table };
        match self.mode {
            Mode::Strict => vec![
                rule(STRICT_PRIORITY, Packets::CameBy(self.host.to_owned()), own),
                rule(STRICT_PRIORITY, Packets::CameBy(branch_interface(self.vlan_id)), own),
            ],
            Mode::Standard => vec![
                rule(CLOSED_PRIORITY, Packets::From(self.address), None),
                rule(TO_POD_PRIORITY, Packets::To(self.address.into()), Some(MAIN)),
                rule(OWN_WAY_PRIORITY, Packets::From(self.address), own),
                rule(FROM_POD_PRIORITY, Packets::From(self.address), own),
            ],
        }
    }

    /// The route that must stand before the pod can send, whatever becomes of its branch.
    pub fn closing_route(&self) -> Option<PodRoute> {
        let route = PodRoute { to: everywhere(self.address), way: Way::Closed, table: table(self.vlan_id) };
        (self.mode == Mode::Strict).then_some(route)
    }

    /// The routes by its interfaces, which must be up; each rests on those before it.
    pub fn routes(&self) -> Vec<PodRoute> {
        let own = table(self.vlan_id);
        let to_pod = if self.mode == Mode::Strict { own } else { MAIN };
        vec![
            PodRoute { to: self.router.into(), way: Way::Branch, table: own },
            PodRoute { to: everywhere(self.address), way: Way::Router(self.router), table: own },
            PodRoute { to: self.address.into(), way: Way::Pod, table: to_pod },
        ]
    }
}

/// The family of an address.
pub fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// All addresses of the family of `address`.
pub fn everywhere(address: IpAddr) -> IpNet {
    if address.is_ipv4() { Ipv4Net::default().into() } else { Ipv6Net::default().into() }
}

/// The first 11 hex digits of SHA-1 over `<namespace>.<pod>`.
pub fn pod_hash(namespace: &str, pod: &str) -> String {
    let hash = Sha1::digest(format!("{namespace}.{pod}").as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..11].to_owned()
}

/// Name of a pod's host veth; `prefix` is that of standard mode.
pub fn host_interface(mode: Mode, prefix: &str, namespace: &str, pod: &str) -> String {
    let prefix = if mode == Mode::Strict { STRICT_PREFIX } else { prefix };
    format!("{prefix}{}", pod_hash(namespace, pod))
}

/// What the name of a branch interface begins with.
pub const BRANCH_PREFIX: &str = "vlan.eth.";

/// Name of a branch interface.
pub fn branch_interface(vlan_id: u16) -> String {
    format!("{BRANCH_PREFIX}{vlan_id}")
}

/// The branch's route table.
pub fn table(vlan_id: u16) -> u32 {
    TABLE_BASE + u32::from(vlan_id)
}

/// The pod's router of the family of `addr`.
pub fn pod_router(addr: IpAddr) -> IpAddr {
    if addr.is_ipv4() { POD_ROUTER_V4.into() } else { POD_ROUTER_V6.into() }
}

/// What the CNI plugin writes on a host veth, so that interfaces describe themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The branch, `eni-…`.
    pub interface_id: String,
    /// Pod UID.
    pub uid: String,
    /// MAC address of the pod's own end.
    pub mac: [u8; 6],
}

impl Alias {
    /// The text of IFLA_IFALIAS.
    pub fn write(&self) -> String {
        format!("sgp eni={} uid={} mac={}", self.interface_id, self.uid, mac_text(&self.mac))
    }

    /// Reads it back; `None` if it is not ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("sgp ")?.split(' ');
        let interface_id = words.next()?.strip_prefix("eni=")?.to_owned();
        let uid = words.next()?.strip_prefix("uid=")?.to_owned();
        let mac = parse_mac(words.next()?.strip_prefix("mac=")?)?;
        Some(Self { interface_id, uid, mac })
    }
}

/// Lower-case colon form.
pub fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Six bytes in colon form.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_vpc_cni() {
        assert_eq!(pod_hash("kube-system", "coredns-57ff979f67-qqbdh"), "b5faff8a083");
        assert_eq!(pod_hash("kube-system", "coredns-57ff979f67-8ns9b"), "9571956a6cc");
        let named = |mode| host_interface(mode, "eni", "default", "sample-pod");
        assert_eq!(
            (named(Mode::Standard).as_str(), named(Mode::Strict).as_str()),
            ("enicc21c2d7785", "vlancc21c2d7785")
        );
        assert_eq!((branch_interface(3).as_str(), table(120)), ("vlan.eth.3", 220));
    }

    #[test]
    fn an_alias_is_read_back_and_a_strangers_is_not_ours() {
        let alias = Alias { interface_id: "eni-1".into(), uid: "u".into(), mac: [2, 0, 0, 0, 0xab, 1] };
        assert_eq!(Alias::parse(&alias.write()), Some(alias));
        assert_eq!(Alias::parse("uplink to rack 4"), None);
        assert_eq!(Alias::parse("sgp eni=eni-1 uid=u mac=zz"), None);
    }

    #[test]
    fn the_way_from_a_pod_is_closed_before_anything_of_it_is_open() {
        for address in ["10.0.1.10", "2001:db8::10"] {
            let address: IpAddr = address.parse().expect("an address");
            let wired = |mode| Wired { mode, host: "h", vlan_id: 1, address, router: address };
            assert_eq!(wired(Mode::Standard).rules()[0].table, None, "the first rule of a standard pod");
            assert_eq!(
                wired(Mode::Strict).closing_route().map(|route| (route.way, route.table)),
                Some((Way::Closed, 101))
            );
        }
    }
}
