//! The rules that everybody enforces: rows as security groups have them, of which the last ones match.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sgp_agent::domain::groups::{Remote, Rule, SecurityGroup, Service};
use sgp_common::Direction;
use sgp_common::packet::{TCP, UDP};

use crate::course::SERVICE;
use crate::ground::{PRIMARY, VPC};

/// Who is allowed.
const ALLOWED: [Ipv4Net; 2] =
    [Ipv4Net::new_assert(Ipv4Addr::new(10, 200, 128, 0), 17), Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15)];

/// A row: who, which protocol, which port.
struct Row {
    net: Ipv4Net,
    protocol: u8,
    port: u16,
}

/// This many rows for each direction: what is asked of a pod and what it asks alike.
fn rows(count: u16) -> Vec<Row> {
    let last = ALLOWED.into_iter().flat_map(|net| [UDP, TCP].map(|protocol| Row { net, protocol, port: SERVICE }));
    let last: Vec<Row> = last.collect();
    let others = (0..count.saturating_sub(last.len() as u16)).map(|row| {
        let [high, low] = row.to_be_bytes();
        let net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16 + high, low, 0), 24);
        Row { net, protocol: if row % 2 == 0 { TCP } else { UDP }, port: 1024 + row }
    });
    others.chain(last).collect()
}

/// As a group.
pub(crate) fn group(id: &str, count: u16) -> SecurityGroup {
    let rules = rows(count).into_iter().enumerate().flat_map(|(number, row)| {
        [(Direction::Inbound, "in"), (Direction::Outbound, "out")].map(|(direction, side)| Rule {
            id: format!("sgr-{side}-{number}"),
            group_id: id.into(),
            direction,
            service: Service::Ports { protocol: row.protocol, from: row.port, to: row.port },
            remote: Remote::Cidr(row.net.into()),
        })
    });
    SecurityGroup { id: id.into(), vpc_id: "vpc-1".into(), rules: rules.collect() }
}

fn name(protocol: u8) -> &'static str {
    if protocol == TCP { "tcp" } else { "udp" }
}

/// As a set of nftables, asked after connection tracking; with masquerading by the primary interface where `tail` says so.
pub(crate) fn nftables(count: u16, tail: &str) -> String {
    let elements = rows(count).iter().fold(String::new(), |mut all, row| {
        let _ = write!(all, "{} . {} . {}, ", row.net, name(row.protocol), row.port);
        all
    });
    format!(
        "table ip sgp {{
  set allowed {{ type ipv4_addr . inet_proto . inet_service; flags interval; elements = {{ {elements} }} }}
  chain forward {{ type filter hook forward priority filter; policy drop;
    ct state established,related accept
    iifname \"host1\" ip daddr . meta l4proto . th dport @allowed accept
    oifname \"host1\" ip saddr . meta l4proto . th dport @allowed accept
  }}
  {tail}
}}"
    )
}

/// The chain that masquerades.
pub(crate) const MASQUERADE: &str =
    "chain postrouting { type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }";

/// As rules of iptables one after the other, and what aws-node programs beside; input of `iptables-restore`.
pub(crate) fn iptables(count: u16, aws_node: &[&str]) -> String {
    let mut filter =
        "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n".to_owned();
    for (interface, side) in [("-i", "-d"), ("-o", "-s")] {
        for row in rows(count) {
            let (net, protocol, port) = (row.net, name(row.protocol), row.port);
            let _ =
                writeln!(filter, "-A FORWARD {interface} host1 {side} {net} -p {protocol} --dport {port} -j ACCEPT");
        }
    }
    let table = |name: &str| {
        let prefix = format!("-t {name} ");
        let of_it = aws_node.iter().filter_map(|rule| rule.strip_prefix(&prefix));
        of_it.fold(format!("*{name}\n"), |all, rule| all + &here(rule) + "\n") + "COMMIT\n"
    };
    filter + "COMMIT\n" + &table("mangle") + &table("nat")
}

/// A rule of aws-node for this node, where host veths begin otherwise.
fn here(rule: &str) -> String {
    let node = Ipv4Addr::from(crate::primary::NODE).to_string();
    rule.replace("eni+", "host+").replace("eth0", PRIMARY).replace("VPC", VPC).replace("NODE", &node)
}
