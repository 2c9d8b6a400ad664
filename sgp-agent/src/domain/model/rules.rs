//! What an endpoint's rules say about one packet (docs/semantics.md, sections 6 and 7): row by row, nothing compiled.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sgp_common::Direction;

use super::flows::opposite;
use super::frame::{Family, ICMP, Packet, Said, TCP, UDP};
use super::{RuleName, World};
use crate::domain::groups::{GroupSet, Remote, Rule, Service};
use crate::domain::observed::{CloudFacts, NetworkInterface};

/// EC2's most for one interface (VPC quotas: groups per interface, and their product with the rules of each).
const GROUPS_MAX: usize = 16;
const ROWS_MAX: usize = 1_000;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One rule with its prefix list spelled out. Ordered by name first, which is the order in which rules are named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    name: RuleName,
    direction: Direction,
    service: Service,
    remote: RowRemote,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RowRemote {
    Net(IpNet),
    /// The private addresses of interfaces that carry this group. In which combinations with others it is carried is part
    /// of a policy; who carries it is not.
    Members {
        group: String,
        carried_in: BTreeSet<GroupSet>,
    },
    /// A stale reference, which EC2 keeps and counts.
    Nobody,
}

/// What the rules are asked about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) direction: Direction,
    pub(super) remote: IpAddr,
    pub(super) protocol: u8,
    pub(super) detail: Detail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    DestinationPort(u16),
    Icmp {
        icmp_type: u8,
        code: u8,
    },
    /// A protocol without ports, or a later fragment.
    Unsaid,
}

/// Why a packet is allowed.
#[derive(Clone, Debug)]
pub(super) struct Grounds {
    /// The first rule that allows it.
    pub(super) rule: RuleName,
    /// Whether EC2 would track the flow it opens.
    pub(super) tracking: Tracking,
    /// The rows that were asked.
    pub(super) rows: Arc<Vec<Row>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tracking {
    Tracked,
    Untracked,
}

impl Question {
    pub(super) fn of(direction: Direction, packet: &Packet) -> Self {
        let detail = match packet.said {
            Said::Ports { destination, .. } => Detail::DestinationPort(destination),
            Said::Icmp { icmp_type, code, .. } => Detail::Icmp { icmp_type, code },
            Said::Nothing => Detail::Unsaid,
        };
        Self { direction, remote: packet.sides(direction).remote, protocol: packet.protocol, detail }
    }

    /// About the packet that this one, of a protocol with ports, would be an answer to.
    pub(super) fn answered_by(direction: Direction, packet: &Packet) -> Option<Self> {
        let Said::Ports { source, .. } = packet.said else {
            return None;
        };
        let remote = packet.sides(direction).remote;
        let detail = Detail::DestinationPort(source);
        Some(Self { direction: opposite(direction), remote, protocol: packet.protocol, detail })
    }
}

/// The endpoint's rows, in canonical order, so that equal rules are equal rows.
///
/// # Errors
/// A sentence that names the limit they are beyond.
pub(super) fn rows(world: &World) -> Result<Vec<Row>, String> {
    let groups =
        world.cloud.interfaces.get(&world.endpoint).map(|interface| interface.groups.clone()).unwrap_or_default();
    if groups.0.len() > GROUPS_MAX {
        return Err(format!("{} has {} security groups, more than {GROUPS_MAX}", world.endpoint, groups.0.len()));
    }
    let known = groups.0.iter().filter_map(|id| world.cloud.groups.get(id));
    let mut rows: Vec<Row> =
        known.flat_map(|group| &group.rules).flat_map(|rule| spelled_out(rule, &world.cloud)).collect();
    rows.retain(|row| FAMILIES.iter().any(|family| row.counts_in(*family)));
    rows.sort();
    within_limit(&world.endpoint, &rows)?;
    Ok(rows)
}

/// A row for each entry of a prefix list, so none for an empty or unknown one.
fn spelled_out(rule: &Rule, cloud: &CloudFacts) -> Vec<Row> {
    let name = RuleName { group_id: rule.group_id.clone(), rule_id: rule.id.clone() };
    let row = |remote| Row { name: name.clone(), direction: rule.direction, service: rule.service, remote };
    let net = |net: &IpNet| row(RowRemote::Net(net.trunc()));
    match &rule.remote {
        Remote::Cidr(cidr) => vec![net(cidr)],
        Remote::PrefixList(id) => cloud.prefix_lists.get(id).into_iter().flatten().map(net).collect(),
        Remote::Group(id) => {
            let groups = cloud.interfaces.values().map(|interface| &interface.groups);
            let carried_in = groups.filter(|groups| groups.0.contains(id)).cloned().collect();
            vec![row(RowRemote::Members { group: id.clone(), carried_in })]
        }
        Remote::Stale(_) => vec![row(RowRemote::Nobody)],
    }
}

fn within_limit(endpoint: &str, rows: &[Row]) -> Result<(), String> {
    for direction in [Direction::Inbound, Direction::Outbound] {
        for family in FAMILIES {
            let count = rows.iter().filter(|row| row.direction == direction && row.counts_in(family)).count();
            if count > ROWS_MAX {
                return Err(format!("{endpoint} has {count} {direction:?} {family:?} rules, more than {ROWS_MAX}"));
            }
        }
    }
    Ok(())
}

/// Why these rows allow a packet, if they do.
pub(super) fn grounds(rows: &Arc<Vec<Row>>, question: &Question, cloud: &CloudFacts) -> Option<Grounds> {
    let admitting: Vec<&Row> = rows.iter().filter(|row| row.admits(question, cloud)).collect();
    let rule = admitting.first()?.name.clone();
    let answered = || rows.iter().any(|row| row.admits_all_answers(question));
    let open =
        matches!(question.protocol, TCP | UDP) && admitting.iter().any(|row| row.means_everybody()) && answered();
    let tracking = if open { Tracking::Untracked } else { Tracking::Tracked };
    Some(Grounds { rule, tracking, rows: rows.clone() })
}

impl Row {
    /// A rule belongs to a family by its addresses or its kind of ICMP; a reference to a group to both, as in EC2's quota.
    fn counts_in(&self, family: Family) -> bool {
        let by_remote = match &self.remote {
            RowRemote::Net(net) => Family::of(net.addr()) == family,
            RowRemote::Members { .. } | RowRemote::Nobody => true,
        };
        match self.service {
            Service::Icmp { protocol, .. } => by_remote && family_of_icmp(protocol) == family,
            _ => by_remote,
        }
    }

    fn admits(&self, question: &Question, cloud: &CloudFacts) -> bool {
        self.direction == question.direction
            && serves(&self.service, question)
            && self.remote.includes(question.remote, cloud)
    }

    fn means_everybody(&self) -> bool {
        matches!(&self.remote, RowRemote::Net(net) if net.prefix_len() == 0)
    }

    /// Whether every answer to the packet asked about would pass by this row, from whatever port it was asked.
    fn admits_all_answers(&self, question: &Question) -> bool {
        let all_ports = match self.service {
            Service::All => true,
            Service::Ports { protocol, from: 0, to: u16::MAX } => protocol == question.protocol,
            _ => false,
        };
        self.direction != question.direction
            && all_ports
            && self.means_everybody()
            && self.counts_in(Family::of(question.remote))
    }
}

impl RowRemote {
    fn includes(&self, remote: IpAddr, cloud: &CloudFacts) -> bool {
        match self {
            Self::Net(net) => net.contains(&remote),
            Self::Nobody => false,
            Self::Members { group, .. } => {
                let mut carriers = cloud.interfaces.values().filter(|interface| interface.groups.0.contains(group));
                let of_prefix =
                    |interface: &NetworkInterface| interface.prefixes.iter().any(|net| net.contains(&remote));
                carriers.any(|interface| interface.addresses.contains(&remote) || of_prefix(interface))
            }
        }
    }
}

/// Where a packet does not say its port or its type, only what does not ask for them serves it.
fn serves(service: &Service, question: &Question) -> bool {
    match *service {
        Service::All => true,
        Service::Protocol(protocol) => question.protocol == protocol,
        Service::Ports { protocol, from, to } => {
            question.protocol == protocol
                && match question.detail {
                    Detail::DestinationPort(port) => (from..=to).contains(&port),
                    _ => (from, to) == (0, u16::MAX),
                }
        }
        Service::Icmp { protocol, icmp_type, code } => {
            question.protocol == protocol
                && Family::of(question.remote) == family_of_icmp(protocol)
                && match (icmp_type, question.detail) {
                    (None, _) => true,
                    (Some(wanted), Detail::Icmp { icmp_type, code: said }) => {
                        wanted == icmp_type && code.is_none_or(|code| code == said)
                    }
                    _ => false,
                }
        }
    }
}

fn family_of_icmp(protocol: u8) -> Family {
    if protocol == ICMP { Family::V4 } else { Family::V6 }
}
