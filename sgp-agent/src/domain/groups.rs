//! Security groups as EC2 describes them, and sets of them.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use sgp_common::Direction;
use sha2::{Digest, Sha256};

/// Id of a group set: the first 64 bits, big-endian, of SHA-256 over its sorted ids joined by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupSetId(pub u64);

/// Id of an endpoint: the same over the branch's interface id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

/// A set of security-group ids (`sg-…`), as an interface carries it. Order and repetition mean nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupSet(pub BTreeSet<String>);

/// One security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityGroup {
    /// `sg-…`
    pub id: String,
    /// VPC the group lives in.
    pub vpc_id: String,
    /// Its rules, of both directions.
    pub rules: Vec<Rule>,
}

/// One row of a security group: allows, never denies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// `sgr-…`
    pub id: String,
    /// `sg-…` of the group the row belongs to.
    pub group_id: String,
    /// EC2's ingress is inbound.
    pub direction: Direction,
    /// What may pass.
    pub service: Service,
    /// With whom.
    pub remote: Remote,
}

/// What a rule allows. Ports are destination ports in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Protocol -1: everything.
    All,
    /// A protocol number other than TCP, UDP, ICMP and ICMPv6: ports do not apply.
    Protocol(u8),
    /// TCP or UDP, ports `from..=to`.
    Ports {
        /// IP protocol number.
        protocol: u8,
        /// Lowest port.
        from: u16,
        /// Highest port.
        to: u16,
    },
    /// ICMP (1) or ICMPv6 (58).
    Icmp {
        /// IP protocol number.
        protocol: u8,
        /// Type, or any.
        icmp_type: Option<u8>,
        /// Code, or any; a code without a type means nothing.
        code: Option<u8>,
    },
}

/// Whom a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// Addresses of one family, host bits cleared.
    Cidr(IpNet),
    /// A prefix list, `pl-…`.
    PrefixList(String),
    /// The private addresses of interfaces that carry this group, `sg-…`.
    Group(String),
}

impl GroupSet {
    /// The set of these ids.
    pub fn of<I: IntoIterator<Item = S>, S: Into<String>>(ids: I) -> Self {
        Self(ids.into_iter().map(Into::into).collect())
    }

    /// Its id.
    pub fn id(&self) -> GroupSetId {
        GroupSetId(derived(&self.to_string()))
    }
}

impl EndpointId {
    /// The id of the endpoint behind a branch `eni-…`.
    pub fn of(interface_id: &str) -> Self {
        Self(derived(interface_id))
    }
}

/// The first 64 bits of SHA-256, big-endian.
pub(super) fn derived(text: &str) -> u64 {
    let hash = Sha256::digest(text.as_bytes());
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

impl fmt::Display for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, id) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(id)?;
        }
        Ok(())
    }
}
