//! Groups with as many rules as a case asks for. The rule that matters is the last.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sgp_agent::domain::groups::{Remote, Rule, SecurityGroup, Service};
use sgp_common::Direction;
use sgp_common::packet::TCP;

/// Port of what the pod serves.
pub(crate) const SERVED: u16 = 80;
/// Port of what the pod asks.
pub(crate) const ASKED: u16 = 443;

/// A group of this many rules for each direction and family, a CIDR and a port each.
pub(crate) fn group(id: &str, rules: u16) -> SecurityGroup {
    let all = (0..rules).flat_map(|row| row_of(id, row, row + 1 == rules));
    SecurityGroup { id: id.into(), vpc_id: "vpc-1".into(), rules: all.collect() }
}

fn row_of(group: &str, row: u16, is_last: bool) -> impl Iterator<Item = Rule> {
    let cidrs = if is_last { matching() } else { other(row) };
    let directions = [(Direction::Inbound, SERVED), (Direction::Outbound, ASKED)];
    let rules = directions.into_iter().flat_map(move |(direction, port)| cidrs.map(|cidr| (direction, port, cidr)));
    rules.map(move |(direction, port, cidr)| {
        let port = if is_last { port } else { 1024 + row };
        Rule {
            id: format!("sgr-{row:05}"),
            group_id: group.into(),
            direction,
            service: Service::Ports { protocol: TCP, from: port, to: port },
            remote: Remote::Cidr(cidr),
        }
    })
}

fn matching() -> [IpNet; 2] {
    ["10.77.0.0/16", "2001:db8:77::/48"].map(|cidr| cidr.parse().expect("a CIDR"))
}

/// A network of its own for each row.
fn other(row: u16) -> [IpNet; 2] {
    let [high, low] = row.to_be_bytes();
    let v4 = IpNet::new(Ipv4Addr::new(172, 16 + high, low, 0).into(), 24);
    let v6 = IpNet::new(Ipv6Addr::new(0x2001, 0xdb8, 0x100, row, 0, 0, 0, 0).into(), 64);
    [v4, v6].map(|net| net.expect("a length of the family"))
}

/// A group that allows everything.
pub(crate) fn everything(id: &str) -> SecurityGroup {
    let rule = |(direction, name): (Direction, &str)| Rule {
        id: format!("sgr-{name}"),
        group_id: id.into(),
        direction,
        service: Service::All,
        remote: Remote::Cidr("0.0.0.0/0".parse().expect("a CIDR")),
    };
    let rules = [(Direction::Inbound, "in"), (Direction::Outbound, "out")].map(rule);
    SecurityGroup { id: id.into(), vpc_id: "vpc-1".into(), rules: rules.into() }
}

/// The n-th of many addresses, near the network that matters.
pub(crate) fn scattered(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 | n.wrapping_mul(0x9e37_79b9) >> 8)
}
