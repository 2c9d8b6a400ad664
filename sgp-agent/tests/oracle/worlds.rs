//! Random worlds and packets, both crowded into few addresses and ports, so that rules overlap and packets
//! fall on the edges of what rules say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sgp_agent::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, Service};
use sgp_agent::domain::observed::{CloudFacts, NetworkInterface};
use sgp_common::Direction;

use super::random::Random;
use super::{Ask, Said, World};

/// Ports at which ranges begin and end.
const EDGES: [u16; 13] = [0, 1, 22, 79, 80, 81, 443, 1023, 1024, 32767, 32768, 65534, 65535];
/// Protocols without ports: GRE, ESP, AH, SCTP.
const OTHERS: [u8; 4] = [47, 50, 51, 132];
/// ICMP types, then ICMPv6 types; none that EC2 never filters.
const ICMP_TYPES: [[u8; 5]; 2] = [[0, 3, 8, 11, 13], [1, 2, 3, 128, 129]];
/// Groups that exist: `sg-0` and so on. Rules also speak of some that do not.
const GROUPS: usize = 8;
const LISTS: usize = 4;

impl World {
    /// A world with about this many rules on the endpoint.
    pub(crate) fn random(random: &mut Random, rules: usize) -> Self {
        let groups = group_set(random, 4);
        let mut cloud = CloudFacts::default();
        for list in 0..LISTS {
            let v4 = random.once_in(2);
            let nets = (0..random.below(6)).map(|_| net(random, v4)).collect();
            cloud.prefix_lists.insert(format!("pl-{list}"), nets);
        }
        for index in 0..GROUPS {
            let id = format!("sg-{index}");
            let rules = (0..rules.div_ceil(groups.0.len())).map(|row| rule(random, &id, row)).collect();
            cloud.groups.insert(id.clone(), SecurityGroup { id, vpc_id: "vpc-1".into(), rules });
        }
        cloud.interfaces = interfaces(random);
        Self { cloud, groups }
    }

    /// A packet that some rule, or nearly some rule, speaks of.
    pub(crate) fn ask(&self, random: &mut Random) -> Ask {
        let ids: Vec<&String> = self.groups.0.iter().collect();
        let group = &self.cloud.groups[random.one_of(&ids)];
        let rule = (!group.rules.is_empty()).then(|| &group.rules[random.below(group.rules.len())]);
        let rule = rule.filter(|_| !random.once_in(8));
        let remote = self.remote(random, rule);
        let direction = match rule {
            Some(rule) if !random.once_in(8) => rule.direction,
            _ => direction(random),
        };
        let (protocol, said) = said(random, rule.map(|rule| rule.service), remote.is_ipv4());
        Ask { direction, remote, protocol, said }
    }

    fn remote(&self, random: &mut Random, rule: Option<&Rule>) -> IpAddr {
        let nets = match rule.map(|rule| &rule.remote) {
            Some(Remote::Cidr(net)) => vec![*net],
            Some(Remote::PrefixList(id)) => self.cloud.prefix_lists.get(id).cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        if !nets.is_empty() && !random.once_in(4) {
            let net = random.one_of(&nets);
            return edge(random, &net);
        }
        if random.once_in(4) {
            let delegated: Vec<IpNet> = self.cloud.interfaces.values().flat_map(|eni| eni.prefixes.clone()).collect();
            let net = random.one_of(&delegated);
            return edge(random, &net);
        }
        if random.once_in(2) {
            let known: Vec<IpAddr> = self.cloud.interfaces.values().flat_map(|eni| eni.addresses.clone()).collect();
            return random.one_of(&known);
        }
        let v4 = random.once_in(2);
        address(random, v4)
    }
}

/// Interfaces with a group set each, and addresses of their own of both families.
fn interfaces(random: &mut Random) -> BTreeMap<String, NetworkInterface> {
    let mut free: Vec<IpAddr> = Vec::new();
    for _ in 0..60 {
        let v4 = random.once_in(2);
        let addr = address(random, v4);
        if !free.contains(&addr) {
            free.push(addr);
        }
    }
    let mut all = BTreeMap::new();
    for addresses in free.chunks(2) {
        let id = format!("eni-{}", all.len());
        let eni = NetworkInterface {
            id: id.clone(),
            addresses: addresses.to_vec(),
            prefixes: prefix(all.len()).into_iter().collect(),
            groups: group_set(random, 3),
            ..NetworkInterface::default()
        };
        all.insert(id, eni);
    }
    all
}

/// A prefix of its own for every second interface, where no single address is.
fn prefix(interface: usize) -> Option<IpNet> {
    let text = match interface % 4 {
        1 => format!("10.1.{}.{}/28", 16 + interface, interface % 16 * 16),
        3 => format!("2001:db8:1:0:{:x}::/80", 16 + interface),
        _ => return None,
    };
    Some(text.parse().expect("a CIDR"))
}

/// One group or more. One of them may be unknown to EC2: deleted, but still carried.
fn group_set(random: &mut Random, most: usize) -> GroupSet {
    let count = 1 + random.below(most);
    let mut ids: Vec<String> = (0..count).map(|_| format!("sg-{}", random.below(GROUPS))).collect();
    if random.once_in(6) {
        ids.push(format!("sg-gone-{}", random.below(2)));
    }
    let known = GroupSet::of(ids.iter().filter(|id| !id.contains("gone")).cloned());
    if most == 4 { known } else { GroupSet::of(ids) }
}

fn rule(random: &mut Random, group: &str, row: usize) -> Rule {
    let v4 = random.once_in(2);
    let remote = match random.below(8) {
        0 => Remote::PrefixList(format!("pl-{}", random.below(LISTS + 1))),
        1 => Remote::Group(format!("sg-{}", random.below(GROUPS + 2))),
        2 => Remote::Group(format!("sg-gone-{}", random.below(2))),
        3 => Remote::Stale(format!("sg-{}", random.below(GROUPS))),
        _ => Remote::Cidr(net(random, v4)),
    };
    // EC2's ids come in no order; the hash of the row stands in for that.
    let id = format!("sgr-{:04x}{row:04x}", random.below(1 << 16));
    Rule { id, group_id: group.to_owned(), direction: direction(random), service: service(random), remote }
}

fn service(random: &mut Random) -> Service {
    match random.below(8) {
        0 => Service::All,
        1 => Service::Protocol(random.one_of(&OTHERS)),
        2 => {
            let family = random.below(2);
            let any = random.below(3);
            let icmp_type = (any > 0).then(|| random.one_of(&ICMP_TYPES[family]));
            let code = (any != 1).then(|| random.below(5) as u8);
            Service::Icmp { protocol: [1, 58][family], icmp_type, code }
        }
        3 => Service::Ports { protocol: random.one_of(&[6, 17]), from: 0, to: u16::MAX },
        _ => {
            let (one, two) = (port(random), port(random));
            let to = if random.once_in(3) { one } else { one.max(two) };
            Service::Ports { protocol: random.one_of(&[6, 17]), from: one.min(to.min(two.max(one))), to }
        }
    }
}

fn said(random: &mut Random, service: Option<Service>, v4: bool) -> (u8, Said) {
    let icmp = if v4 { 1 } else { 58 };
    let types = ICMP_TYPES[usize::from(!v4)];
    match service.filter(|_| !random.once_in(10)) {
        Some(Service::Ports { protocol, from, to }) => {
            let near = [from, to, from.saturating_sub(1), to.saturating_add(1), from / 2 + to / 2];
            (protocol, if random.once_in(8) { Said::Nothing } else { Said::Port(random.one_of(&near)) })
        }
        Some(Service::Icmp { icmp_type: Some(kind), code, .. }) if types.contains(&kind) => {
            let code = code.filter(|_| !random.once_in(3)).unwrap_or(random.below(5) as u8);
            (icmp, Said::Icmp(kind, code))
        }
        Some(Service::Icmp { protocol, .. }) if protocol != icmp => (protocol, Said::Nothing),
        Some(Service::Protocol(protocol)) => (protocol, Said::Nothing),
        _ => match random.below(5) {
            0 => (icmp, Said::Icmp(random.one_of(&types), random.below(5) as u8)),
            1 => (random.one_of(&OTHERS), Said::Nothing),
            2 => (random.one_of(&[6, 17, icmp]), Said::Nothing),
            _ => (random.one_of(&[6, 17]), Said::Port(port(random))),
        },
    }
}

fn port(random: &mut Random) -> u16 {
    if random.once_in(2) { random.one_of(&EDGES) } else { random.below(1 << 16) as u16 }
}

fn direction(random: &mut Random) -> Direction {
    if random.once_in(2) { Direction::Inbound } else { Direction::Outbound }
}

/// One of some hundred addresses of the family.
fn address(random: &mut Random, v4: bool) -> IpAddr {
    let (one, two, three) = (random.below(4) as u8, random.below(4) as u8, random.below(8) as u8);
    if v4 {
        Ipv4Addr::new(10, one, two, three).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, one.into(), 0, two.into(), 0, 0, three.into()).into()
    }
}

fn net(random: &mut Random, v4: bool) -> IpNet {
    let lengths: &[u8] = if v4 { &[0, 8, 14, 16, 20, 24, 28, 31, 32] } else { &[0, 16, 32, 47, 48, 64, 80, 127, 128] };
    let addr = address(random, v4);
    IpNet::new(addr, random.one_of(lengths)).expect("a length of the family").trunc()
}

/// The first or last address of a network, or its neighbour outside, or one inside.
fn edge(random: &mut Random, net: &IpNet) -> IpAddr {
    let number = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let (first, last) = (number(net.network()), number(net.broadcast()));
    let inside = first + (last - first) / (1 + random.below(1000) as u128);
    let chosen = random.one_of(&[first, last, first.wrapping_sub(1), last.wrapping_add(1), inside]);
    match net {
        IpNet::V4(_) => Ipv4Addr::from(chosen as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(chosen).into(),
    }
}
