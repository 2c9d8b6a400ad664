//! From a compiled policy back to rules people can read.
//!
//! The compiler gives every key the rules of the shorter keys that cover it (inheritance); reading back
//! takes them away again, so that each rule shows only what it says itself.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use sgp_common::policy::{Axis, HEAD_BITS, RuleSet, Selector};
use sgp_common::{Direction, Family};

use super::groups::protocol_name;

/// One key of a trie: prefix length, selector, rules.
pub type Key = (u32, Selector, RuleSet);

/// A rule as the trie holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index within its direction and family.
    pub index: u16,
    /// The pod's point of view.
    pub direction: Direction,
    /// IP version.
    pub family: Family,
    /// Protocols with ports or ICMP types, as `tcp 80-443`, `icmp 8`, `all`.
    pub service: Vec<String>,
    /// CIDRs, and group sets as `set <16 hex digits>`.
    pub remote: Vec<String>,
}

/// Every rule that some key carries, in order of direction, family and index.
pub fn rows(keys: &[Key]) -> Vec<Row> {
    let mut rows: BTreeMap<(Direction, Family, u16), Row> = BTreeMap::new();
    let mut sorted: Vec<&Key> = keys.iter().filter(|(_, selector, _)| selector.axis != Axis::Digest).collect();
    sorted.sort_by_key(|(bits, selector, _)| (*selector, *bits));
    for key in &sorted {
        for index in own(key, &sorted) {
            let (direction, family) = (key.1.direction, key.1.family);
            let row = rows.entry((direction, family, index)).or_insert_with(|| Row {
                index,
                direction,
                family,
                service: Vec::new(),
                remote: Vec::new(),
            });
            match key.1.axis {
                Axis::Service => row.service.push(service(key)),
                _ => row.remote.push(remote(key)),
            }
        }
    }
    rows.into_values().map(joined).collect()
}

/// The rules of a key that no shorter key covering it has.
fn own(key: &Key, all: &[&Key]) -> Vec<u16> {
    let parents: Vec<&&Key> = all.iter().filter(|other| other.0 < key.0 && covers(other, key)).collect();
    let inherited = |index: usize| parents.iter().any(|parent| parent.2.contains(index));
    let mine = (0..sgp_common::limits::RULES_MAX).filter(|index| key.2.contains(*index) && !inherited(*index));
    mine.filter_map(|index| u16::try_from(index).ok()).collect()
}

fn covers(shorter: &Key, longer: &Key) -> bool {
    let head = |key: &Key| (key.1.direction, key.1.family, key.1.axis);
    let significant = |key: &Key| number(&key.1).checked_shr(128 - data_bits(shorter)).unwrap_or(0);
    head(shorter) == head(longer) && significant(shorter) == significant(longer)
}

fn data_bits(key: &Key) -> u32 {
    key.0.saturating_sub(HEAD_BITS)
}

fn number(selector: &Selector) -> u128 {
    u128::from_be_bytes(selector.data)
}

fn remote(key: &Key) -> String {
    let data = key.1.data;
    if key.1.axis == Axis::Peer {
        let set: [u8; 8] = [data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7]];
        return format!("set {:016x}", u64::from_be_bytes(set));
    }
    let mapped = if key.1.family == Family::V4 { 96 } else { 0 };
    format!("{}/{}", Ipv6Addr::from(data).to_canonical(), data_bits(key).saturating_sub(mapped))
}

fn service(key: &Key) -> String {
    let (data, bits) = (key.1.data, data_bits(key));
    let name = protocol_name(data[0]);
    match (bits, data[0]) {
        (0, _) => "all".to_owned(),
        (8, _) => name,
        (16, 1 | 58) => format!("{name} {}", data[1]),
        (_, 1 | 58) => format!("{name} {}/{}", data[1], data[2]),
        _ => {
            let from = u16::from_be_bytes([data[1], data[2]]);
            let to = from | u16::MAX.checked_shr(bits - 8).unwrap_or(0);
            format!("{name} {from}-{to}")
        }
    }
}

/// Neighbouring port ranges are one range, and a range of one port is a port.
fn joined(mut row: Row) -> Row {
    let mut ranges: Vec<(String, u32, u32)> = Vec::new();
    let mut others = Vec::new();
    for text in row.service {
        match parse_range(&text) {
            Some((name, from, to)) => match ranges.last_mut() {
                Some(last) if last.0 == name && last.2 + 1 == from => last.2 = to,
                _ => ranges.push((name, from, to)),
            },
            None => others.push(text),
        }
    }
    let text = |(name, from, to)| if from == to { format!("{name} {from}") } else { format!("{name} {from}-{to}") };
    others.extend(ranges.into_iter().map(text));
    row.service = others;
    row
}

fn parse_range(text: &str) -> Option<(String, u32, u32)> {
    let (name, range) = text.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    Some((name.to_owned(), from.parse().ok()?, to.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::compile::{Context, compile};
    use crate::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, Service};

    #[test]
    fn a_compiled_policy_reads_back_as_the_rules_it_was_made_of() {
        let rule = |id: &str, service, remote: &str| Rule {
            id: id.into(),
            group_id: "sg-1".into(),
            direction: Direction::Inbound,
            service,
            remote: Remote::Cidr(remote.parse().expect("a CIDR")),
        };
        let rules = vec![
            rule("sgr-1", Service::Ports { protocol: 6, from: 80, to: 443 }, "10.0.0.0/8"),
            rule("sgr-2", Service::All, "10.1.0.0/16"),
        ];
        let group = SecurityGroup { id: "sg-1".into(), vpc_id: "vpc-1".into(), rules };
        let groups = BTreeMap::from([("sg-1".to_owned(), group)]);
        let (lists, sets) = (BTreeMap::new(), BTreeSet::new());
        let context = Context { groups: &groups, prefix_lists: &lists, group_sets: &sets };
        let policy = compile(&GroupSet::of(["sg-1"]), &context).expect("two rules compile");
        let keys: Vec<Key> =
            policy.trie.iter().map(|((bits, selector), answer)| (*bits, *selector, answer.rules)).collect();
        let shown: Vec<(Vec<String>, Vec<String>)> =
            rows(&keys).into_iter().map(|row| (row.service, row.remote)).collect();
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(shown, [(text(&["tcp 80-443"]), text(&["10.0.0.0/8"])), (text(&["all"]), text(&["10.1.0.0/16"]))]);
    }
}
