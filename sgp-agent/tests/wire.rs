//! A pod's packets on real interfaces, by real sockets, through programs that are attached.

mod node;

use std::net::IpAddr;

use node::Node;
use node::ground::attachments;
use node::rules::{ec2, set};
use node::wire::{Branch, CLIENTS, Wire};
use sgp_agent::io::kernel::Attachment;
use sgp_common::event::CounterKey;
use sgp_common::{Direction, DropReason};

const RULES: [&str; 5] = [
    "in tcp 80 10.0.0.0/8",
    "in tcp 80 2001:db8::/32",
    "out udp 53 10.0.0.0/8",
    "out udp 53 2001:db8::/32",
    "out icmp 8 10.0.0.0/8",
];

/// A node with one pod that is wired and enforced.
fn wired(branch: Branch, attachment: Attachment) -> (Node, Wire) {
    let mut wire = None;
    let mut node = Node::start_by(attachment, || {
        let (laid, pod) = Wire::lay(branch);
        wire = Some(laid);
        vec![pod]
    });
    let observed = node.observed(&ec2(&[("sg-1", &RULES)]), &[set(&["sg-1"])]);
    node.apply(&observed);
    (node, wire.expect("the pod was wired"))
}

fn counted(node: &Node, direction: Direction, reason: u8) -> u64 {
    let key = CounterKey { endpoint: node.endpoint(0).0, direction, reason, reserved: [0; 6] };
    node.maps.counters.get(&key, 0).map_or(0, |values| values.iter().map(|counter| counter.packets).sum())
}

/// Both directions, both families, and of each protocol something that is allowed and something that is not.
fn judges_what_goes_by(node: &Node, wire: &Wire) {
    let dropped = |direction| counted(node, direction, DropReason::NoMatchingRule as u8);
    let pod = &node.pods[0];
    for (pod, client) in [pod.ipv4, pod.ipv6].into_iter().zip(CLIENTS) {
        let client: IpAddr = client.parse().expect("an address");
        let (inbound, outbound) = (dropped(Direction::Inbound), dropped(Direction::Outbound));
        assert!(wire.reaches_pod(pod, 80), "{client} may reach {pod}");
        assert_eq!(dropped(Direction::Inbound), inbound);
        assert!(!wire.reaches_pod(pod, 81), "{client} may not reach {pod} on another port");
        assert!(dropped(Direction::Inbound) > inbound);
        assert!(wire.pod_asks(client, 53), "{pod} may ask {client}");
        assert_eq!(dropped(Direction::Outbound), outbound);
        assert!(!wire.pod_asks(client, 54), "{pod} may not ask {client} on another port");
        assert!(dropped(Direction::Outbound) > outbound);
    }
    assert!(wire.pod_pings([10, 0, 2, 20]), "the pod may ping");
    assert!(!wire.pod_pings([192, 0, 2, 20]), "but not everybody");
}

#[test]
fn real_packets_pass_and_drop_by_the_rules_however_programs_are_attached() {
    for attachment in attachments() {
        let (node, wire) = wired(Branch::Veth, *attachment);
        judges_what_goes_by(&node, &wire);
    }
}

#[test]
#[ignore = "needs 8021q: `cargo xtask test --kernel latest` has it"]
fn a_branch_that_is_a_vlan_of_the_trunk_is_judged_by_its_rules() {
    for attachment in attachments() {
        let (node, wire) = wired(Branch::Vlan, *attachment);
        let before = wire.tagged_frames();
        judges_what_goes_by(&node, &wire);
        assert!(wire.tagged_frames() > before + 8, "what the pod sent bore its VLAN's tag");
    }
}

#[test]
#[ignore = "needs 8021q: `cargo xtask test --kernel latest` has it"]
fn a_vlan_that_is_nobodys_leads_nowhere() {
    for attachment in attachments().iter().take(1) {
        let (node, wire) = wired(Branch::Vlan, *attachment);
        assert!(wire.reaches_pod(node.pods[0].ipv4, 80));
        wire.mistake_vlan();
        assert!(!wire.reaches_pod(node.pods[0].ipv4, 80));
        assert!(!wire.reaches_pod(node.pods[0].ipv4, 81));
        let refused = counted(&node, Direction::Inbound, DropReason::NoMatchingRule as u8);
        assert_eq!(refused, 0, "the pod's branch has not even refused it");
    }
}
