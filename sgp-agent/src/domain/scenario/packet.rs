//! Packets in fields: whether what is said of one holds together, and what it says in words.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sgp_common::Direction;
use sgp_common::packet::{ICMP, ICMPV6, TCP, UDP};

use super::given::{self, Fragment, Way};
use super::place::Place;
use super::text::Flags;
use crate::domain::groups::protocol_name;

/// What goes in or out.
pub(super) enum Sent {
    /// A whole Ethernet frame, as it is.
    Frame(Vec<u8>),
    /// A packet to build.
    Packet(Packet),
}

/// A packet to build.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) ends: Ends,
    /// IP protocol number.
    pub(super) protocol: u8,
    pub(super) header: Header,
    pub(super) fragment: Option<Fragment>,
}

/// Source and destination, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// The transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// TCP; without flags, those that its place in the conversation asks for.
    Tcp { source_port: u16, destination_port: u16, flags: Option<u8> },
    /// UDP.
    Udp { source_port: u16, destination_port: u16 },
    /// ICMP or ICMPv6; `id` stands where a query has its identifier.
    Icmp { icmp_type: u8, code: u8, id: u16 },
    /// A protocol in which we know no header, or a later fragment, which has none.
    None,
}

/// Which way a packet goes.
pub(super) fn direction(way: Way) -> Direction {
    match way {
        Way::In => Direction::Inbound,
        Way::Out => Direction::Outbound,
    }
}

/// Reads what was given of a packet.
pub(super) fn sent(given: given::Packet, place: &Place) -> Result<Sent, String> {
    let Some(frame) = given.frame else { return packet(&given, place).map(Sent::Packet) };
    let fields = [
        ("protocol", given.protocol.is_some()),
        ("source", given.source.is_some()),
        ("destination", given.destination.is_some()),
        ("source_port", given.source_port.is_some()),
        ("destination_port", given.destination_port.is_some()),
        ("flags", given.flags.is_some()),
        ("icmp_type", given.icmp_type.is_some()),
        ("icmp_code", given.icmp_code.is_some()),
        ("icmp_id", given.icmp_id.is_some()),
        ("fragment", given.fragment.is_some()),
    ];
    refuse(&fields, place, "the frame says it already")?;
    Ok(Sent::Frame(frame.0))
}

fn packet(given: &given::Packet, place: &Place) -> Result<Packet, String> {
    let protocol = required(given.protocol, place, "protocol")?.0;
    let source = required(given.source, place, "source")?;
    let destination = required(given.destination, place, "destination")?;
    let other = || place.key("destination").says(&format!("{destination} is not of the family of {source}"));
    let ends = Ends::of(source, destination).ok_or_else(other)?;
    if let Some(fragment) = given.fragment {
        check_fragment(fragment, ends, &place.key("fragment"))?;
    }
    let header = header(given, protocol, place)?;
    Ok(Packet { ends, protocol, header, fragment: given.fragment })
}

/// RFC 791 and RFC 8200 §4.5: offsets are counted in units of 8 bytes, in 13 bits.
fn check_fragment(fragment: Fragment, ends: Ends, place: &Place) -> Result<(), String> {
    if matches!(ends, Ends::V4(..)) && fragment.id > u16::MAX.into() {
        return Err(place.key("id").says(&format!("{} does not fit into the 16 bits IPv4 has for it", fragment.id)));
    }
    if !fragment.offset.is_multiple_of(8) || fragment.offset > 8 * 0x1fff {
        return Err(place.key("offset").says(&format!("{} is no multiple of 8 up to 65528", fragment.offset)));
    }
    Ok(())
}

fn header(given: &given::Packet, protocol: u8, place: &Place) -> Result<Header, String> {
    let ports = [("source_port", given.source_port.is_some()), ("destination_port", given.destination_port.is_some())];
    let icmp = [
        ("icmp_type", given.icmp_type.is_some()),
        ("icmp_code", given.icmp_code.is_some()),
        ("icmp_id", given.icmp_id.is_some()),
    ];
    let name = protocol_name(protocol);
    if !matches!(protocol, TCP | UDP) {
        refuse(&ports, place, &format!("protocol {name} has no ports"))?;
    }
    if protocol != TCP {
        refuse(&[("flags", given.flags.is_some())], place, &format!("protocol {name} has no flags"))?;
    }
    if !matches!(protocol, ICMP | ICMPV6) {
        refuse(&icmp, place, &format!("protocol {name} has no ICMP header"))?;
    }
    // What is said of the header of a later fragment is said of the datagram: the fragment does not have it.
    if given.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return Ok(Header::None);
    }
    whole_header(given, protocol, place)
}

fn whole_header(given: &given::Packet, protocol: u8, place: &Place) -> Result<Header, String> {
    let ports = || -> Result<(u16, u16), String> {
        let source = required(given.source_port, place, "source_port")?;
        Ok((source, required(given.destination_port, place, "destination_port")?))
    };
    Ok(match protocol {
        TCP => {
            let (source_port, destination_port) = ports()?;
            Header::Tcp { source_port, destination_port, flags: given.flags.map(|flags| flags.0) }
        }
        UDP => {
            let (source_port, destination_port) = ports()?;
            Header::Udp { source_port, destination_port }
        }
        ICMP | ICMPV6 => Header::Icmp {
            icmp_type: required(given.icmp_type, place, "icmp_type")?,
            code: given.icmp_code.unwrap_or_default(),
            id: given.icmp_id.unwrap_or_default(),
        },
        _ => Header::None,
    })
}

fn required<T: Copy>(value: Option<T>, place: &Place, key: &str) -> Result<T, String> {
    value.ok_or_else(|| place.key(key).says("it is missing"))
}

fn refuse(fields: &[(&str, bool)], place: &Place, why: &str) -> Result<(), String> {
    let given = fields.iter().find(|(_, given)| *given);
    given.map_or(Ok(()), |(key, _)| Err(place.key(key).says(why)))
}

impl Ends {
    fn of(source: IpAddr, destination: IpAddr) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4(source, destination)),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6(source, destination)),
            _ => None,
        }
    }

    /// From where to where.
    pub(super) fn pair(self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4(source, destination) => (source.into(), destination.into()),
            Self::V6(source, destination) => (source.into(), destination.into()),
        }
    }
}

impl Packet {
    /// Source and destination port, where the packet has them.
    pub(super) fn ports(&self) -> (Option<u16>, Option<u16>) {
        match self.header {
            Header::Tcp { source_port, destination_port, .. } | Header::Udp { source_port, destination_port } => {
                (Some(source_port), Some(destination_port))
            }
            _ => (None, None),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (source_port, destination_port) = self.ports();
        let (source, destination) = self.ends.pair();
        write!(f, "{} ", protocol_name(self.protocol))?;
        end(f, source, source_port)?;
        f.write_str(" > ")?;
        end(f, destination, destination_port)?;
        match self.header {
            Header::Tcp { flags: Some(flags), .. } => write!(f, " {}", Flags::letters(flags))?,
            Header::Icmp { icmp_type, code, .. } => write!(f, " type {icmp_type} code {code}")?,
            _ => {}
        }
        let Some(fragment) = self.fragment else { return Ok(()) };
        write!(f, " fragment {}@{}{}", fragment.id, fragment.offset, if fragment.more { "+" } else { "" })
    }
}

/// tcpdump's way, but for IPv6 with brackets.
fn end(f: &mut fmt::Formatter<'_>, address: IpAddr, port: Option<u16>) -> fmt::Result {
    match (address, port) {
        (address, None) => write!(f, "{address}"),
        (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
    }
}
