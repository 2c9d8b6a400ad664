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
