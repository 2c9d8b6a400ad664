//! Installed: what the kernel holds, read back and not remembered.

use std::collections::{BTreeMap, BTreeSet};

use sgp_common::Addr;
use sgp_common::endpoint::{Endpoint, EndpointName, Interface};
use sgp_common::snat::Node;

use super::groups::{EndpointId, GroupSetId};
use super::membership::Peers;
use super::prefix::Prefix;

/// What was found under the pins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Digest of each installed policy.
    pub policies: BTreeMap<GroupSetId, u64>,
    /// `REVISIONS`.
    pub revisions: BTreeMap<GroupSetId, u64>,
    /// `PEERS`, the one table that may be large: as it was read last, with what was written since.
    pub peers: Peers,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// `ENDPOINT_NAMES`.
    pub names: BTreeMap<EndpointId, EndpointName>,
    /// `INTERFACES`, by interface index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// `LOCAL`.
    pub local: BTreeMap<Addr, EndpointId>,
    /// `NODE`, once it was told.
    pub node: Option<Node>,
    /// `VLANS`, as far as anything is told.
    pub vlans: BTreeMap<u16, u32>,
    /// `SNAT_EXCLUDED`.
    pub excluded: BTreeSet<Prefix>,
    /// `STACK_NETS`.
    pub stack_nets: BTreeSet<Prefix>,
    /// Live links.
    pub links: BTreeSet<Link>,
    /// Layout of an older data path whose programs still judge; its links are among `links`.
    pub predecessor: Option<u32>,
}

impl Installed {
    /// Whether a program is on an interface, whatever the interface was called when it was attached.
    pub fn has(&self, wanted: &Link) -> bool {
        self.links.iter().any(|link| link.ifindex == wanted.ifindex && link.program == wanted.program)
    }
}

/// A program attached to an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Interface name, as in the pin.
    pub interface: String,
    /// Index of the interface the link is attached to; 0 where the interface is gone and the link is dead.
    pub ifindex: u32,
    /// Program, of `sgp_common::pins::program`.
    pub program: &'static str,
}
