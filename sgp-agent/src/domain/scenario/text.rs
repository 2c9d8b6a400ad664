//! Values that are written as text or have bounds, read where they stand, so that an error names the place.

use ipnet::IpNet;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::domain::groups::{cidr, protocol};
use crate::domain::observed::delegated;
use crate::domain::wiring::parse_mac;

/// Letters of TCP flags (RFC 9293 §3.1), each with its bit.
const FLAGS: [(char, u8); 6] = [('F', 0x01), ('S', 0x02), ('R', 0x04), ('P', 0x08), ('A', 0x10), ('U', 0x20)];

/// An IP protocol, by name or number.
#[derive(Clone, Copy)]
pub(super) struct Protocol(pub(super) u8);

/// TCP flags as bits of the header's byte.
#[derive(Clone, Copy)]
pub(super) struct Flags(pub(super) u8);

/// A MAC address.
#[derive(Clone, Copy)]
pub(super) struct Mac(pub(super) [u8; 6]);

/// Bytes in hexadecimal digits, white space between them allowed.
pub(super) struct Hex(pub(super) Vec<u8>);

/// Whole seconds between two bounds, both included.
#[derive(Clone, Copy)]
pub(super) struct Seconds<const LOWEST: u32, const HIGHEST: u32>(pub(super) u32);

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a protocol's name, or its number")]
        enum Given {
            Text(String),
            Number(u8),
        }
        match Given::deserialize(deserializer)? {
            Given::Text(text) => protocol(&text).map(Self).map_err(Error::custom),
            Given::Number(number) => Ok(Self(number)),
        }
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bit = |letter| FLAGS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| *bit);
        let add = |bits, letter| bit(letter).map(|bit| bits | bit).ok_or(letter);
        let bits = text.chars().try_fold(0, add);
        bits.map(Self).map_err(|letter| Error::custom(format!("{letter:?} is no TCP flag: SAFRPU are")))
    }
}

impl Flags {
    /// The letters again; `-` where no flag is set.
    pub(super) fn letters(bits: u8) -> String {
        let set: String = FLAGS.iter().filter(|(_, bit)| bits & bit != 0).map(|(letter, _)| *letter).collect();
        if set.is_empty() { "-".to_owned() } else { set }
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_mac(&text).map(Self).ok_or_else(|| Error::custom(format!("{text:?} is no MAC address")))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits: String = String::deserialize(deserializer)?.split_whitespace().collect();
        hex::decode(&digits).map(Self).map_err(|error| Error::custom(format!("no hexadecimal bytes: {error}")))
    }
}

impl<'de, const LOWEST: u32, const HIGHEST: u32> Deserialize<'de> for Seconds<LOWEST, HIGHEST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = u32::deserialize(deserializer)?;
        let fits = (LOWEST..=HIGHEST).contains(&seconds);
        let error = || Error::custom(format!("{seconds} s: EC2 takes {LOWEST} to {HIGHEST}"));
        fits.then_some(Self(seconds)).ok_or_else(error)
    }
}

/// A prefix that is delegated to an interface.
pub(super) struct Delegated(pub(super) IpNet);

impl<'de> Deserialize<'de> for Delegated {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        delegated(&String::deserialize(deserializer)?).map(Self).map_err(Error::custom)
    }
}

/// A CIDR of any family, host bits cleared.
pub(super) struct Net(pub(super) IpNet);

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        cidr(&String::deserialize(deserializer)?).map(Self).map_err(Error::custom)
    }
}

/// An IPv4 CIDR.
pub(super) fn ipv4_net<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let net = Net::deserialize(deserializer)?.0;
    if net.addr().is_ipv4() { Ok(net) } else { Err(Error::custom(format!("{net} is not of IPv4"))) }
}

/// An IPv6 CIDR.
pub(super) fn ipv6_net<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let net = Net::deserialize(deserializer)?.0;
    if net.addr().is_ipv6() { Ok(net) } else { Err(Error::custom(format!("{net} is not of IPv6"))) }
}
