//! Groups to order, one line a rule.

use sgp_agent::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, Service};
use sgp_agent::domain::observed::CloudFacts;
use sgp_common::Direction;
use sgp_common::packet::{ICMP, TCP, UDP};

/// EC2 with one group of these rules for each name, each written as `in tcp 80 10.0.0.0/8`: direction; `all`,
/// `tcp`, `udp`, `icmp` or a protocol number; ports `80`, `80-90` or `*`, or an ICMP type; a CIDR or a group.
/// Rules are called `sgr-0`, `sgr-1`, … in their group.
pub(crate) fn ec2(groups: &[(&str, &[&str])]) -> CloudFacts {
    let group = |(id, rules): &(&str, &[&str])| {
        let rules = rules.iter().enumerate().map(|(index, text)| rule(id, index, text)).collect();
        ((*id).to_owned(), SecurityGroup { id: (*id).to_owned(), vpc_id: "vpc-1".into(), rules })
    };
    CloudFacts { groups: groups.iter().map(group).collect(), ..CloudFacts::default() }
}

/// A group set.
pub(crate) fn set(ids: &[&str]) -> GroupSet {
    GroupSet::of(ids.iter().copied())
}

fn rule(group: &str, index: usize, text: &str) -> Rule {
    let words: Vec<&str> = text.split(' ').collect();
    let [direction, protocol, what, remote] = words[..] else { panic!("four words: {text}") };
    Rule {
        id: format!("sgr-{index}"),
        group_id: group.to_owned(),
        direction: if direction == "in" { Direction::Inbound } else { Direction::Outbound },
        service: service(protocol, what),
        remote: match remote.strip_prefix("sg-") {
            Some(_) => Remote::Group(remote.to_owned()),
            None => Remote::Cidr(remote.parse().expect("a CIDR")),
        },
    }
}

fn service(protocol: &str, what: &str) -> Service {
    let number = |text: &str| text.parse().expect("a number");
    let (from, to) = match what.split_once('-') {
        Some((from, to)) => (number(from), number(to)),
        None if what == "*" => (0, u16::MAX),
        None => (number(what), number(what)),
    };
    match protocol {
        "all" => Service::All,
        "tcp" => Service::Ports { protocol: TCP, from, to },
        "udp" => Service::Ports { protocol: UDP, from, to },
        "icmp" => Service::Icmp { protocol: ICMP, icmp_type: (what != "*").then_some(from as u8), code: None },
        other => Service::Protocol(other.parse().expect("a protocol number")),
    }
}
