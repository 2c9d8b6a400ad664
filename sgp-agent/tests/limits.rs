//! What happens where a table of flows is full: established ones go on, and what EC2 would not track needs no place.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use frames::{Frame, ip};
use node::rules::{ec2, set};
use node::{Node, Ran};
use sgp_agent::domain::observed::Observed;
use sgp_agent::io::kernel::Kernel;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::telemetry::metrics::Metrics;
use sgp_agent::telemetry::pinned::Pinned;
use sgp_common::event::Event;
use sgp_common::flow::{ACK, Admission, Flow, FlowKey, SYN};
use sgp_common::limits::EVENTS_BYTES;
use sgp_common::packet::Packet;
use sgp_common::{Direction, DropReason};

const A: &str = "10.0.2.20";

fn observed(node: &Node, rules: &[&str]) -> Observed {
    node.observed(&ec2(&[("sg-1", rules)]), &[set(&["sg-1"])])
}

fn node() -> Option<Node> {
    let mut node = Node::start(1)?;
    let observed = observed(&node, &["in tcp 80 10.0.0.0/8", "out all * 0.0.0.0/0"]);
    node.apply(&observed);
    Some(node)
}

fn tcp(node: &mut Node, port: u16, flags: u8) -> Ran {
    let pod = node.pods[0].clone();
    node.run(pod.receives(), &Frame::tcp((ip(A), port), (pod.ipv4, 80), flags).bytes())
}

/// Likewise to the pod's `port`, from port 443.
fn tcp_from_443(node: &mut Node, port: u16, flags: u8) -> Ran {
    let pod = node.pods[0].clone();
    node.run(pod.receives(), &Frame::tcp((ip(A), 443), (pod.ipv4, port), flags).bytes())
}

fn reason(ran: &Ran) -> Option<DropReason> {
    ran.events.first().and_then(|event| DropReason::from_code(event.reason))
}

#[test]
fn a_pod_at_its_limit_of_flows_opens_no_more_and_keeps_those_it_has() {
    let Some(mut node) = node() else { return };
    assert!(tcp(&mut node, 40000, SYN).passed);
    node.has_as_many_flows_as_it_may(0);
    assert_eq!(reason(&tcp(&mut node, 40001, SYN)), Some(DropReason::EndpointFlowLimit));
    assert!(tcp(&mut node, 40000, ACK).passed);
    node.kernel.sweep().expect("a sweep");
    assert!(tcp(&mut node, 40001, SYN).passed, "the sweep counts again");
}

/// Puts a stranger's packets through, each of which is a sample.
fn refused(node: &mut Node, packets: u64) {
    let pod = node.pods[0].clone();
    let frame = Frame::tcp((ip("192.0.2.9"), 40000), (pod.ipv4, 80), SYN).bytes();
    for _ in 0..packets {
        node.sample();
        assert!(!node.run_unsampled(pod.receives(), &frame).0);
    }
}

#[test]
fn a_ring_that_nobody_reads_loses_samples_and_counts_them_and_no_packet_goes_uncounted() {
    let Some(mut node) = node() else { return };
    let exported = |node: &Node, series: &str| {
        let mut metrics = Metrics::default();
        metrics.add(Pinned::open(&PinDirs::new(&node.dir)).expect("the pinned maps"));
        let text = metrics.text().expect("metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    let packets = r#"sgp_packets_total{pod="ns/pod1",direction="inbound",reason="NoMatchingRule"}"#;
    let room = u64::from(EVENTS_BYTES) / size_of::<Event>() as u64;
    refused(&mut node, room);
    let (held, lost): (usize, u64) = (node.drain(), exported(&node, "sgp_events_lost_total"));
    assert!(lost > 0 && held as u64 + lost == room, "{held} in the ring and {lost} lost of {room}");
    assert_eq!(exported(&node, packets), room);
    refused(&mut node, 10);
    assert_eq!((node.drain(), exported(&node, "sgp_events_lost_total")), (10, lost), "it goes on once it is read");
}

/// Rules by which EC2 tracks what the pod opens to port 443 or not, and the inbound packets to high ports that may be answers.
fn at_the_limit(outbound: &str) -> Option<Node> {
    let mut node = Node::start(1)?;
    let observed = observed(&node, &["in tcp * 0.0.0.0/0", outbound]);
    node.apply(&observed);
    node.has_as_many_flows_as_it_may(0);
    Some(node)
}

#[test]
fn at_the_limit_an_answer_to_an_untracked_flow_passes_by_rule_and_leaves_no_entry() {
    let Some(mut node) = at_the_limit("out tcp 443 0.0.0.0/0") else { return };
    for flags in [SYN | ACK, ACK] {
        let answer = tcp_from_443(&mut node, 50_000, flags);
        assert!(answer.passed, "{answer:?}");
    }
    assert_eq!(node.maps.flows.keys().count(), 0);
    assert_eq!(
        reason(&tcp_from_443(&mut node, 50_000, SYN)),
        Some(DropReason::EndpointFlowLimit),
        "a SYN answers nothing"
    );
    assert_eq!(
        reason(&tcp(&mut node, 40_000, ACK)),
        Some(DropReason::EndpointFlowLimit),
        "nothing is open to that port"
    );
}

#[test]
fn at_the_limit_an_answer_to_a_tracked_flow_is_refused() {
    let Some(mut node) = at_the_limit("out tcp 443 10.0.0.0/8") else { return };
    assert_eq!(reason(&tcp_from_443(&mut node, 50_000, SYN | ACK)), Some(DropReason::EndpointFlowLimit));
}

#[test]
fn a_full_flow_table_opens_no_more_and_keeps_those_it_has() {
    let Some(mut node) = node() else { return };
    assert!(tcp(&mut node, 40000, SYN).passed);
    let flow = Flow::open(&Packet::EMPTY, Direction::Inbound, &Admission::NONE, 0);
    let filler = |endpoint| FlowKey { endpoint, protocol: 6, ..FlowKey::EMPTY };
    let filled = (1..).find(|endpoint| node.maps.flows.insert(filler(*endpoint), flow, 0).is_err());
    println!("the table holds {filled:?} flows");
    assert_eq!(reason(&tcp(&mut node, 40001, SYN)), Some(DropReason::FlowTableFull));
    assert!(tcp(&mut node, 40000, ACK).passed);
    node.kernel.sweep().expect("a sweep");
    assert!(tcp(&mut node, 40001, SYN).passed, "flows of endpoints that are gone were reclaimed");
}
