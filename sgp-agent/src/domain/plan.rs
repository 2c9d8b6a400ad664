//! Plan: the ordered steps from what is installed to what is desired.

use sgp_common::Addr;

use super::desired::{EndpointPlan, Policy};
use super::groups::{EndpointId, GroupSetId};
use super::installed::Link;

/// One change of the kernel's state. Steps are idempotent, and safe to stop after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Forget a peer that left, before its address can be a stranger's.
    RemovePeer(Addr),
    /// Build the trie and swap it in; its rule names first.
    PutPolicy(GroupSetId, Box<Policy>),
    /// Publish a peer's group set.
    PutPeer(Addr, GroupSetId),
    /// Write an endpoint, its names and its local addresses.
    PutEndpoint(EndpointId, Box<EndpointPlan>),
    /// Say that an interface is a side of an endpoint.
    PutInterface(u32, sgp_common::endpoint::Interface),
    /// Attach a program and pin the link.
    Attach(Link),
    /// Remove a link's pin, and with it the link.
    Detach(Link),
    /// Forget an interface.
    RemoveInterface(u32),
    /// Forget an endpoint, its names, local addresses, flows and counters.
    RemoveEndpoint(EndpointId),
    /// Forget a policy no endpoint uses.
    RemovePolicy(GroupSetId),
}
