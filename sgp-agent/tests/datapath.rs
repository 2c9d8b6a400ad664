//! The life of single packets: which hook does what to them, and what is told of it.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use std::net::IpAddr;

use frames::{Frame, arp, ip, tagged};
use node::rules::{ec2, set};
use node::{At, Node, Ran};
use sgp_agent::domain::groups::EndpointId;
use sgp_agent::domain::plan::Step;
use sgp_agent::io::kernel::{Counted, Kernel};
use sgp_common::addr::{UNSPECIFIED, v4_mapped};
use sgp_common::flow::{ACK, RST, SYN};
use sgp_common::verdict::MARK_JUDGED;
use sgp_common::{Direction, DropReason};

const A: &str = "10.0.2.20";

/// A node with one pod under the group `sg-1` of these rules.
fn node(rules: &[&str]) -> Option<Node> {
    let mut node = Node::start(1)?;
    rules_are(&mut node, rules);
    Some(node)
}

fn rules_are(node: &mut Node, rules: &[&str]) {
    let observed = node.observed(&ec2(&[("sg-1", rules)]), &[set(&["sg-1"])]);
    node.apply(&observed);
}

fn pod(node: &Node) -> (IpAddr, u16) {
    (node.pods[0].ipv4, 80)
}

fn dropped(ran: &Ran) -> Option<DropReason> {
    assert_eq!(ran.events.len(), 1, "{ran:?}");
    assert_eq!(ran.passed, ran.events[0].reason == 0, "{ran:?}");
    DropReason::from_code(ran.events[0].reason)
}

fn from_vpc(node: &mut Node, frame: &Frame) -> Ran {
    let at = node.pods[0].receives();
    node.run(at, &frame.bytes())
}

fn to_vpc(node: &mut Node, frame: &Frame) -> Ran {
    let at = node.pods[0].leaves();
    node.run(at, &frame.bytes())
}

fn syn(from: (IpAddr, u16), to: (IpAddr, u16)) -> Frame {
    Frame::tcp(from, to, SYN)
}

/// Packets counted for an endpoint, on all CPUs.
fn counted(node: &Node, endpoint: u64, direction: Direction, reason: u8) -> u64 {
    let endpoint = (endpoint != 0).then_some(EndpointId(endpoint));
    let of = |counted: &Counted| (counted.endpoint, counted.direction, counted.reason.map_or(0, |reason| reason as u8));
    let mut all = node.maps.counted().into_iter().filter(|counted| of(counted) == (endpoint, direction, reason));
    all.next().map_or(0, |counted| counted.packets)
}

#[test]
fn an_interface_of_no_endpoint_passes_nothing() {
    let Some(mut node) = Node::start(1) else { return };
    let (to, pod) = (pod(&node), node.pods[0].clone());
    for at in [pod.receives(), pod.leaves(), pod.sends(), pod.given(0)] {
        let ran = node.run(at, &syn((ip(A), 40000), to).bytes());
        assert_eq!(dropped(&ran), Some(DropReason::UnknownEndpoint), "{}", at.program);
        assert_eq!((ran.events[0].endpoint, ran.events[0].ifindex), (0, at.ifindex));
    }
    assert_eq!(counted(&node, 0, Direction::Inbound, DropReason::UnknownEndpoint as u8), 2);
}

#[test]
fn a_pod_sends_with_its_own_mac_and_address_or_not_at_all() {
    let Some(mut node) = node(&["out all * 0.0.0.0/0"]) else { return };
    let (own, pod) = (pod(&node), node.pods[0].clone());
    let honest = syn(own, (ip(A), 443)).with_source_mac(pod.mac);
    let ran = node.run(pod.sends(), &honest.bytes());
    assert!(ran.passed && ran.events.is_empty(), "judged further on: {ran:?}");
    let borrowed_mac = honest.clone().with_source_mac([2, 0, 0, 0, 9, 99]);
    let borrowed_address = Frame { source: ip("10.9.9.99"), ..honest };
    for frame in [borrowed_mac, borrowed_address.clone()] {
        assert_eq!(dropped(&node.run(pod.sends(), &frame.bytes())), Some(DropReason::SpoofedSource));
    }
    assert_eq!(dropped(&to_vpc(&mut node, &borrowed_address)), Some(DropReason::SpoofedSource));
    let elsewhere = syn((ip(A), 1024), (ip("10.9.9.99"), 80));
    assert_eq!(dropped(&from_vpc(&mut node, &elsewhere)), Some(DropReason::UnknownEndpoint));
}

#[test]
fn an_endpoint_without_policy_passes_nothing() {
    let Some(mut node) = node(&["in all * 0.0.0.0/0"]) else { return };
    let frame = syn((ip(A), 40000), pod(&node));
    node.kernel.apply(&Step::RemovePolicy(set(&["sg-1"]).id())).expect("the policy goes");
    assert_eq!(dropped(&from_vpc(&mut node, &frame)), Some(DropReason::NoPolicy));
    rules_are(&mut node, &["in all * 0.0.0.0/0"]);
    assert_eq!(dropped(&from_vpc(&mut node, &frame)), None);
}

#[test]
fn what_no_rule_allows_is_dropped_counted_and_told() {
    let Some(mut node) = node(&["in tcp 443 10.0.0.0/8"]) else { return };
    let (to, endpoint) = (pod(&node), node.endpoint(0).0);
    let ran = from_vpc(&mut node, &syn((ip(A), 40000), to));
    assert_eq!(dropped(&ran), Some(DropReason::NoMatchingRule));
    let event = ran.events[0];
    assert_eq!((event.endpoint, event.direction, event.rule), (endpoint, Direction::Inbound, u16::MAX));
    assert_eq!((event.local_addr, event.remote_addr), (v4_mapped([10, 9, 9, 1]), v4_mapped([10, 0, 2, 20])));
    assert_eq!((event.local_port, event.remote_port, event.protocol, event.flags), (80, 40000, 6, SYN));
    assert_eq!((event.length, event.ifindex), (40, node.pods[0].branch));
    assert_eq!(counted(&node, endpoint, Direction::Inbound, DropReason::NoMatchingRule as u8), 1);
    assert_eq!(node.maps.flows.keys().count(), 0, "a denied packet takes no memory");
}

#[test]
fn an_answer_needs_no_rule_and_a_question_does() {
    let Some(mut node) = node(&["in tcp 80 10.0.0.0/8", "in icmp 8 10.0.0.0/8"]) else { return };
    let (client, server) = ((ip(A), 40000), pod(&node));
    assert_eq!(dropped(&from_vpc(&mut node, &syn(client, server))), None);
    let answer = to_vpc(&mut node, &Frame::tcp(server, client, SYN | ACK));
    assert!(answer.passed && answer.events.is_empty(), "by its flow: {answer:?}");
    assert_eq!(dropped(&to_vpc(&mut node, &syn(server, (ip(A), 40001)))), Some(DropReason::NoMatchingRule));
    assert_eq!(dropped(&from_vpc(&mut node, &Frame::icmp(client.0, server.0, 8, 0, 7))), None);
    assert!(to_vpc(&mut node, &Frame::icmp(server.0, client.0, 0, 0, 7)).passed);
    assert!(!to_vpc(&mut node, &Frame::icmp(server.0, client.0, 0, 0, 8)).passed, "another echo");
    assert!(!to_vpc(&mut node, &Frame::icmp(server.0, client.0, 8, 0, 7)).passed, "the pod's own question");
    let (_, flow) = node.maps.flows.iter().flatten().find(|(key, _)| key.protocol == 6).expect("a flow");
    assert_eq!((flow.packets_in, flow.packets_out, flow.bytes_in), (1, 1, 40));
}

#[test]
fn a_connection_outlives_its_rule_and_its_end_is_final() {
    let Some(mut node) = node(&["in tcp 80 10.0.0.0/8"]) else { return };
    let (client, server) = ((ip(A), 40000), pod(&node));
    assert_eq!(dropped(&from_vpc(&mut node, &syn(client, server))), None);
    rules_are(&mut node, &[]);
    assert!(from_vpc(&mut node, &Frame::tcp(client, server, ACK)).passed, "as in EC2");
    assert!(from_vpc(&mut node, &Frame::tcp(client, server, RST)).passed);
    assert_eq!(dropped(&from_vpc(&mut node, &syn(client, server))), Some(DropReason::NoMatchingRule));
}

#[test]
fn what_cannot_be_read_is_dropped() {
    let Some(mut node) = node(&["in all * 0.0.0.0/0"]) else { return };
    let at = node.pods[0].receives();
    let whole = syn((ip(A), 40000), pod(&node)).bytes();
    let mut short_header = whole.clone();
    short_header[14] = 0x44;
    let mut lying = whole.clone();
    lying[16..18].copy_from_slice(&[0xff, 0xff]);
    for frame in [short_header, lying, whole[..50].to_vec()] {
        assert_eq!(dropped(&node.run(at, &frame)), Some(DropReason::Malformed));
    }
    let posing = Frame::udp((ip("::ffff:10.0.2.20"), 40000), (ip("::ffff:10.9.9.1"), 80)).bytes();
    assert_eq!(dropped(&node.run(at, &posing)), Some(DropReason::Malformed), "IPv6 cannot use a flow of IPv4");
    let ran = node.run(at, &tagged(whole, 7));
    assert_eq!(dropped(&ran), Some(DropReason::UnsupportedProtocol));
    assert_eq!(ran.events[0].remote_addr, UNSPECIFIED, "nothing is told of an earlier packet");
}

#[test]
fn arp_passes_everywhere_without_rules() {
    let Some(mut node) = node(&[]) else { return };
    let pod = node.pods[0].clone();
    let mut request = arp();
    request[6..12].copy_from_slice(&pod.mac);
    for at in [pod.receives(), pod.leaves(), pod.sends(), pod.given(pod.branch)] {
        assert!(node.run(at, &request).passed, "{}", at.program);
    }
    assert!(!node.run(pod.sends(), &arp()).passed, "but not with another's MAC address");
}

#[test]
fn services_that_ec2_never_filters_pass_without_rules() {
    let Some(mut node) = node(&[]) else { return };
    let (own, own6) = (node.pods[0].ipv4, node.pods[0].ipv6);
    let services = ["169.254.169.254", "169.254.169.253", "169.254.169.123", "10.200.0.1", "10.200.0.2"];
    for service in services {
        let ran = to_vpc(&mut node, &Frame::udp((own, 5353), (ip(service), 53)));
        assert!(ran.passed && ran.events.is_empty(), "{service}: {ran:?}");
        assert!(from_vpc(&mut node, &Frame::udp((ip(service), 53), (own, 5353))).passed, "{service}");
    }
    assert!(to_vpc(&mut node, &Frame::udp((own6, 5353), (ip("fd00:ec2::253"), 53))).passed);
    assert!(to_vpc(&mut node, &Frame::icmp(own6, ip("ff02::1:ff00:1"), 135, 0, 0)).passed, "neighbour discovery");
    assert!(from_vpc(&mut node, &Frame::udp((ip("10.0.2.1"), 67), (own, 68))).passed, "DHCP");
    assert!(!to_vpc(&mut node, &Frame::udp((own, 5353), (ip("10.0.2.53"), 53))).passed, "a pod that serves DNS");
    assert_eq!(node.maps.flows.keys().count(), 0);
}

#[test]
fn a_later_fragment_passes_by_its_first_or_by_a_rule_for_all_ports() {
    let Some(mut node) = node(&["in tcp 80 10.0.0.0/8", "in udp * 10.0.0.0/8"]) else { return };
    let to = pod(&node);
    let segment = |port| Frame::tcp((ip(A), 40000), (to.0, port), SYN);
    let unannounced = from_vpc(&mut node, &segment(80).fragment(185));
    assert_eq!(dropped(&unannounced), Some(DropReason::FragmentWithoutFlow));
    assert_eq!(dropped(&from_vpc(&mut node, &segment(80).fragment(0))), None);
    assert!(from_vpc(&mut node, &segment(80).fragment(185)).passed, "its first was allowed");
    let overlapping = from_vpc(&mut node, &segment(80).fragment(2));
    assert_eq!(dropped(&overlapping), Some(DropReason::Malformed));
    assert_eq!(dropped(&from_vpc(&mut node, &segment(81).fragment(0))), Some(DropReason::NoMatchingRule));
    let orphaned = from_vpc(&mut node, &segment(80).fragment(185));
    assert_eq!(dropped(&orphaned), Some(DropReason::FragmentWithoutFlow), "another first, refused, took its place");
    assert_eq!(dropped(&from_vpc(&mut node, &Frame::udp((ip(A), 1), to).fragment(185))), None);
}

#[test]
fn a_flow_that_ec2_would_not_track_stops_with_its_rule() {
    let open = ["in tcp 22 0.0.0.0/0", "out all * 0.0.0.0/0"];
    let Some(mut node) = node(&open) else { return };
    let (client, server) = ((ip(A), 40000), (node.pods[0].ipv4, 22));
    assert_eq!(dropped(&from_vpc(&mut node, &syn(client, server))), None);
    assert!(to_vpc(&mut node, &Frame::tcp(server, client, SYN | ACK)).passed);
    rules_are(&mut node, &open[1..]);
    let data = from_vpc(&mut node, &Frame::tcp(client, server, ACK));
    assert_eq!(dropped(&data), Some(DropReason::NoMatchingRule));
    let answer = to_vpc(&mut node, &Frame::tcp(server, client, ACK));
    assert_eq!(dropped(&answer), Some(DropReason::NoMatchingRule), "nor can the pod keep it open");
    rules_are(&mut node, &open);
    assert!(from_vpc(&mut node, &Frame::tcp(client, server, ACK)).passed, "the rule is back");
}

/// Two pods: `a` may ask `b` on port 80, each by its own group.
fn neighbours() -> Option<Node> {
    let mut node = Node::start(2)?;
    let ec2 = ec2(&[("sg-a", &["out tcp 80-81 sg-b"]), ("sg-b", &["in tcp 80 sg-a", "in tcp 82 sg-a"])]);
    let observed = node.observed(&ec2, &[set(&["sg-a"]), set(&["sg-b"])]);
    node.apply(&observed);
    Some(node)
}

#[test]
fn between_neighbours_the_sender_and_the_receiver_are_both_asked() {
    let Some(mut node) = neighbours() else { return };
    let (a, b) = (node.pods[0].clone(), node.pods[1].clone());
    let (a_id, b_id) = (node.endpoint(0).0, node.endpoint(1).0);
    let mut asked = |port| node.run(b.given(a.host), &syn((a.ipv4, 40000), (b.ipv4, port)).bytes());
    let allowed = asked(80);
    let told: Vec<_> = allowed.events.iter().map(|event| (event.endpoint, event.direction)).collect();
    assert!(allowed.passed);
    assert_eq!(told, [(a_id, Direction::Outbound), (b_id, Direction::Inbound)]);
    let refused_by_b = asked(81);
    assert!(!refused_by_b.passed);
    assert_eq!((refused_by_b.events[1].endpoint, refused_by_b.events[1].direction), (b_id, Direction::Inbound));
    let refused_by_a = asked(82);
    assert_eq!(dropped(&refused_by_a), Some(DropReason::NoMatchingRule));
    assert_eq!((refused_by_a.events[0].endpoint, refused_by_a.events[0].direction), (a_id, Direction::Outbound));
}

#[test]
fn a_neighbours_answer_is_marked_where_it_is_sent_and_passes_whatever_kube_proxy_makes_of_it() {
    let Some(mut node) = neighbours() else { return };
    let (a, b) = (node.pods[0].clone(), node.pods[1].clone());
    assert!(node.run(b.given(a.host), &syn((a.ipv4, 40000), (b.ipv4, 80)).bytes()).passed);
    let answer = Frame::tcp((b.ipv4, 80), (a.ipv4, 40000), SYN | ACK).with_source_mac(b.mac);
    let sent = node.run(b.sends(), &answer.bytes());
    assert_eq!((sent.passed, sent.mark), (true, MARK_JUDGED));
    let by_service = Frame { source: ip("172.20.0.10"), ..answer.clone() };
    let given = node.run(At { mark: MARK_JUDGED | 0x4000, ..a.given(b.host) }, &by_service.bytes());
    assert_eq!((given.passed, given.mark), (true, 0x4000), "only our bit is taken back");
    let stranger = Frame::tcp((b.ipv4, 80), (a.ipv4, 40001), SYN | ACK).with_source_mac(b.mac);
    let sent = node.run(At { mark: MARK_JUDGED, ..b.sends() }, &stranger.bytes());
    assert_eq!((sent.passed, sent.mark), (true, 0), "a pod cannot bring the mark along");
    assert!(!node.run(a.given(b.host), &stranger.bytes()).passed);
}

#[test]
fn what_the_branch_judged_and_what_the_node_sends_reaches_the_pod() {
    let Some(mut node) = neighbours() else { return };
    let (b, probe) = (node.pods[1].clone(), syn((ip("10.0.0.5"), 40000), (node.pods[1].ipv4, 8080)).bytes());
    for ingress in [b.branch, 0, b.host] {
        let ran = node.run(b.given(ingress), &probe);
        assert!(ran.passed && ran.events.is_empty(), "by interface {ingress}: {ran:?}");
    }
    assert!(!node.run(b.given(node.pods[0].branch), &probe).passed, "by an interface that vouches for nothing");
}

#[test]
fn a_neighbour_is_no_service_of_ec2_and_nobody_without_its_own_source() {
    let Some(mut node) = neighbours() else { return };
    let (a, b) = (node.pods[0].clone(), node.pods[1].clone());
    let metadata = Frame::udp((ip("169.254.169.254"), 53), (b.ipv4, 9));
    assert_eq!(dropped(&node.run(b.given(a.host), &metadata.bytes())), Some(DropReason::SpoofedSource));
    let by_node_port = syn((ip("10.0.0.5"), 40000), (b.ipv4, 80));
    assert_eq!(dropped(&node.run(b.given(a.host), &by_node_port.bytes())), Some(DropReason::SpoofedSource));
    let forgotten = syn((a.ipv4, 40002), (b.ipv4, 81));
    assert!(!node.run(b.given(0), &forgotten.bytes()).passed, "a neighbour's packet whose way in was forgotten");
}
