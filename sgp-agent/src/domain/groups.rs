//! Security groups as EC2 describes them, and sets of them.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use sgp_common::Direction;
use sgp_common::packet::{ICMP, ICMPV6, TCP, UDP};
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

/// A rule by the ids that EC2 gives. Their order, of text, is the order in which rules are named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// `sg-…`
    pub group_id: String,
    /// `sgr-…`
    pub rule_id: String,
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
    /// A group of a VPC whose peering is not active any more: matches nothing (EC2 calls the rule stale).
    Stale(String),
}

impl Service {
    /// What EC2 means by `IpProtocol`, `FromPort` and `ToPort` (facts 5.1): -1 is everything; TCP and UDP have
    /// ports, none or -1 meaning all; ICMP has type and code, -1 meaning any, and any type means any code; any
    /// other protocol means all of it.
    ///
    /// # Errors
    /// A sentence that names the value.
    pub fn of(protocol: &str, from: Option<i32>, to: Option<i32>) -> Result<Self, String> {
        if protocol == "-1" {
            return Ok(Self::All);
        }
        let protocol = self::protocol(protocol)?;
        let (from, to) = (from.unwrap_or(-1), to.unwrap_or(-1));
        Ok(match protocol {
            TCP | UDP if from == -1 => Self::Ports { protocol, from: 0, to: u16::MAX },
            TCP | UDP if from > to => return Err(format!("ports {from} to {to} are no range")),
            TCP | UDP => Self::Ports { protocol, from: port(from)?, to: port(to)? },
            ICMP | ICMPV6 => Self::Icmp { protocol, icmp_type: byte(from)?, code: byte(to)?.filter(|_| from != -1) },
            _ => Self::Protocol(protocol),
        })
    }
}

/// An IP protocol by EC2's name or by its number.
///
/// # Errors
/// A sentence that names the text.
pub fn protocol(text: &str) -> Result<u8, String> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "tcp" => TCP,
        "udp" => UDP,
        "icmp" => ICMP,
        "icmpv6" => ICMPV6,
        number => number.parse().map_err(|_| format!("{text:?} is no protocol"))?,
    })
}

fn port(number: i32) -> Result<u16, String> {
    number.try_into().map_err(|_| format!("{number} is no port"))
}

fn byte(number: i32) -> Result<Option<u8>, String> {
    if number == -1 {
        return Ok(None);
    }
    number.try_into().map(Some).map_err(|_| format!("{number} is no ICMP type or code"))
}

/// A CIDR as EC2's API keeps it: host bits cleared.
///
/// # Errors
/// A sentence that names the text.
pub fn cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("{text:?} is no CIDR"))?;
    Ok(net.trunc())
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

/// What people call an IP protocol: EC2's name for it, or its number.
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP => "icmp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.group_id, self.rule_id)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::All => f.write_str("all"),
            Self::Protocol(protocol) => f.write_str(&protocol_name(protocol)),
            Self::Ports { protocol, from, to } if from == to => write!(f, "{} {from}", protocol_name(protocol)),
            Self::Ports { protocol, from, to } => write!(f, "{} {from}-{to}", protocol_name(protocol)),
            Self::Icmp { protocol, icmp_type: None, .. } => f.write_str(&protocol_name(protocol)),
            Self::Icmp { protocol, icmp_type: Some(kind), code: None } => {
                write!(f, "{} {kind}", protocol_name(protocol))
            }
            Self::Icmp { protocol, icmp_type: Some(kind), code: Some(code) } => {
                write!(f, "{} {kind}/{code}", protocol_name(protocol))
            }
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(net) => net.fmt(f),
            Self::PrefixList(id) | Self::Group(id) => f.write_str(id),
            Self::Stale(id) => write!(f, "{id} (stale)"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_protocol_becomes_its_service() {
        let icmp = |icmp_type, code| Service::Icmp { protocol: ICMP, icmp_type, code };
        for (protocol, from, to, expected) in [
            ("-1", None, None, Service::All),
            ("-1", Some(80), Some(80), Service::All),
            ("tcp", Some(80), Some(443), Service::Ports { protocol: TCP, from: 80, to: 443 }),
            ("17", Some(53), Some(53), Service::Ports { protocol: UDP, from: 53, to: 53 }),
            ("tcp", Some(-1), Some(-1), Service::Ports { protocol: TCP, from: 0, to: 65535 }),
            ("icmp", Some(-1), Some(-1), icmp(None, None)),
            ("icmp", Some(-1), Some(4), icmp(None, None)),
            ("icmp", Some(3), Some(4), icmp(Some(3), Some(4))),
            ("icmp", Some(3), Some(-1), icmp(Some(3), None)),
            ("50", None, None, Service::Protocol(50)),
        ] {
            assert_eq!(Service::of(protocol, from, to), Ok(expected), "{protocol} {from:?} {to:?}");
        }
    }

    #[test]
    fn nonsense_in_a_rule_is_named() {
        for (protocol, from, to, word) in
            [("tcp", 80, 70_000, "70000"), ("tcp", 443, 80, "443 to 80"), ("icmp", 300, 0, "300"), ("256", 0, 0, "256")]
        {
            let error = Service::of(protocol, Some(from), Some(to)).expect_err("EC2 gives no such rule");
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(cidr("10.0.2.20/24"), cidr("10.0.2.0/24"));
        assert!(cidr("10.0.2.0/33").is_err());
    }
}
