//! The kernel says about every packet what a plain reading of the rules says, and names the same rule: in its
//! event, and in the flow it opened. The policies come there as they always do: observed, desired, planned,
//! applied.

mod node;
mod oracle;

use std::net::IpAddr;
use std::time::Instant;

use node::{Node, Ran};
use oracle::random::Random;
use oracle::{Ask, Said, World};
use sgp_agent::domain::groups::EndpointId;
use sgp_agent::io::kernel::Kernel;
use sgp_common::flow::{FlowKey, FlowState};
use sgp_common::packet::{Packet, parse};
use sgp_common::policy::RuleKey;
use sgp_common::{Direction, DropReason, Family};

const WORLDS: usize = 40;
const PACKETS_PER_WORLD: usize = 2_600;

/// How many worlds: fewer where `SGP_TEST_WORLDS` says so, in emulated machines that take minutes for all of them.
fn worlds() -> usize {
    let fewer = std::env::var("SGP_TEST_WORLDS").ok().map(|text| text.parse().expect("SGP_TEST_WORLDS is a number"));
    fewer.unwrap_or(WORLDS).max(1)
}

#[test]
fn the_kernel_names_the_rule_that_a_plain_reading_names() {
    let Some(mut node) = Node::start(1) else { return };
    let mut random = Random::seeded();
    let start = Instant::now();
    let (mut packets, mut allowed) = (0, 0);
    for round in 0..worlds() {
        let world = World::random(&mut random, [1, 5, 30, 200, 900][round % 5]);
        let observed = node.observed(&world.cloud, std::slice::from_ref(&world.groups));
        // The pod itself carries the groups too, and is in no list of the world's: it never is the remote.
        node.apply(&observed);
        for serial in 0..PACKETS_PER_WORLD {
            let ask = world.ask(&mut random);
            let read = world.scan(&ask);
            check(&mut node, &ask, serial as u16, read);
            packets += 1;
            allowed += usize::from(read.is_some());
        }
        node.kernel.sweep().expect("a sweep");
    }
    println!("{packets} packets judged in the kernel, {allowed} of them allowed, in {:?}", start.elapsed());
    assert_eq!(packets, worlds() * PACKETS_PER_WORLD);
    assert!(allowed > packets / 5 && allowed < packets * 4 / 5, "packets are on both sides");
}

/// Runs one packet and compares it with what the rules read: the id of a rule, or none.
fn check(node: &mut Node, ask: &Ask, serial: u16, read: Option<&str>) {
    let pod = node.pods[0].clone();
    let local = if ask.remote.is_ipv4() { pod.ipv4 } else { pod.ipv6 };
    let at = if ask.direction == Direction::Inbound { pod.receives() } else { pod.leaves() };
    let frame = ask.frame(local, serial).bytes();
    let ran = node.run(at, &frame);
    assert_eq!(ran.passed, read.is_some(), "{ask:?}: {ran:?}, but the rules say {read:?}");
    assert_eq!(ran.events.len(), 1, "{ask:?}: {ran:?}");
    match read {
        Some(rule) => {
            assert_eq!(named(node, &ran, ask).as_deref(), Some(rule), "{ask:?}: {ran:?}");
            check_flow(node, &ran, ask, &frame);
        }
        None => assert_eq!(DropReason::from_code(ran.events[0].reason), Some(reason(ask)), "{ask:?}"),
    }
}

fn named(node: &Node, ran: &Ran, ask: &Ask) -> Option<String> {
    let event = &ran.events[0];
    assert_eq!((event.reason, event.direction), (0, ask.direction));
    let family = if ask.remote.is_ipv4() { Family::V4 } else { Family::V6 };
    let (policy_digest, rule, direction) = (event.policy_digest, event.rule, ask.direction);
    let key = RuleKey { policy_digest, rule, direction, family, reserved: [0; 4] };
    node.maps.rule_name(&key).map(|(rule, _)| rule)
}

/// The flow that the packet opened says the same as the event; then it goes, and disturbs no other packet.
fn check_flow(node: &mut Node, ran: &Ran, ask: &Ask, frame: &[u8]) {
    let mut packet = Packet::EMPTY;
    parse(frame, &mut packet).expect("a whole frame");
    let Some(key) = FlowKey::of(EndpointId::of(&node.pods[0].interface_id).0, &packet, ask.direction) else { return };
    let flow = node.maps.flows.get(&key, 0).expect("an allowed packet opens a flow");
    let event = &ran.events[0];
    assert_eq!((flow.rule, flow.policy_digest), (event.rule, event.policy_digest), "{ask:?}");
    assert_eq!((flow.state, flow.opened), (FlowState::Opening, ask.direction));
    node.maps.flows.remove(&key).expect("the flow goes");
}

fn reason(ask: &Ask) -> DropReason {
    let icmp = match ask.remote {
        IpAddr::V4(_) => 1,
        IpAddr::V6(_) => 58,
    };
    let later_fragment = ask.said == Said::Nothing && (matches!(ask.protocol, 6 | 17) || ask.protocol == icmp);
    if later_fragment { DropReason::FragmentWithoutFlow } else { DropReason::NoMatchingRule }
}
