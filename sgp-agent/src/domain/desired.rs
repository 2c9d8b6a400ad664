//! Desired: what the kernel should hold, computed from what was observed.

use std::collections::BTreeMap;

use sgp_common::Addr;
use sgp_common::endpoint::{Endpoint, EndpointName};
use sgp_common::policy::{RuleKey, RuleName, RuleSet, Selector};

use super::groups::{EndpointId, GroupSetId};

/// What the node should enforce.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Compiled policies by group set.
    pub policies: BTreeMap<GroupSetId, Policy>,
    /// Group set of every known address.
    pub peers: BTreeMap<Addr, GroupSetId>,
    /// Endpoints whose interfaces stand.
    pub endpoints: BTreeMap<EndpointId, EndpointPlan>,
    /// What could not be had, and why: an object's name and a sentence. The old state of it is kept.
    pub refused: Vec<Refusal>,
    /// Group sets and endpoints that are wanted but not computable now: what is installed for them stays.
    pub keep: Keep,
}

/// What a plan must not remove although `Desired` lacks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Remove whatever is not desired.
    #[default]
    Nothing,
    /// A source has not delivered its first snapshot: remove nothing.
    Everything,
    /// Keep these policies, refused in their new form.
    Policies(Vec<GroupSetId>),
}

/// One thing refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `pod ns/name`, `security group sg-…`, `group set sg-a,sg-b`.
    pub object: String,
    /// Why, and the way out.
    pub reason: String,
}

/// Compiled form of a group set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// First 64 bits of SHA-256 over the trie and the rule names; also stands in the trie itself.
    pub digest: u64,
    /// The trie: (prefix length, selector) -> rules, inheritance already applied.
    pub trie: BTreeMap<(u32, Selector), RuleSet>,
    /// The rules behind the bits.
    pub names: BTreeMap<RuleKey, RuleName>,
}

/// An endpoint and the interfaces its programs belong on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// Map value.
    pub endpoint: Endpoint,
    /// Names for people.
    pub name: EndpointName,
    /// Name of the pod's host veth; its index is in `endpoint`.
    pub host_interface: String,
    /// Name of the branch interface; its index is in `endpoint`.
    pub branch_interface: String,
}
