//! No packet sees half of an old and half of a new state: packets run all the while, and what a state says of each of them
//! is the same before and after every change, but not in any mixture of the two.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use frames::{Frame, ip};
use node::rules::{ec2, set};
use node::{Node, judged};
use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::observed::{NetworkInterface, Observed};
use sgp_agent::domain::plan::Step;
use sgp_agent::io::kernel::Kernel;
use sgp_common::pins::program;

/// How long one state stands.
const PERIOD: Duration = Duration::from_millis(10);
/// The least packets of one test.
const PACKETS: usize = 1_000_000;
/// The least changes of one test; where they are slow there are more packets.
const CHANGES: usize = 100;

/// A packet, and what is to become of it whatever state there is. Errors of ICMP belong to no flow: each of them asks the
/// policy of the moment.
struct Probe {
    frame: Vec<u8>,
    passes: bool,
}

impl Probe {
    fn new(from: &str, to: IpAddr, icmp_type: u8, passes: bool) -> Self {
        Self { frame: Frame::icmp(ip(from), to, icmp_type, 1, 0).bytes(), passes }
    }
}

/// Runs packets to the first pod while the states take turns; every one of them must fare as its probe says.
fn hold(node: &mut Node, what: &str, states: &[Observed; 2], probes: &[Probe]) {
    let (pod, program) = (node.pods[0].clone(), node.program(program::FROM_BRANCH));
    change(node, &states[1], &states[0]);
    let (done, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (ran, torn) = std::thread::scope(|scope| {
        let packets = scope.spawn(|| {
            let (mut ran, mut torn) = (0, 0);
            for probe in probes.iter().cycle() {
                if ran >= PACKETS && changes.load(Ordering::Relaxed) >= CHANGES {
                    break;
                }
                ran += 1;
                torn += usize::from(judged(&program, pod.receives(), &probe.frame).0 != probe.passes);
            }
            done.store(true, Ordering::Relaxed);
            (ran, torn)
        });
        while !done.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let turn = changes.fetch_add(1, Ordering::Relaxed);
            change(node, &states[turn % 2], &states[(turn + 1) % 2]);
            std::thread::sleep(PERIOD.saturating_sub(begun.elapsed()));
        }
        packets.join().expect("the packets ran")
    });
    println!("{ran} packets during {} changes of {what}: {torn} torn", changes.into_inner());
    assert_eq!(torn, 0);
}

/// As a round of the agent that knew `before` brings about `after`.
fn change(node: &mut Node, before: &Observed, after: &Observed) {
    let former_group_sets = before.cloud.as_ref().expect("a cloud").group_sets();
    let after = Observed { former_group_sets, ..after.clone() };
    for step in node.plan(&after) {
        node.kernel.apply(&step).unwrap_or_else(|error| panic!("{step:?}: {error:#}"));
    }
}

/// Two policies of which each rule of one differs from the rule at its place in the other.
const TURNED: [[&str; 2]; 2] =
    [["in icmp 11 10.0.0.0/16", "in icmp 3 10.1.0.0/16"], ["in icmp 3 10.1.0.0/16", "in icmp 11 10.0.0.0/16"]];

/// What both of them let through, and what neither does.
fn turned(to: IpAddr) -> [Probe; 4] {
    [
        Probe::new("10.0.0.7", to, 11, true),
        Probe::new("10.0.0.7", to, 3, false),
        Probe::new("10.1.0.7", to, 3, true),
        Probe::new("10.1.0.7", to, 11, false),
    ]
}

#[test]
fn no_packet_sees_half_of_an_old_and_half_of_a_new_policy() {
    let Some(mut node) = Node::start(1) else { return };
    let states = TURNED.map(|rules| node.observed(&ec2(&[("sg-1", &rules)]), &[set(&["sg-1"])]));
    let probes = turned(node.pods[0].ipv4);
    hold(&mut node, "policy", &states, &probes);
}

#[test]
fn no_packet_sees_an_endpoint_between_its_old_and_its_new_groups() {
    let Some(mut node) = Node::start(6) else { return };
    let (turned_rules, others) = (TURNED, ["in icmp 3 10.0.0.0/16", "in icmp 11 10.1.0.0/16"]);
    let cloud = ec2(&[("sg-1", &turned_rules[0]), ("sg-2", &turned_rules[1]), ("sg-3", &others), ("sg-4", &others)]);
    // The second pod, changed along with the first, is allowed what that is not; the rest keep all policies in use.
    let states = [["sg-1", "sg-3"], ["sg-2", "sg-4"]].map(|changing| {
        let pods = changing.into_iter().chain(["sg-1", "sg-2", "sg-3", "sg-4"]);
        node.observed(&cloud, &pods.map(|id| set(&[id])).collect::<Vec<_>>())
    });
    let probes = turned(node.pods[0].ipv4);
    hold(&mut node, "groups of two endpoints", &states, &probes);
}

/// An interface elsewhere in the VPC.
fn peer(address: &str, groups: &GroupSet) -> NetworkInterface {
    NetworkInterface {
        id: format!("eni-{address}"),
        addresses: vec![ip(address)],
        groups: groups.clone(),
        ..NetworkInterface::default()
    }
}

#[test]
fn no_packet_sees_a_peer_between_its_old_and_its_new_groups() {
    let Some(mut node) = Node::start(1) else { return };
    let cloud = ec2(&[("sg-1", &["in icmp 3 sg-a"]), ("sg-a", &[]), ("sg-b", &[]), ("sg-c", &[])]);
    // Nobody else has any of these group sets: each goes and comes with the peer that carries it.
    let members = [[set(&["sg-a", "sg-b"]), set(&["sg-b"])], [set(&["sg-a", "sg-c"]), set(&["sg-c"])]];
    let states = members.map(|[member, stranger]| {
        let mut cloud = cloud.clone();
        let peers = [peer("10.1.0.7", &member), peer("10.1.0.8", &stranger)];
        cloud.interfaces.extend(peers.map(|peer| (peer.id.clone(), peer)));
        node.observed(&cloud, &[set(&["sg-1"])])
    });
    let to = node.pods[0].ipv4;
    let probes = [Probe::new("10.1.0.7", to, 3, true), Probe::new("10.1.0.8", to, 3, false)];
    hold(&mut node, "the groups of two peers", &states, &probes);
}

#[test]
fn policies_know_the_group_sets_of_before_for_one_round_and_no_longer() {
    let Some(mut node) = Node::start(1) else { return };
    let cloud = ec2(&[("sg-1", &["in icmp 3 sg-a"]), ("sg-a", &[])]);
    let state = node.observed(&cloud, &[set(&["sg-1"])]);
    let keys = |node: &Node| node.maps.policy(set(&["sg-1"]).id()).expect("a policy").keys().count();
    node.apply(&Observed { former_group_sets: BTreeSet::from([set(&["sg-a"])]), ..state.clone() });
    let before = keys(&node);
    node.apply(&state);
    assert_eq!(keys(&node) + 1, before);
}

#[test]
fn a_change_of_rules_swaps_a_policy_and_tells_flows_and_writes_no_endpoint() {
    let Some(mut node) = Node::start(1) else { return };
    let states = TURNED.map(|rules| node.observed(&ec2(&[("sg-1", &rules)]), &[set(&["sg-1"])]));
    node.apply(&states[0]);
    let plan = node.plan(&states[1]);
    assert!(matches!(plan[..], [Step::PutPolicy(..), Step::PutRevision(..)]), "{plan:?}");
}
