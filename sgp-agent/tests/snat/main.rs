//! What leaves the VPC under the node's address, byte by byte: addresses, ports, checksums, and the way back.

#[path = "../../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod leaving;
mod load;
mod net;
#[path = "../node/mod.rs"]
mod node;
mod upgrade;
mod wire;

use frames::{Frame, ip};
use leaving::{NODE, OUTSIDE, leaving};
use sgp_agent::domain::enforcement::SnatJudges;
use sgp_agent::domain::settings::SnatPorts;
use sgp_agent::io::kernel::Kernel;
use sgp_common::DropReason;
use sgp_common::flow::{ACK, RST, SYN};
use sgp_common::limits::{SNAT_PORT_FIRST, SNAT_PORT_LAST};
use sgp_common::pins::program;
use sgp_common::verdict::{MARK_BY_NODE, MARK_JUDGED};
use wire::{Seen, summed};

fn in_range(port: u16) -> bool {
    (SNAT_PORT_FIRST..=SNAT_PORT_LAST).contains(&port)
}

#[test]
fn a_flow_leaves_under_the_nodes_address_and_its_replies_come_back_to_the_pod() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let (pod, server) = ((it.pod(), 40_000), (ip(OUTSIDE), 443));
    let (udp, tcp) = (Frame::udp, Frame::tcp);
    let seen = it.out(&tcp(pod, server, SYN)).expect("it leaves");
    assert_eq!((seen.source.0, seen.destination), (ip(NODE), server));
    assert!(in_range(seen.source.1), "{seen:?}");
    assert_eq!(it.out(&tcp(pod, server, ACK)).expect("it leaves"), seen, "a flow keeps its port");
    let (passed, mark, bytes) = it.back(&tcp(server, seen.source, SYN | ACK));
    assert_eq!((passed, mark & MARK_JUDGED), (true, MARK_JUDGED));
    assert_eq!(Seen::of(&bytes), Seen { source: server, destination: pod });
    let dns = (ip(OUTSIDE), 53);
    let asked = it.out(&udp(pod, dns)).expect("it leaves");
    let (_, _, answer) = it.back(&udp(dns, asked.source));
    assert_eq!(Seen::of(&answer), Seen { source: dns, destination: pod });
    assert_eq!(it.entries(), 2);
}

#[test]
fn an_echo_is_translated_by_its_identifier() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out icmp 8 0.0.0.0/0"]) else { return };
    let (pod, outside) = (it.pod(), ip(OUTSIDE));
    let seen = it.out(&Frame::icmp(pod, outside, 8, 0, 77)).expect("it leaves");
    assert_eq!(seen.source.0, ip(NODE));
    let reply = Frame::icmp(outside, ip(NODE), 0, 0, seen.source.1);
    let (passed, mark, bytes) = it.back(&reply);
    assert_eq!((passed, mark & MARK_JUDGED), (true, MARK_JUDGED));
    assert_eq!(Seen::of(&bytes).destination, (pod, 77));
    let stranger = Frame::icmp(outside, ip(NODE), 8, 0, seen.source.1);
    assert_eq!(it.back(&stranger).2, summed(&stranger), "a question to the node is the node's");
}

#[test]
fn what_the_node_itself_receives_is_left_alone() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let seen = it.out(&Frame::tcp((it.pod(), 40_000), (ip(OUTSIDE), 443), SYN)).expect("it leaves");
    let other_port = Frame::tcp((ip(OUTSIDE), 443), (ip(NODE), seen.source.1 ^ 1), SYN | ACK);
    let other_host = Frame::tcp((ip("203.0.113.10"), 443), seen.source, SYN | ACK);
    let other_service = Frame::tcp((ip(OUTSIDE), 444), seen.source, SYN | ACK);
    for frame in [other_port, other_host, other_service] {
        assert_eq!(it.back(&frame), (true, 0, summed(&frame)));
    }
    assert!(it.back_bytes(&[2; 40]).0, "whatever it is");
}

#[test]
fn inside_the_vpc_and_to_excluded_networks_a_pod_keeps_its_address_and_its_own_rules() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let pod = (it.pod(), 40_000);
    for destination in ["10.200.9.9", "198.51.100.7"] {
        assert_eq!(it.out(&Frame::tcp(pod, (ip(destination), 22), SYN)), Err(None), "by the branch");
        assert_eq!(it.out(&Frame::tcp(pod, (ip(destination), 23), SYN)), Err(Some(DropReason::NoMatchingRule)));
    }
    assert_eq!(it.entries(), 0);
}

#[test]
fn a_flow_that_came_in_by_the_branch_answers_by_the_branch() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let (client, server) = ((ip(OUTSIDE), 40_000), (it.pod(), 80));
    let at = it.node.pods[0].receives();
    assert!(it.node.run(at, &Frame::tcp(client, server, SYN).bytes()).passed);
    assert_eq!(it.out(&Frame::tcp(server, client, SYN | ACK)), Err(None));
    assert_eq!(it.entries(), 0);
}

#[test]
fn the_nodes_groups_the_pods_or_both_judge_what_leaves() {
    for (judges, to_web, to_ssh) in
        [(SnatJudges::Node, true, false), (SnatJudges::Pod, false, true), (SnatJudges::Both, false, false)]
    {
        let Some(mut it) = leaving(SnatPorts::Prng, judges, &["out tcp 443 0.0.0.0/0"]) else { return };
        let pod = it.pod();
        let mut leaves = |port| it.out(&Frame::tcp((pod, 40_000), (ip(OUTSIDE), port), SYN));
        for (port, expected) in [(443, to_web), (22, to_ssh)] {
            let seen = leaves(port);
            let denied = seen == Err(Some(DropReason::NoMatchingRule));
            assert_eq!((seen.is_ok(), denied), (expected, !expected), "{judges:?} on {port}");
        }
    }
}

#[test]
fn a_pods_own_port_is_kept_where_it_is_free_if_that_is_asked_for() {
    let Some(mut it) = leaving(SnatPorts::Keep, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let syn = |from, port| Frame::tcp((from, port), (ip(OUTSIDE), 443), SYN);
    let pod = it.pod();
    assert_eq!(it.out(&syn(pod, 40_000)).expect("it leaves").source.1, 40_000);
    // A second pod with the same port is stood in for by the entry it would have made.
    let taken = it.node.maps.snat.iter().flatten().next().expect("an entry");
    it.node.take_port(&taken.0, 41_000);
    let other = it.out(&syn(pod, 41_000)).expect("it leaves").source.1;
    assert!(other != 41_000 && in_range(other), "{other}");
}

#[test]
fn an_icmp_error_about_a_translated_packet_reaches_the_pod_if_a_rule_allows_it() {
    for (rules, expected) in
        [(&["out all * 0.0.0.0/0", "in icmp 3 0.0.0.0/0"][..], true), (&["out all * 0.0.0.0/0"], false)]
    {
        let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, rules) else { return };
        let (pod, server) = ((it.pod(), 40_000), (ip(OUTSIDE), 443));
        let seen = it.out(&Frame::tcp(pod, server, SYN)).expect("it leaves");
        let about = summed(&Frame::tcp(seen.source, server, SYN));
        let mut error = Frame::icmp(ip("192.0.2.1"), ip(NODE), 3, 4, 0);
        error.payload.extend(&about[14..]);
        let (passed, mark, bytes) = it.back(&error);
        assert_eq!(passed, expected);
        if expected {
            assert_eq!(mark & MARK_JUDGED, MARK_JUDGED);
            assert_eq!(Seen::of(&bytes).destination.0, pod.0);
            let quoted = [&about[..14], &bytes[14 + 20 + 8..]].concat();
            assert_eq!(Seen::of_quote(&quoted), Seen { source: pod, destination: server });
        }
    }
}

#[test]
fn fragments_leave_and_return_with_their_first() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let (pod, server) = ((it.pod(), 40_000), (ip(OUTSIDE), 53));
    let (first, later) = (Frame::udp(pod, server).fragment(0), Frame::udp(pod, server).fragment(185));
    assert_eq!(it.out(&later), Err(Some(DropReason::FragmentWithoutFlow)));
    let at = it.node.pods[0].leaves();
    let (ran, bytes) = it.node.rewritten(at, &first.bytes());
    assert!(ran.redirected, "{ran:?}");
    let port = u16::from_be_bytes([bytes[34], bytes[35]]);
    let (ran, bytes) = it.node.rewritten(at, &later.bytes());
    assert!(ran.redirected);
    assert_eq!(bytes[26..30], [10, 200, 0, 5], "only its address is translated");
    assert_eq!(bytes[34..], later.bytes()[34..]);
    let (first, later) =
        (Frame::udp(server, (ip(NODE), port)).fragment(0), Frame::udp(server, (ip(NODE), port)).fragment(185));
    let before = later.bytes();
    assert_eq!(it.back_bytes(&before).2, before, "nothing has spoken for it yet");
    assert_eq!(it.back_bytes(&first.bytes()).2[30..34], [10, 9, 9, 1]);
    let (_, mark, bytes) = it.back_bytes(&before);
    assert_eq!((mark & MARK_JUDGED, &bytes[30..34]), (MARK_JUDGED, &[10, 9, 9, 1][..]));
}

#[test]
fn what_answers_a_node_port_is_marked_for_the_way_it_came_by() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let (client, server, pod) = ((ip("10.200.9.9"), 40_000), (it.pod(), 80), it.node.pods[0].clone());
    let question = Frame::tcp(client, server, SYN).bytes();
    assert!(it.node.run(pod.given(it.primary()), &question).passed, "by the pod's own rules");
    let answer = Frame::tcp(server, client, SYN | ACK).with_source_mac(pod.mac).bytes();
    let sent = it.node.run(pod.sends(), &answer);
    assert_eq!((sent.passed, sent.mark), (true, 0x80 | MARK_BY_NODE));
    let by_branch = Frame::tcp((ip("10.200.9.8"), 40_000), server, SYN).bytes();
    assert!(it.node.run(pod.receives(), &by_branch).passed);
    let answer = Frame::tcp(server, (ip("10.200.9.8"), 40_000), SYN | ACK).with_source_mac(pod.mac).bytes();
    assert_eq!(it.node.run(pod.sends(), &answer).mark, 0, "what came by the branch answers by the branch");
}

#[test]
fn what_nobody_could_tell_the_replies_of_does_not_leave() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let esp = Frame::new(it.pod(), ip(OUTSIDE), frames::ESP, vec![0; 32]);
    assert_eq!(it.out(&esp), Err(Some(DropReason::SnatUnsupported)));
    let forged = Frame::udp((ip("10.9.9.99"), 1), (ip(OUTSIDE), 53));
    assert_eq!(it.out(&forged), Err(Some(DropReason::SpoofedSource)));
}

#[test]
fn a_flow_that_is_over_gives_its_port_back_and_no_other_is() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let server = (ip(OUTSIDE), 443);
    let seen: Vec<Seen> =
        (0..200).map(|n| it.out(&Frame::tcp((it.pod(), 40_000 + n), server, SYN)).expect("it leaves")).collect();
    let ports: std::collections::BTreeSet<u16> = seen.iter().map(|seen| seen.source.1).collect();
    assert_eq!((ports.len(), it.entries()), (200, 200), "no two share a port");
    let end = Frame::tcp((it.pod(), 40_000), server, RST);
    assert!(it.out(&end).is_ok());
    it.node.forget_flows_that_are_closed();
    let swept = it.node.kernel.sweep().expect("a sweep");
    assert_eq!((swept.snat, it.entries()), (0, 199), "its port went with it");
    it.node.lose_flows();
    it.node.kernel.sweep().expect("a sweep");
    assert_eq!(it.entries(), 199, "a port without a flow may be one that is just being taken");
    let swept = it.node.kernel.sweep().expect("a sweep");
    assert_eq!((swept.snat, it.entries()), (199, 0), "but not for two sweeps");
}

#[test]
fn ports_to_one_service_run_out_with_a_reason_and_other_services_are_not_touched() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    assert!(it.out(&Frame::tcp((it.pod(), 40_000), (ip(OUTSIDE), 443), SYN)).is_ok());
    let taken = it.node.maps.snat.keys().next().expect("an entry").expect("a key");
    (SNAT_PORT_FIRST..=SNAT_PORT_LAST).for_each(|port| it.node.take_port(&taken, port));
    let next = Frame::tcp((it.pod(), 40_001), (ip(OUTSIDE), 443), SYN);
    assert_eq!(it.out(&next), Err(Some(DropReason::SnatPortsExhausted)));
    assert!(it.out(&Frame::tcp((it.pod(), 40_001), (ip(OUTSIDE), 80), SYN)).is_ok());
}
