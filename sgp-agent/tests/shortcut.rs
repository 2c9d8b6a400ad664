//! Past the host stack: what goes there, what does not, and that it is judged all the same.

#[path = "../../sgp-common/tests/frames/mod.rs"]
mod frames;
mod node;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use frames::Frame;
use node::ground::attachments;
use node::rules::{ec2, set};
use node::wire::{Branch, CLIENTS, Wire, converse, ip, tc};
use node::{At, Node};
use sgp_agent::domain::enforcement::Shortcuts;
use sgp_agent::domain::observed::{LinkFacts, Observed, Queued};
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Attachment, shared};
use sgp_agent::io::netlink::Netlink;
use sgp_common::Direction;
use sgp_common::pins::program;
use sgp_common::verdict::{MARK_BY_NODE, MARK_JUDGED, MARK_SHORT};

/// Questions and answers of a conversation.
const ROUNDS: u64 = 50;
/// Packets of it that may take the stack: the first each way.
const FIRST: u64 = 2;
/// What a pod may send meanwhile to find its neighbours.
const DISCOVERY: u64 = 3;
const RULES: [&str; 4] =
    ["in udp 53 10.0.0.0/8", "in udp 53 2001:db8::/32", "out udp 53 10.0.0.0/8", "out udp 53 2001:db8::/32"];

struct Scene {
    node: Node,
    wire: Wire,
    observed: Observed,
}

fn scene(attachment: Attachment, shortcuts: Shortcuts) -> Scene {
    let mut wire = None;
    let mut node = Node::start_by(attachment, || {
        let (laid, pod) = Wire::lay(Branch::Veth);
        wire = Some(laid);
        vec![pod]
    });
    let mut observed = node.observed(&ec2(&[("sg-1", &RULES)]), &[set(&["sg-1"])]);
    observed.enforcement.shortcuts = shortcuts;
    services(&mut observed, &["192.0.2.0/24"]);
    node.apply(&observed);
    // As the CNI plugin marks what is a pod's.
    ip("link set host1 alias sgp");
    Scene { node, wire: wire.expect("the pod was wired"), observed }
}

impl Scene {
    /// The pod asks a client, and a client the pod, in both families.
    fn conversations(&self) -> Vec<(UdpSocket, UdpSocket)> {
        let (pod, wire) = (&self.node.pods[0], &self.wire);
        let clients = CLIENTS.map(|client| client.parse().expect("an address"));
        let asks = clients.map(|client| converse(&wire.pod, &wire.router, SocketAddr::new(client, 53)));
        let asked = [pod.ipv4, pod.ipv6].map(|pod| converse(&wire.router, &wire.pod, SocketAddr::new(pod, 53)));
        asks.into_iter().chain(asked).collect()
    }

    /// Sends the same world to the kernel with something changed.
    fn change(&mut self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.observed);
        self.node.apply(&self.observed);
    }

    /// What the agent observes of the node's addresses.
    fn own_addresses(&self) -> std::collections::BTreeSet<std::net::IpAddr> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = async { Netlink::connect().expect("a socket").own_addresses().await };
        runtime.expect("a runtime").block_on(asked).expect("the addresses")
    }

    /// What the agent observes of the node's links, and of others on them.
    fn look(&self) -> (Vec<LinkFacts>, std::collections::BTreeSet<u32>) {
        // Its threads are begun here, and so in this namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let links = Netlink::connect().expect("a socket").links().await.expect("the links");
            let shared = shared(&links, Shortcuts::Auto).await.expect("the kernel says");
            (links, shared)
        })
    }
}

fn asks_and_hears((asker, answerer): &(UdpSocket, UdpSocket)) -> bool {
    let mut heard = [0; 4];
    drop(asker.send(b"ping"));
    let Ok((_, from)) = answerer.recv_from(&mut heard) else { return false };
    answerer.send_to(b"pong", from).expect("an answer");
    asker.recv(&mut heard).is_ok() && heard == *b"pong"
}

/// Packets that this namespace's stack has forwarded, of both families.
fn forwarded() -> u64 {
    let text = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("this thread's counters");
    let v4 = text("snmp");
    let ip: Vec<&str> = v4.lines().filter(|line| line.starts_with("Ip:")).collect();
    let place = ip[0].split(' ').position(|word| word == "ForwDatagrams").expect("a column");
    let v4: u64 = ip[1].split(' ').nth(place).and_then(|count| count.parse().ok()).expect("a count");
    let v6 = text("snmp6");
    let line = v6.lines().find(|line| line.starts_with("Ip6OutForwDatagrams")).expect("a line");
    v4 + line.split_whitespace().nth(1).and_then(|count| count.parse::<u64>().ok()).expect("a count")
}

/// Packets that the stack forwards while a conversation goes on, and how many there are.
fn through_stack(conversation: &(UdpSocket, UdpSocket)) -> (u64, u64) {
    let before = forwarded();
    (0..ROUNDS).for_each(|round| assert!(asks_and_hears(conversation), "{conversation:?} in round {round}"));
    (forwarded() - before, 2 * ROUNDS)
}

#[test]
fn packets_of_known_flows_go_past_the_host_stack_and_are_judged_and_counted_all_the_same() {
    for attachment in attachments() {
        let scene = scene(*attachment, Shortcuts::Auto);
        let counted = |direction| {
            let all = scene.node.maps.counted();
            all.iter().filter(|it| it.direction == direction && it.reason.is_none()).map(|it| it.packets).sum::<u64>()
        };
        for conversation in scene.conversations() {
            let before = [Direction::Inbound, Direction::Outbound].map(counted);
            let (stack, _) = through_stack(&conversation);
            assert!(stack <= FIRST, "{attachment:?}: {stack} packets of {conversation:?} took the stack");
            let after = [Direction::Inbound, Direction::Outbound].map(counted);
            for (before, after) in before.into_iter().zip(after) {
                // The pod's kernel may ask for a neighbour meanwhile (RFC 4861), which is counted too.
                let packets = after - before;
                assert!((ROUNDS..=ROUNDS + DISCOVERY).contains(&packets), "each is counted once, not {packets} in all");
            }
        }
    }
}

#[test]
fn without_shortcuts_every_packet_takes_the_stack() {
    for attachment in attachments() {
        let scene = scene(*attachment, Shortcuts::Off);
        for conversation in scene.conversations() {
            let (stack, all) = through_stack(&conversation);
            assert_eq!(stack, all);
        }
    }
}

/// What Services have, as Kubernetes tells it.
fn services(observed: &mut Observed, nets: &[&str]) {
    let cluster = observed.cluster.get_or_insert_default();
    cluster.services = Some(nets.iter().map(|net| net.parse().expect("a CIDR")).collect());
}

#[test]
fn first_packets_go_past_the_stack_too_where_that_is_asked_for_and_are_judged_by_the_branch() {
    for attachment in attachments() {
        let scene = scene(*attachment, Shortcuts::All);
        let conversations = scene.conversations();
        let took = conversations.iter().map(|conversation| through_stack(conversation).0).collect::<Vec<_>>();
        assert!(
            took.iter().all(|took| *took == 0),
            "{attachment:?}: {took:?} packets, of two the pod opened and two others"
        );
        for client in CLIENTS.map(|client| client.parse().expect("an address")) {
            let refused = converse(&scene.wire.pod, &scene.wire.router, SocketAddr::new(client, 54));
            let before = forwarded();
            assert!(!asks_and_hears(&refused), "{attachment:?}: no rule allows {client}, port 54");
            assert_eq!(forwarded(), before, "it went the same way");
        }
    }
}

#[test]
fn first_packets_to_services_and_to_the_node_itself_keep_to_the_stack() {
    let mut scene = scene(attachments()[0], Shortcuts::All);
    scene.change(|observed| services(observed, &["10.0.0.0/8", "2001:db8::/32"]));
    let conversations = scene.conversations();
    let took = conversations.iter().map(|conversation| through_stack(conversation).0).collect::<Vec<_>>();
    assert!(took.iter().take(CLIENTS.len()).all(|took| (1..=FIRST).contains(took)), "{took:?} packets took the stack");
    ip("address add 10.0.0.253/32 dev lo");
    let own = scene.own_addresses();
    assert!(own.contains(&"10.0.0.253".parse().expect("an address")), "{own:?}");
    scene.change(|observed| {
        services(observed, &[]);
        observed.own_addresses = own;
    });
    let node = UdpSocket::bind("10.0.0.253:53").expect("the node's address");
    let pod = scene.wire.in_pod(|| {
        let asker = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        asker.connect("10.0.0.253:53").expect("a way to the node");
        asker
    });
    [&node, &pod].into_iter().for_each(|socket| {
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time");
    });
    let conversation = (pod, node);
    assert!(asks_and_hears(&conversation), "the node's own address is not sent to the VPC");
    // In strict mode the pod's rule comes before the node's own addresses, but not before what rewrites its ports.
    for change in
        ["rule add iif host1 priority 10 table 101", "rule add priority 20 table local", "rule del priority 0"]
    {
        ip(change);
    }
    let before = forwarded();
    drop(conversation.0.send(b"ping"));
    assert_eq!(forwarded() - before, 1, "the stack was asked");
}

#[test]
fn a_flow_past_the_stack_ends_with_its_rule_where_revoked_flows_are_cut() {
    for attachment in attachments() {
        let mut scene = scene(*attachment, Shortcuts::Auto);
        scene.change(|observed| observed.enforcement.revoked = sgp_agent::domain::enforcement::Revoked::IsCut);
        let conversations = scene.conversations();
        conversations.iter().for_each(|it| assert!(through_stack(it).0 <= FIRST));
        scene.change(|observed| observed.cloud.as_mut().expect("EC2's word").groups = ec2(&[("sg-1", &[])]).groups);
        assert!(conversations.iter().all(|conversation| !asks_and_hears(conversation)), "{attachment:?}");
    }
}

#[test]
fn where_others_have_programs_or_queues_packets_keep_to_the_stack() {
    for attachment in attachments() {
        let mut scene = scene(*attachment, Shortcuts::Auto);
        let (links, others) = scene.look();
        assert!(others.is_empty(), "{attachment:?}: ours are taken for others': {others:?} of {links:?}");
        let host = scene.node.pods[0].host;
        // A queue that every kernel knows, in place of a limit on bandwidth, and a program that has no word of its own.
        let pin = PinDirs::new(&scene.node.dir).program(program::FROM_PRIMARY);
        let filter = format!("filter add dev host1 egress prio 9 bpf da object-pinned {}", pin.display());
        for (add, remove) in [
            ("qdisc add dev host1 root pfifo limit 1000", "qdisc del dev host1 root"),
            (filter.as_str(), "filter del dev host1 egress prio 9"),
        ] {
            // It is there already where ours are filters.
            drop(Command::new("tc").args(["qdisc", "add", "dev", "host1", "clsact"]).output());
            tc(add);
            let (links, others) = scene.look();
            let queued = links.iter().any(|link| link.index == host && link.queued == Queued::Yes);
            assert_eq!((queued, others.contains(&host)), (add.contains("pfifo"), add.contains("filter")), "{add}");
            scene.change(|observed| {
                observed.shared = others;
                let all = observed.links.iter_mut().flatten();
                all.filter(|link| link.index == host && queued).for_each(|link| link.queued = Queued::Yes);
            });
            let conversations = scene.conversations();
            conversations.iter().for_each(|it| assert_eq!(through_stack(it).0, 2 * ROUNDS, "{attachment:?}: {add}"));
            drop(conversations);
            tc(remove);
            scene.change(|observed| {
                observed.shared.clear();
                observed.links.iter_mut().flatten().for_each(|link| link.queued = Queued::No);
            });
        }
    }
}

#[test]
fn a_branch_takes_only_the_mark_of_a_shortcut_for_one() {
    let scene = scene(attachments()[0], Shortcuts::Auto);
    let pod = &scene.node.pods[0];
    let frame = Frame::udp((pod.ipv4, 1234), (CLIENTS[0].parse().expect("an address"), 54)).bytes();
    let at = |mark| At { mark, ..pod.leaves() };
    assert_eq!(at(0).program, program::TO_BRANCH);
    for mark in [0, MARK_JUDGED, MARK_BY_NODE] {
        assert!(!scene.node.run_unsampled(at(mark), &frame).0, "{mark:#x} is judged, and no rule allows it");
    }
    assert_eq!(scene.node.run_unsampled(at(MARK_SHORT | 0x80), &frame), (true, 0x80), "and the mark is taken off");
}
