//! What outlives an agent, and what a swap of policies costs: nothing.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use frames::{Frame, ip};
use node::rules::{ec2, set};
use node::tables::pins;
use node::{Node, Ran, judged};
use sgp_agent::domain::observed::Observed;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Attachment, Kernel, uninstall};
use sgp_common::DropReason;
use sgp_common::flow::{ACK, Flow, SYN};
use sgp_common::pins::{map, program};

const A: &str = "10.0.2.20";
const RULES: [&str; 4] =
    ["in tcp 80 10.0.0.0/8", "in udp 53 10.0.0.0/8", "in icmp 3 10.0.0.0/8", "out all * 0.0.0.0/0"];

fn observed(node: &Node, rules: &[&str]) -> Observed {
    node.observed(&ec2(&[("sg-1", rules)]), &[set(&["sg-1"])])
}

fn node() -> Option<Node> {
    let mut node = Node::start(1)?;
    let observed = observed(&node, &RULES);
    node.apply(&observed);
    Some(node)
}

fn tcp(node: &mut Node, port: u16, flags: u8) -> Ran {
    let pod = node.pods[0].clone();
    node.run(pod.receives(), &Frame::tcp((ip(A), port), (pod.ipv4, 80), flags).bytes())
}

fn reason(ran: &Ran) -> Option<DropReason> {
    ran.events.first().and_then(|event| DropReason::from_code(event.reason))
}

fn bpftool(arguments: &[&str]) -> String {
    let output = Command::new("bpftool").args(arguments).output().expect("bpftool is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "bpftool {arguments:?}: {text}");
    text
}

fn shown(kind: &str, pin: PathBuf) -> String {
    bpftool(&["-j", kind, "show", "pinned", &pin.display().to_string()])
}

/// The kernel's ids of everything that must outlive an agent.
fn ids(node: &Node) -> BTreeMap<String, u64> {
    let dirs = PinDirs::new(&node.dir);
    let links = std::fs::read_dir(dirs.links()).expect("links").flatten().map(|link| ("link", link.path()));
    let programs = program::PINNED.into_iter().map(|name| ("prog", dirs.program(name)));
    let maps = map::ALL.into_iter().map(|name| ("map", dirs.map(name)));
    let all = links.collect::<Vec<_>>().into_iter().chain(programs).chain(maps);
    all.map(|(kind, pin)| {
        let shown: serde_json::Value = serde_json::from_str(&shown(kind, pin.clone())).expect("JSON");
        (pin.display().to_string(), shown["id"].as_u64().expect("an id"))
    })
    .collect()
}

/// How many pins one pod's links have. Filters have none: that they run the pinned programs is what makes them installed.
fn pinned_links() -> usize {
    match Attachment::offered().expect("root may ask the kernel") {
        Attachment::Tcx => 4,
        Attachment::Clsact => 0,
    }
}

/// Takes a program off the host veth behind the agent's back.
fn lose_to_pod(node: &Node) {
    let pin = PinDirs::new(&node.dir).links().join("host1-to_pod");
    // The agent holds the link open, so that losing the pin would not be enough.
    let detached = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&pin).output();
    assert!(detached.is_ok(), "bpftool runs");
    if std::fs::remove_file(&pin).is_err() {
        let deleted = Command::new("tc").args(["filter", "delete", "dev", "host1", "egress"]).status();
        assert!(deleted.expect("tc runs").success(), "a filter to lose");
        return;
    }
    // The kernel takes its time with a link that nobody holds any more.
    let attached = || SchedClassifier::query_tcx("host1", TcAttachType::Egress).expect("tcx answers").1.len();
    (0..100).take_while(|_| attached() > 0).for_each(|_| std::thread::sleep(Duration::from_millis(20)));
    assert_eq!(attached(), 0);
}

#[test]
fn a_restarted_agent_finds_everything_and_changes_nothing() {
    let Some(mut node) = node() else { return };
    assert!(tcp(&mut node, 40000, SYN).passed);
    let (before, installed) = (ids(&node), node.kernel.installed().expect("what is installed"));
    assert_eq!(installed.links.len(), 4);
    assert_eq!(before.len(), pinned_links() + program::PINNED.len() + map::ALL.len());
    node.reopen();
    assert_eq!(ids(&node), before);
    assert_eq!(node.kernel.installed().expect("what is installed"), installed);
    assert_eq!(node.plan(&observed(&node, &RULES)), []);
    let known = tcp(&mut node, 40000, ACK);
    assert!(known.passed && known.events.is_empty(), "by the flow of before: {known:?}");
}

#[test]
fn drift_is_found_and_healed() {
    let Some(mut node) = node() else { return };
    let (endpoint, observed) = (node.endpoint(0).0, observed(&node, &RULES));
    node.maps.interfaces.remove(&node.pods[0].branch).expect("an entry to lose");
    node.maps.endpoints.remove(&endpoint).expect("an entry to lose");
    lose_to_pod(&node);
    assert_eq!(reason(&tcp(&mut node, 40000, SYN)), Some(DropReason::UnknownEndpoint), "lost means closed");
    assert_eq!(node.plan(&observed).len(), 3);
    node.apply(&observed);
    assert!(tcp(&mut node, 40000, SYN).passed);
}

#[test]
fn a_pod_that_is_gone_leaves_nothing_behind() {
    let Some(mut node) = node() else { return };
    assert!(tcp(&mut node, 40000, SYN).passed);
    for name in ["host1", "vlan.eth.1"] {
        assert!(Command::new("ip").args(["link", "del", name]).status().expect("ip runs").success());
    }
    let nobody = node.observed(&ec2(&[]), &[]);
    node.apply(&nobody);
    let left = node.kernel.installed().expect("what is installed");
    assert_eq!(left, sgp_agent::domain::installed::Installed::default());
    node.kernel.sweep().expect("a sweep");
    assert_eq!((node.maps.flows.keys().count(), node.maps.rule_names.keys().count()), (0, 0));
}

/// How many programs stand at the hooks of an interface, by the kernel's own word.
fn standing(interface: &str) -> usize {
    let tcx = |hook| SchedClassifier::query_tcx(interface, hook).expect("tcx answers").1.len();
    let filters = |way: &str| {
        let shown = Command::new("tc").args(["filter", "show", "dev", interface, way]).output().expect("tc runs");
        String::from_utf8_lossy(&shown.stdout).matches("handle").count()
    };
    match Attachment::offered().expect("root may ask the kernel") {
        Attachment::Tcx => tcx(TcAttachType::Ingress) + tcx(TcAttachType::Egress),
        Attachment::Clsact => filters("ingress") + filters("egress"),
    }
}

/// As when bpffs is unmounted and mounted anew: the last pin of each link, program and map goes.
#[test]
fn pins_that_vanish_under_a_running_agent_are_put_back_and_nothing_stops_enforcing_meanwhile() {
    let Some(mut node) = node() else { return };
    assert!(tcp(&mut node, 40000, SYN).passed);
    let (before, installed) = (ids(&node), node.kernel.installed().expect("what is installed"));
    std::fs::remove_dir_all(PinDirs::new(&node.dir).root).expect("pins can be removed");
    // The kernel takes its time with what nobody holds.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((standing("host1"), standing("vlan.eth.1")), (2, 2), "programs stay attached");
    node.kernel.restore().expect("pins can be put back");
    assert_eq!((ids(&node), node.kernel.installed().expect("what is installed")), (before, installed));
    node.reopen();
    assert_eq!(node.plan(&observed(&node, &RULES)), []);
    let known = tcp(&mut node, 40000, ACK);
    assert!(known.passed && known.events.is_empty(), "by the flow of before: {known:?}");
}

#[test]
fn an_interface_that_is_renamed_keeps_its_programs_and_gets_them_anew_under_its_new_name() {
    let Some(mut node) = node() else { return };
    let renamed = Command::new("ip").args(["link", "set", "host1", "name", "other1"]).status();
    assert!(renamed.expect("ip runs").success());
    let mut observed = observed(&node, &RULES);
    for link in observed.links.iter_mut().flatten().filter(|link| link.name == "host1") {
        link.name = "other1".into();
    }
    assert_eq!(node.plan(&observed), [], "what is on an interface is there whatever it is called");
    assert_eq!(standing("other1"), 2);
    uninstall(&node.dir).expect("pins can be removed");
    node.reopen();
    node.apply(&observed);
    assert_eq!(standing("other1"), 2);
    assert!(tcp(&mut node, 40001, SYN).passed);
}

#[test]
fn as_long_as_a_source_is_silent_nothing_is_taken_away() {
    let Some(node) = node() else { return };
    for silent in [
        Observed { cloud: None, ..observed(&node, &RULES) },
        Observed { cluster: None, ..observed(&node, &RULES) },
        Observed { links: None, ..observed(&node, &RULES) },
    ] {
        assert_eq!(node.plan(&silent), []);
    }
}

#[test]
fn a_swap_of_policies_that_both_allow_a_packet_never_drops_it() {
    let Some(mut node) = node() else { return };
    let (pod, program) = (node.pods[0].clone(), node.program(program::FROM_BRANCH));
    // ICMP unreachable belongs to no flow: every single packet asks the policy of the moment.
    let frame = Frame::icmp(ip(A), pod.ipv4, 3, 1, 0).bytes();
    let (stop, packets, drops) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let others: Vec<String> = (0..200).map(|port| format!("in tcp {port} 10.0.0.0/16")).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let (passed, _) = judged(&program, pod.receives(), &frame);
                packets.fetch_add(1, Ordering::Relaxed);
                drops.fetch_add(usize::from(!passed), Ordering::Relaxed);
            }
        });
        for round in 0..60 {
            let mut rules: Vec<&str> = others.iter().map(String::as_str).take(round * 3).collect();
            rules.insert(round, "in icmp 3 10.0.0.0/8");
            let observed = observed(&node, &rules);
            node.apply(&observed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (packets, drops) = (packets.into_inner(), drops.into_inner());
    println!("{packets} packets during 60 swaps, {drops} dropped");
    assert!(packets > 1000 && drops == 0);
}

/// Seconds since the machine was started, which is when the kernel's clock begins.
fn uptime() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc/uptime");
    uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

#[test]
fn an_idle_flow_is_over_before_any_sweep() {
    let Some(mut node) = node() else { return };
    let pod = node.pods[0].clone();
    let frame = Frame::udp((ip(A), 40000), (pod.ipv4, 53)).bytes();
    assert!(node.run(pod.receives(), &frame).passed);
    let (key, flow) = node.maps.flows.iter().flatten().next().expect("a flow");
    node.apply(&observed(&node, &[]).clone());
    assert!(node.run(pod.receives(), &frame).passed, "it outlives its rule");
    // UDP is idle for 30 s at most, so the machine must have been up for longer.
    while uptime() <= 31 {
        std::thread::sleep(Duration::from_secs(1));
    }
    node.maps.flows.insert(key, Flow { last_seen_ns: 0, ..flow }, 0).expect("FLOWS");
    assert_eq!(reason(&node.run(pod.receives(), &frame)), Some(DropReason::NoMatchingRule));
}

#[test]
fn bpftool_names_the_fields_of_every_map() {
    let Some(mut node) = node() else { return };
    assert!(tcp(&mut node, 40000, SYN).passed);
    let dirs = PinDirs::new(&node.dir);
    let dump = |pin: PathBuf| bpftool(&["-j", "map", "dump", "pinned", &pin.display().to_string()]);
    for (name, fields) in [
        (map::INTERFACES, &["endpoint", "side"][..]),
        (map::ENDPOINTS, &["group_set", "branch_ifindex", "pod_mac"]),
        (map::ENDPOINT_NAMES, &["namespace", "interface_id"]),
        (map::PEERS, &["group_set"]),
        (map::RULE_NAMES, &["policy_digest", "rule_id"]),
        (map::FLOWS, &["local_addr", "remote_port", "last_seen_ns", "Opening"]),
        (map::COUNTERS, &["inbound", "packets"]),
    ] {
        let dumped = dump(dirs.map(name));
        fields.iter().for_each(|field| assert!(dumped.contains(field), "{name} shows no {field}: {dumped}"));
    }
    // The outer map's BTF is taken off by loaders; a ring has no fields of its own.
    for name in map::ALL.into_iter().filter(|name| ![map::POLICIES, map::EVENTS].contains(name)) {
        assert!(shown("map", dirs.map(name)).contains("btf_id"), "{name} carries no BTF");
    }
    let policy = dump(dirs.policy(set(&["sg-1"]).id()));
    assert!(policy.contains("\"axis\"") && policy.contains("Service") && policy.contains("words"), "{policy}");
}

#[test]
fn uninstalling_removes_every_pin() {
    let Some(node) = node() else { return };
    assert!(pins(&node.dir) > map::ALL.len() + program::PINNED.len() + pinned_links());
    uninstall(&node.dir).expect("pins can be removed");
    assert_eq!(pins(&node.dir), 0);
    uninstall(&node.dir).expect("a second time is no error");
}
