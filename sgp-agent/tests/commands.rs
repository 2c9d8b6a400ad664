//! What commands say, on a node with the real programs and no agent: everything comes from the pins.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use std::process::Command;

use frames::{Frame, ip};
use node::Node;
use node::rules::{ec2, set};
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::telemetry::metrics::Metrics;
use sgp_agent::telemetry::pinned::Pinned;
use sgp_common::flow::{ACK, SYN};

const ALLOWED: &str = "10.0.2.20";
const STRANGER: &str = "192.0.2.9";

/// A pod that has been reached once and refused once.
fn visited() -> Option<Node> {
    let mut node = Node::start(1)?;
    let world = node.observed(&ec2(&[("sg-1", &["in tcp 80 10.0.0.0/8", "out udp 53 10.0.0.0/8"])]), &[set(&["sg-1"])]);
    node.apply(&world);
    for (from, port) in [(ALLOWED, 80), (STRANGER, 80), (ALLOWED, 81)] {
        let pod = node.pods[0].clone();
        node.run_unsampled(pod.receives(), &Frame::tcp((ip(from), 40_000), (pod.ipv4, port), SYN).bytes());
    }
    sgp_agent::io::kernel::Kernel::sweep(&mut node.kernel).expect("a sweep");
    Some(node)
}

fn says(node: &Node, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sgp-agent"));
    command.args(arguments).arg("--bpf-dir").arg(&node.dir);
    let output = command.output().expect("the agent's binary runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn explain_names_the_rule_or_the_half_that_is_missing() {
    let Some(node) = visited() else { return };
    let explained = |way: &str, protocol: &str, addr: &str, port: &str| {
        says(&node, &["explain", "ns/pod1", way, protocol, addr, port])
    };
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    assert!(first(explained("in", "tcp", "10.0.9.9", "80")).starts_with("allowed: rule sgr-"));
    let stranger = first(explained("in", "tcp", STRANGER, "80"));
    assert!(stranger.contains("NoMatchingRule: rules allow the service, but none of them this address"), "{stranger}");
    let port = first(explained("in", "tcp", "10.0.9.9", "81"));
    assert!(port.contains("rules allow the address, but none of them this service"), "{port}");
    let attempt = first(explained("in", "tcp", ALLOWED, "80"));
    assert!(attempt.starts_with("allowed: rule sgr-"), "nobody has answered it yet: {attempt}");
    let pod = &node.pods[0];
    assert!(node.run_unsampled(pod.leaves(), &Frame::tcp((pod.ipv4, 80), (ip(ALLOWED), 40_000), SYN | ACK).bytes()).0);
    let live = first(explained("in", "tcp", ALLOWED, "80"));
    assert!(live.starts_with("allowed: a live flow (tracked"), "{live}");
    let exempt = first(explained("out", "tcp", "169.254.169.254", "80"));
    assert_eq!(exempt, "allowed: EC2 never filters this");
}

#[test]
fn drops_flows_policies_and_limits_are_told_by_name() {
    let Some(node) = visited() else { return };
    let drops: serde_json::Value = serde_json::from_str(&says(&node, &["drops", "--json"])).expect("JSON");
    assert_eq!(
        (&drops[0]["pod"], &drops[0]["reason"], &drops[0]["packets"]),
        (&"ns/pod1".into(), &"NoMatchingRule".into(), &2.into())
    );
    assert_eq!(says(&node, &["drops", "--reason", "spoofedsource"]), "none\n");
    let flows = says(&node, &["flows", "--pod", "ns/pod1", "-o", "wide"]);
    assert!(flows.contains("tcp") && flows.contains("NAT PORT") && flows.contains("sg-1"), "{flows}");
    assert!(!says(&node, &["flows"]).contains("NAT PORT"), "wide columns only where asked for");
    let policy: serde_json::Value =
        serde_json::from_str(&says(&node, &["policy", "show", "ns/pod1", "--json"])).expect("JSON");
    let inbound = policy["rules"].as_array().expect("rules").iter().find(|rule| rule["direction"] == "inbound");
    let inbound = inbound.expect("an inbound rule");
    assert_eq!((&policy["groupSet"], &inbound["flows"], &inbound["packets"]), (&"sg-1".into(), &1.into(), &1.into()));
    let status = says(&node, &["status"]);
    assert!(status.contains("flows       1 of 262144 (0%)") && status.contains("has not said"), "{status}");
    assert!(says(&node, &["snat"]).starts_with("nothing is translated"));
}

#[test]
fn every_shell_gets_its_completion() {
    for shell in ["bash", "zsh", "fish"] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_sgp-agent")).args(["completion", shell]).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("explain") && text.contains("doctor"), "{shell}: {text}");
    }
}

#[test]
fn what_the_data_path_counts_is_exported_by_pod_direction_and_reason() {
    let Some(node) = visited() else { return };
    let mut metrics = Metrics::default();
    metrics.add(Pinned::open(&PinDirs::new(&node.dir)).expect("the pinned maps"));
    let text = metrics.text().expect("metrics");
    for line in [
        "sgp_packets_total{pod=\"ns/pod1\",direction=\"inbound\",reason=\"NoMatchingRule\"} 2",
        "sgp_packets_total{pod=\"ns/pod1\",direction=\"inbound\",reason=\"allowed\"} 1",
        "sgp_flows{pod=\"ns/pod1\"} 1",
        "sgp_map_entries{map=\"FLOWS\"} 1",
        "sgp_programs{state=\"attached\"} 4",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}
