//! A pod's packets on real interfaces, by real sockets, through programs that are attached.

mod node;

use std::net::IpAddr;
use std::process::Command;

use aya::programs::TcAttachType;
use aya::programs::links::LinkOrder;
use aya::programs::tc::TcAttachOptions;
use node::Node;
use node::ground::attachments;
use node::rules::{ec2, set};
use node::wire::{Branch, CLIENTS, Wire, tc};
use sgp_agent::io::kernel::Attachment;
use sgp_agent::io::kernel::Counted;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_common::pins::program;
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
    let of = |counted: &Counted| (counted.endpoint, counted.direction, counted.reason.map_or(0, |reason| reason as u8));
    let wanted = (Some(node.endpoint(0)), direction, reason);
    node.maps.counted().iter().find(|counted| of(counted) == wanted).map_or(0, |counted| counted.packets)
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

/// A program of somebody else on the pod's host veth, as a filter: our programs stand in for it.
fn add_filter(node: &Node, hook: &str, place: &str, program: &str) {
    let pin = PinDirs::new(&node.dir).program(program);
    tc(&format!("filter replace dev host1 {hook} protocol all {place} bpf da object-pinned {}", pin.display()));
}

#[test]
fn programs_of_others_before_and_after_ours_are_asked_too_and_ours_judge_as_ever() {
    for attachment in attachments() {
        let (node, wire) = wired(Branch::Veth, *attachment);
        // One that has no word of its own, as this has none where no primary interface is known: first, and last.
        let mut first = node.program(program::FROM_PRIMARY);
        if *attachment == Attachment::Tcx {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            first.attach_with_options("host1", TcAttachType::Ingress, order).expect("tcx takes another program");
        } else {
            add_filter(&node, "ingress", "prio 1 handle 1", program::FROM_PRIMARY);
        }
        tc_hook();
        ["ingress", "egress"]
            .iter()
            .for_each(|hook| add_filter(&node, hook, "prio 10 handle 1", program::FROM_PRIMARY));
        judges_what_goes_by(&node, &wire);
        // One that drops whatever the pod sends, as this does where it is no branch.
        add_filter(&node, "ingress", "prio 20 handle 1", program::FROM_BRANCH);
        let client: IpAddr = CLIENTS[0].parse().expect("an address");
        assert!(!wire.pod_asks(client, 53), "{attachment:?}: its word counts where ours lets pass");
        tc("filter del dev host1 ingress prio 20");
        assert!(wire.pod_asks(client, 53), "{attachment:?}");
    }
}

/// Filters need a place; where ours are filters it is there.
fn tc_hook() {
    // One that is there already is fine.
    drop(Command::new("tc").args(["qdisc", "add", "dev", "host1", "clsact"]).output());
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
