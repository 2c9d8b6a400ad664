//! A compiled policy says about every packet what a plain reading of the rules says, and names the same rule.

mod oracle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use oracle::random::Random;
use oracle::{Ask, World, frames};
use sgp_agent::domain::compile::{Context, RULES_QUOTA, compile};
use sgp_agent::domain::desired::{Policy, mapped, own_peers};
use sgp_agent::domain::explain::explain;
use sgp_agent::domain::groups::{GroupSet, GroupSetId, Remote, Rule, SecurityGroup, Service};
use sgp_common::addr::prefix_name;
use sgp_common::packet::{Packet, parse};
use sgp_common::policy::{Answer, HEAD_BITS, RuleKey, Selector};
use sgp_common::{Addr, Direction};

/// What the kernel's trie would answer: the longest key that covers the one asked for.
fn longest(policy: &Policy, bits: u32, asked: Selector) -> Option<Answer> {
    let cut = |selector: &Selector, bits: u32| {
        let number = u128::from_be_bytes(selector.data);
        number.checked_shr(128 + HEAD_BITS - bits).unwrap_or(0)
    };
    let head = |selector: &Selector| (selector.direction, selector.family, selector.axis);
    let covers = |of: u32, key: &Selector| of <= bits && head(key) == head(&asked) && cut(key, of) == cut(&asked, of);
    let covering = policy.trie.iter().filter(|((of, key), _)| covers(*of, key));
    covering.max_by_key(|((of, _), _)| *of).map(|(_, answer)| *answer)
}

fn packet(ask: &Ask) -> Packet {
    let local: IpAddr = if ask.remote.is_ipv4() { frames::ip("10.9.9.9") } else { frames::ip("2001:db8:9::9") };
    let mut packet = Packet::EMPTY;
    parse(&ask.frame(local, 7).bytes()[..], &mut packet).expect("a whole frame");
    packet
}

fn compiled(world: &World) -> Policy {
    let group_sets: BTreeSet<GroupSet> = world.cloud.interfaces.values().map(|eni| eni.groups.clone()).collect();
    let (groups, prefix_lists) = (&world.cloud.groups, &world.cloud.prefix_lists);
    compile(&world.groups, &Context { groups, prefix_lists, group_sets: &group_sets }).expect("within the quotas")
}

/// Id of the rule that the policy names.
fn named(policy: &Policy, peers: &BTreeMap<Addr, GroupSetId>, ask: &Ask) -> Option<String> {
    let packet = packet(ask);
    let remote = mapped(ask.remote);
    let by_prefix = || ask.remote.is_ipv6().then(|| peers.get(&prefix_name(&remote)).copied()).flatten();
    let peer = peers.get(&remote).copied().or_else(by_prefix).map(|set| set.0);
    let answer = explain(|bits, key| longest(policy, bits, key), &packet, ask.direction, peer);
    let (direction, family) = (ask.direction, packet.family);
    let key = RuleKey { policy_digest: policy.digest, rule: answer.rule?, direction, family, reserved: [0; 4] };
    Some(policy.names.get(&key).expect("every rule has a name").rule_id.clone())
}

#[test]
fn a_compiled_policy_names_the_rule_that_a_plain_reading_names() {
    let mut random = Random::seeded();
    let (mut packets, mut allowed) = (0, 0);
    for round in 0..120 {
        let world = World::random(&mut random, [1, 4, 15, 60][round % 4]);
        let policy = compiled(&world);
        let peers = own_peers(&world.cloud);
        for _ in 0..150 {
            let ask = world.ask(&mut random);
            let (read, asked) = (world.scan(&ask), named(&policy, &peers, &ask));
            assert_eq!(asked.as_deref(), read, "{ask:?} in a world of groups {}", world.groups);
            packets += 1;
            allowed += usize::from(read.is_some());
        }
    }
    println!("{packets} packets judged, {allowed} of them allowed");
    assert!(allowed > packets / 5 && allowed < packets * 4 / 5, "packets are on both sides: {allowed} of {packets}");
}

#[test]
fn the_same_facts_give_the_same_policy_and_other_facts_another() {
    let mut random = Random::seeded();
    let mut world = World::random(&mut random, 20);
    let (one, again) = (compiled(&world), compiled(&world));
    assert_eq!(one, again);
    let first = world.groups.0.first().cloned().expect("a group");
    let group = world.cloud.groups.get_mut(&first).expect("a known group");
    group.rules.reverse();
    assert_eq!(compiled(&world).digest, one.digest, "the order in which EC2 lists rules means nothing");
    let group = world.cloud.groups.get_mut(&first).expect("a known group");
    group.rules.push(rule("sgr-new", "192.0.2.0/24", 4242));
    assert_ne!(compiled(&world).digest, one.digest);
}

fn rule(id: &str, cidr: &str, port: u16) -> Rule {
    Rule {
        id: id.into(),
        group_id: "sg-1".into(),
        direction: Direction::Inbound,
        service: Service::Ports { protocol: 6, from: port, to: port },
        remote: Remote::Cidr(cidr.parse().expect("a CIDR")),
    }
}

#[test]
fn a_policy_at_the_quota_is_compiled_and_one_beyond_is_refused_with_a_reason() {
    let outcome = |rows: usize| {
        let rules = (0..rows).map(|row| rule(&format!("sgr-{row:05}"), "10.0.0.0/8", row as u16)).collect();
        let group = SecurityGroup { id: "sg-1".into(), vpc_id: "vpc-1".into(), rules };
        let groups = BTreeMap::from([("sg-1".to_owned(), group)]);
        let (lists, sets) = (BTreeMap::new(), BTreeSet::new());
        compile(&GroupSet::of(["sg-1"]), &Context { groups: &groups, prefix_lists: &lists, group_sets: &sets })
    };
    assert_eq!(outcome(RULES_QUOTA).map(|policy| policy.names.len()), Ok(RULES_QUOTA));
    let reason = outcome(RULES_QUOTA + 1).expect_err("beyond the quota");
    assert!(reason.contains("1001") && reason.contains("sg-1"), "{reason}");
}

#[test]
fn a_packet_is_known_by_the_address_the_kernel_would_see() {
    assert_eq!(mapped(frames::ip("10.0.0.1")).bytes[10..], [0xff, 0xff, 10, 0, 0, 1]);
}
