//! Facts about the Node itself, and where its interfaces are made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use super::groups::GroupSet;

/// A Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its internal addresses; a node of an IPv6 cluster has only IPv6 ones.
    pub addresses: Vec<IpAddr>,
    /// Capacity `vpc.amazonaws.com/pod-eni`, if it says any.
    pub branch_capacity: Option<String>,
}

/// What is known of this node's CNINode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CniNodeFacts {
    /// The cluster does not have the kind.
    #[default]
    NoSuchKind,
    /// The kind is there, this node's object is not.
    Missing,
    /// It is there.
    There(CniNode),
}

/// A CNINode (facts 1.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniNode {
    /// Features by name: their values.
    pub features: BTreeMap<String, String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// An ENIConfig: where custom networking puts interfaces (facts 1.8).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EniConfig {
    /// `subnet-…`
    pub subnet_id: String,
    /// Groups; empty means those of the primary interface.
    pub groups: GroupSet,
}

/// What to describe beside the node's own things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Which interfaces.
    pub scope: Scope,
    /// `sg-…` beside those that interfaces carry.
    pub groups: BTreeSet<String>,
    /// `subnet-…` beside the instance's own.
    pub subnets: BTreeSet<String>,
}

/// A subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// `subnet-…`
    pub id: String,
    /// IPv4 CIDR.
    pub cidr: Option<Ipv4Net>,
    /// First associated IPv6 CIDR, if it has one.
    pub v6_cidr: Option<Ipv6Net>,
    /// Free IPv4 addresses, where EC2 says.
    pub free_addresses: Option<u32>,
}

/// Of which interfaces EC2 is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Of the whole VPC: nobody else says who is a member of what.
    #[default]
    Vpc,
    /// Of the node: the controller publishes the rest.
    Node,
}

/// A link in the node's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// IFLA_IFALIAS; the CNI plugin writes `sgp eni=<eni> uid=<pod uid> mac=<pod's MAC>` on host veths.
    pub alias: Option<String>,
    /// IFLA_MTU, bytes.
    pub mtu: u32,
    /// Whether packets to it are queued or shaped: its qdisc is another than `noqueue`.
    pub queued: Queued,
    /// If it is a VLAN of another link: which.
    pub vlan: Option<Vlan>,
    /// Id of an XDP program on it that is not ours.
    pub others_xdp: Option<u32>,
}

/// A VLAN of a link in this namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Index of the link whose VLAN it is.
    pub parent: u32,
    /// VLAN id.
    pub id: u16,
}

/// Whether somebody has a queue on an interface that has none by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queued {
    /// No.
    #[default]
    No,
    /// Yes: a limit on a pod's bandwidth, for example.
    Yes,
}
