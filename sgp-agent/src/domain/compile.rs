//! From a set of groups to the policy that judges by them.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sgp_common::limits::POLICY_KEYS_MAX;
use sgp_common::packet::{ICMP, ICMPV6};
use sgp_common::policy::{Answer, Axis, FULL_BITS, HEAD_BITS, PEER_BITS, RuleKey, RuleSet, Selector, hints};
use sgp_common::{Direction, Family};
use sha2::{Digest, Sha256};

use super::desired::Policy;
use super::groups::{GroupSet, Remote, Rule, RuleName, SecurityGroup, Service};
use super::prefix;
use super::tracking::Openness;

/// EC2's quota: rows of all groups of an interface, of one direction and family, a prefix list counting as
/// its entries (AWS VPC quotas: rules per group x groups per interface <= 1,000).
pub const RULES_QUOTA: usize = 1000;
/// EC2's quota of groups an interface carries, at its highest (AWS VPC quotas).
pub const GROUPS_QUOTA: usize = 16;

/// What rules may refer to.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Groups EC2 knows, by id.
    pub groups: &'a BTreeMap<String, SecurityGroup>,
    /// Prefix lists EC2 knows, by id.
    pub prefix_lists: &'a BTreeMap<String, Vec<IpNet>>,
    /// Every group set that some known address carries.
    pub group_sets: &'a BTreeSet<GroupSet>,
}

/// Compiles the union of the set's groups. Rules are numbered for each direction and family in the order
/// of (group id, rule id), so that the same facts always give the same policy. A rule that refers to a
/// prefix list EC2 does not know, or to a group that no interface carries, matches nothing.
///
/// # Errors
/// A sentence, where the policy is beyond a limit.
pub fn compile(set: &GroupSet, context: &Context<'_>) -> Result<Policy, String> {
    if set.0.len() > GROUPS_QUOTA {
        return Err(format!("group set {set} has {} groups; EC2's quota is {GROUPS_QUOTA}", set.0.len()));
    }
    let mut rules: Vec<&Rule> =
        set.0.iter().filter_map(|id| context.groups.get(id)).flat_map(|group| &group.rules).collect();
    rules.sort_by_key(|rule| (&rule.group_id, &rule.id));
    let mut keys = BTreeMap::new();
    let mut names = BTreeMap::new();
    let having = having(context.group_sets);
    for half in halves(context, &having) {
        half.compile(set, &rules, &mut keys, &mut names)?;
    }
    if keys.len() >= POLICY_KEYS_MAX as usize {
        return Err(format!("group set {set} needs {} trie keys; {POLICY_KEYS_MAX} is the most", keys.len()));
    }
    let open: BTreeMap<_, _> =
        halves(context, &having).map(|half| ((half.direction, half.family), half.openness(&rules))).collect();
    Ok(seal(answers(prefix::inherit(keys), &open), names))
}

/// What the keys answer beside their rules.
fn answers(keys: Keys, open: &BTreeMap<(Direction, Family), Openness>) -> Trie {
    let asking = asking(&keys);
    let hints = |bits: u32, selector: &Selector, rules: &RuleSet| {
        let of = |axis| asking.get(&(selector.direction, selector.family, axis));
        let some = |axis, hint| if of(axis).is_some_and(|asking: &RuleSet| asking.meets(rules)) { hint } else { 0 };
        match selector.axis {
            Axis::Service => {
                let untracked = open[&(selector.direction, selector.family)].untracked(bits, selector, rules);
                untracked | some(Axis::Remote, hints::BY_ADDRESS) | some(Axis::Peer, hints::BY_GROUP)
            }
            _ => 0,
        }
    };
    let answer = |((bits, selector), rules)| {
        ((bits, selector), Answer { rules, digest: 0, hints: hints(bits, &selector, &rules) })
    };
    keys.into_iter().map(answer).collect()
}

/// Of each direction and family, the rules that some key of an axis satisfies.
fn asking(keys: &Keys) -> BTreeMap<(Direction, Family, Axis), RuleSet> {
    let mut asking = BTreeMap::new();
    for ((_, selector), rules) in keys {
        let of = asking.entry((selector.direction, selector.family, selector.axis)).or_insert(RuleSet::EMPTY);
        of.words.iter_mut().zip(rules.words).for_each(|(all, some)| *all |= some);
    }
    asking
}

/// Ids of the sets that have a group, by its id.
type Having<'a> = BTreeMap<&'a str, Vec<u64>>;

fn having(sets: &BTreeSet<GroupSet>) -> Having<'_> {
    let mut having = Having::new();
    for set in sets {
        let id = set.id().0;
        set.0.iter().for_each(|group| having.entry(group).or_default().push(id));
    }
    having
}

/// Both directions of both families.
fn halves<'a>(context: &'a Context<'a>, having: &'a Having<'a>) -> impl Iterator<Item = Half<'a>> {
    let directions = [Direction::Inbound, Direction::Outbound].into_iter();
    let families = |direction| [(direction, Family::V4), (direction, Family::V6)];
    directions.flat_map(families).map(|(direction, family)| Half { direction, family, context, having })
}

type Keys = BTreeMap<(u32, Selector), RuleSet>;
type Names = BTreeMap<RuleKey, RuleName>;
type Trie = BTreeMap<(u32, Selector), Answer>;

/// One direction and family of a policy.
struct Half<'a> {
    direction: Direction,
    family: Family,
    context: &'a Context<'a>,
    having: &'a Having<'a>,
}

impl Half<'_> {
    /// The rules of this half; a rule's index is its place here.
    fn numbered<'r>(&self, rules: &[&'r Rule]) -> Vec<&'r Rule> {
        rules.iter().filter(|rule| self.applies(rule)).copied().collect()
    }

    fn openness(&self, rules: &[&Rule]) -> Openness {
        let other = Half { direction: self.direction.opposite(), ..*self };
        Openness::of(&self.numbered(rules), &other.numbered(rules), |rule| self.is_everybody(rule))
    }

    fn compile(&self, set: &GroupSet, rules: &[&Rule], keys: &mut Keys, names: &mut Names) -> Result<(), String> {
        let rules = self.numbered(rules);
        let rows: usize = rules.iter().map(|rule| self.rows(rule)).sum();
        if rows > RULES_QUOTA {
            return Err(format!(
                "group set {set} has {rows} {:?} rules for {:?}; EC2's quota is {RULES_QUOTA}",
                self.direction, self.family
            ));
        }
        for (index, rule) in rules.into_iter().enumerate() {
            for key in self.who(rule).into_iter().chain(self.what(&rule.service)) {
                keys.entry(key).or_insert(RuleSet::EMPTY).insert(index);
            }
            let (direction, family) = (self.direction, self.family);
            let key = RuleKey { policy_digest: 0, rule: index as u16, direction, family, reserved: [0; 4] };
            names.insert(key, RuleName { group_id: rule.group_id.clone(), rule_id: rule.id.clone() });
        }
        Ok(())
    }

    /// A rule belongs to a family by its CIDR, its list's entries or its kind of ICMP; group references to both.
    fn applies(&self, rule: &Rule) -> bool {
        let by_remote = match &rule.remote {
            Remote::Cidr(net) => family_of(net) == self.family,
            Remote::PrefixList(id) => self.list(id).next().is_some(),
            Remote::Group(_) | Remote::Stale(_) => true,
        };
        let by_service = match rule.service {
            Service::Icmp { protocol: ICMP, .. } => self.family == Family::V4,
            Service::Icmp { protocol: ICMPV6, .. } => self.family == Family::V6,
            _ => true,
        };
        rule.direction == self.direction && by_remote && by_service
    }

    fn is_everybody(&self, rule: &Rule) -> bool {
        match &rule.remote {
            Remote::Cidr(net) => net.prefix_len() == 0,
            Remote::PrefixList(id) => self.list(id).any(|net| net.prefix_len() == 0),
            Remote::Group(_) | Remote::Stale(_) => false,
        }
    }

    fn rows(&self, rule: &Rule) -> usize {
        match &rule.remote {
            Remote::PrefixList(id) => self.list(id).count(),
            _ => 1,
        }
    }

    /// The list's entries of this family.
    fn list(&self, id: &str) -> impl Iterator<Item = &IpNet> {
        let all = self.context.prefix_lists.get(id).map_or(&[][..], Vec::as_slice);
        all.iter().filter(|net| family_of(net) == self.family)
    }

    fn who(&self, rule: &Rule) -> Vec<(u32, Selector)> {
        match &rule.remote {
            Remote::Cidr(net) => vec![self.address(net)],
            Remote::PrefixList(id) => self.list(id).map(|net| self.address(net)).collect(),
            Remote::Stale(_) => Vec::new(),
            Remote::Group(id) => {
                let sets = self.having.get(id.as_str()).into_iter().flatten();
                sets.map(|set| (PEER_BITS, Selector::peer(self.direction, self.family, *set))).collect()
            }
        }
    }

    fn address(&self, net: &IpNet) -> (u32, Selector) {
        let (addr, bits) = prefix::address(net);
        (HEAD_BITS + bits, Selector { data: addr.bytes, ..Selector::new(self.direction, self.family, Axis::Remote) })
    }

    fn what(&self, service: &Service) -> Vec<(u32, Selector)> {
        match *service {
            Service::All => vec![self.service(&[], 0)],
            Service::Protocol(protocol) => vec![self.service(&[protocol], 8)],
            Service::Icmp { protocol, icmp_type: None, .. } => vec![self.service(&[protocol], 8)],
            Service::Icmp { protocol, icmp_type: Some(kind), code: None } => vec![self.service(&[protocol, kind], 16)],
            Service::Icmp { protocol, icmp_type: Some(kind), code: Some(code) } => {
                vec![self.service(&[protocol, kind, code], 24)]
            }
            Service::Ports { protocol, from, to } => prefix::ports(from, to)
                .into_iter()
                .map(|(port, bits)| self.service(&[protocol, (port >> 8) as u8, port as u8], 8 + bits))
                .collect(),
        }
    }

    fn service(&self, data: &[u8], bits: u32) -> (u32, Selector) {
        let mut key = Selector::new(self.direction, self.family, Axis::Service);
        key.data[..data.len()].copy_from_slice(data);
        (HEAD_BITS + bits, key)
    }
}

fn family_of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// Computes the digest, and writes it into the trie and the names.
fn seal(mut trie: Trie, names: Names) -> Policy {
    trie.insert((FULL_BITS, Selector::digest()), Answer::EMPTY);
    let mut hash = Sha256::new();
    for ((bits, selector), answer) in &trie {
        hash.update(bits.to_be_bytes());
        hash.update([selector.direction as u8, selector.family as u8, selector.axis as u8]);
        hash.update(selector.data);
        answer.rules.words.iter().for_each(|word| hash.update(word.to_be_bytes()));
        hash.update(answer.hints.to_be_bytes());
    }
    for (key, name) in &names {
        hash.update([key.direction as u8, key.family as u8]);
        hash.update(key.rule.to_be_bytes());
        for text in [&name.rule_id, &name.group_id] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
    let hash = hash.finalize();
    let digest = u64::from_be_bytes(std::array::from_fn(|i| hash[i]));
    trie.values_mut().for_each(|answer| answer.digest = digest);
    let names = names.into_iter().map(|(key, name)| (RuleKey { policy_digest: digest, ..key }, name)).collect();
    Policy { digest, trie, names }
}

/// Zero-padded; a longer text is cut.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = text.len().min(N);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}
