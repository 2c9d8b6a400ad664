//! Rules and packets in one line each, as facts 5.3 writes them.
//!
//! A rule: `I tcp 80 10.0.2.20/32`, `E -1 * any`, `sg-b: I icmp 3/4 any`; direction, protocol, ports or type/code, remote.
//! A packet: `in tcp A:4000 P:80 S`; direction, protocol, source, destination, and for TCP its flags, for ICMP `type/code/id`.

use std::net::IpAddr;

use sgp_agent::domain::groups::{Remote, Rule, Service, cidr};
use sgp_common::Direction;

use crate::frames::{Frame, ip};

/// The group of rules that name none.
pub(crate) const OWN_GROUP: &str = "sg-pod";

/// Where the names of facts 5.3 stand, in both families.
const HOSTS: [(&str, &str, &str); 8] = [
    ("P", "10.0.1.10", "2001:db8:1::10"),
    ("P2", "10.0.1.99", "2001:db8:1::99"),
    ("A", "10.0.2.20", "2001:db8:2::20"),
    ("B", "10.0.3.30", "2001:db8:3::5"),
    ("Q", "10.0.1.11", "2001:db8:1::11"),
    ("N", "10.0.0.5", "2001:db8::5"),
    ("C", "10.9.0.7", "2001:db8:9::7"),
    ("X", "203.0.113.5", "2001:db8:ffff::5"),
];

/// An address: a name of [`HOSTS`], with `6` behind it its IPv6 address, or the address itself.
pub(crate) fn host(text: &str) -> IpAddr {
    let named = HOSTS.iter().find_map(|(name, v4, v6)| match text {
        text if text == *name => Some(*v4),
        text if text.strip_suffix('6') == Some(name) => Some(*v6),
        _ => None,
    });
    ip(named.unwrap_or(text.trim_matches(['[', ']'])))
}

/// A rule, named `sgr-1`, `sgr-2`, … by its place.
pub(crate) fn rule(place: usize, line: &str) -> Rule {
    let (group, line) = line.split_once(": ").unwrap_or((OWN_GROUP, line));
    let [direction, protocol, range, remote] = words(line);
    let (from, to) = match range {
        "*" => (None, None),
        range => {
            let (from, to) = range.split_once(['/', '-']).unwrap_or((range, range));
            (Some(from.replace('*', "-1").parse().expect(line)), Some(to.replace('*', "-1").parse().expect(line)))
        }
    };
    let remote = match remote {
        "any" => Remote::Cidr(cidr("0.0.0.0/0").expect(line)),
        "any6" => Remote::Cidr(cidr("::/0").expect(line)),
        id if id.starts_with("pl-") => Remote::PrefixList(id.to_owned()),
        id if id.starts_with("sg-") => Remote::Group(id.to_owned()),
        id if id.starts_with("stale-") => Remote::Stale(id.to_owned()),
        text => Remote::Cidr(cidr(text).expect(line)),
    };
    Rule {
        id: format!("sgr-{place}"),
        group_id: group.to_owned(),
        direction: if direction == "I" { Direction::Inbound } else { Direction::Outbound },
        service: Service::of(protocol, from, to).expect(line),
        remote,
    }
}

/// A packet's direction and frame.
pub(crate) fn packet(line: &str) -> (Direction, Frame) {
    let mut rest = line.split_whitespace();
    let mut next = || rest.next().unwrap_or_default();
    let direction = if next() == "in" { Direction::Inbound } else { Direction::Outbound };
    let (protocol, source, destination, more) = (next(), end(next()), end(next()), next());
    let frame = match protocol {
        "tcp" => Frame::tcp(source, destination, flags(more)),
        "udp" => Frame::udp(source, destination),
        "icmp" | "icmpv6" => {
            let numbers: Vec<u16> = more.split('/').map(|number| number.parse().expect(line)).collect();
            let [icmp_type, code, id] = numbers[..] else { panic!("{line}: type/code/id") };
            Frame::icmp(source.0, destination.0, icmp_type as u8, code as u8, id)
        }
        number => Frame::new(source.0, destination.0, number.parse().expect(line), vec![0xee; 24]),
    };
    (direction, frame)
}

fn end(text: &str) -> (IpAddr, u16) {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let (name, port) = port.unwrap_or((text, "0"));
    (host(name), port.parse().expect("a port"))
}

/// TCP's flags by their letters; none given means ACK.
fn flags(letters: &str) -> u8 {
    let bit = |letter| "FSRPAU".find(letter).map_or_else(|| panic!("{letter} is no flag"), |at| 1 << at);
    if letters.is_empty() { 0x10 } else { letters.chars().map(bit).fold(0, |flags, bit: u8| flags | bit) }
}

fn words<const N: usize>(line: &str) -> [&str; N] {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.try_into().unwrap_or_else(|words| panic!("{words:?}: {N} words wanted"))
}
