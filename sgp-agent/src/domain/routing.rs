//! Routing rules and routes, as plain data.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sgp_common::addr::Family;

use super::wiring::{LOCAL, MAIN};

/// A routing rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingRule {
    /// Rules of the one family never see packets of the other.
    #[serde(with = "FamilyName")]
    pub family: Family,
    /// Lower ones are asked first.
    pub priority: u32,
    /// The packets it applies to.
    pub packets: Packets,
    /// The table that is asked; `None` leads nowhere: the packet is unreachable.
    pub table: Option<u32>,
}

/// How a family is written down.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Family")]
enum FamilyName {
    V4,
    V6,
}

/// The packets a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Packets {
    /// Each one.
    All,
    /// From this address.
    From(IpAddr),
    /// ICMPv6 from this address.
    Icmpv6From(Ipv6Addr),
    /// To these addresses.
    To(IpNet),
    /// Those that came by this interface.
    CameBy(String),
    /// Those with all of these bits of the mark set.
    Marked(u32),
}

impl fmt::Display for RoutingRule {
    /// As `ip rule` says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.priority)?;
        match &self.packets {
            Packets::All => write!(f, "from all"),
            Packets::From(address) => write!(f, "from {address}"),
            Packets::Icmpv6From(address) => write!(f, "from {address} ipproto ipv6-icmp"),
            Packets::To(net) => write!(f, "from all to {net}"),
            Packets::CameBy(name) => write!(f, "from all iif {name}"),
            Packets::Marked(mark) => write!(f, "from all fwmark {mark:#x}/{mark:#x}"),
        }?;
        match self.table {
            None => write!(f, " unreachable"),
            Some(MAIN) => write!(f, " lookup main"),
            Some(LOCAL) => write!(f, " lookup local"),
            Some(table) => write!(f, " lookup {table}"),
        }
    }
}

/// A route of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRoute {
    /// Destination.
    pub to: IpNet,
    /// Its way.
    pub way: Way,
    /// Table.
    pub table: u32,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the pod, by its host veth.
    Pod,
    /// Onto the branch.
    Branch,
    /// To the router behind the branch.
    Router(IpAddr),
    /// Nowhere, if no other route to the same destination is left.
    Closed,
}
