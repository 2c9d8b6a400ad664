//! Many translated flows: ten thousand at once by real sockets, and a million one after the other.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};
use sgp_agent::domain::enforcement::SnatJudges;
use sgp_agent::domain::settings::SnatPorts;
use sgp_agent::io::kernel::{Attachment, Kernel};
use sgp_common::flow::{ACK, FIN, SYN};
use sgp_common::pins::program;

use crate::frames::{Frame, ip as address};
use crate::leaving::{Leaving, NODE, OUTSIDE, leaving, leaving_by};
use crate::net::{Net, PODS, lay};
use crate::node::{At, Node, allowed};
use crate::{in_range, wire};

/// Flows to one port of one server that are open at once.
const UDP_AT_ONCE: usize = 10_000;
/// Likewise of TCP: both ends of each are this process's, and a process may have 20,000 sockets on many a machine.
const TCP_AT_ONCE: usize = 4_000;
/// Datagrams on their way: more do not fit into a socket's buffer.
const IN_FLIGHT: usize = 100;
/// Connections one after the other.
const IN_SEQUENCE: usize = 1_000_000;
/// So many of them that stand in the tables before the sweep comes: half of the ports to one place.
const BETWEEN_SWEEPS: usize = 10_000;
const RULES: [&str; 1] = ["out all * 0.0.0.0/0"];
const PATIENCE: Duration = Duration::from_secs(20);

/// As many as that, or fewer where `SGP_TEST_CONNECTIONS` says so: in emulated machines that take minutes for all of them.
fn at_most(count: usize) -> usize {
    let fewer = std::env::var("SGP_TEST_CONNECTIONS").ok().map(|text| text.parse().expect("a number of connections"));
    fewer.map_or(count, |fewer: usize| fewer.min(count))
}

/// What only the n-th flow of a pod says.
fn words(pod: usize, n: usize) -> [u8; 8] {
    ((pod << 32 | n) as u64).to_ne_bytes()
}

/// A connection of a pod, and its words.
type Asked = (TcpStream, [u8; 8]);
/// The server's end of one, and whom it sees there.
type Served = (TcpStream, SocketAddr);

/// Opens `each` connections from every pod, and keeps them.
fn open(net: &Net, each: usize, server: SocketAddr) -> (Vec<Asked>, Vec<Served>) {
    let listener = net.outside.inside(|| TcpListener::bind(server).expect("the server's address"));
    let one = |pod, n| {
        let asked = TcpStream::connect_timeout(&server, PATIENCE).expect("a connection");
        let served = listener.accept().expect("the other end");
        [&asked, &served.0].iter().for_each(|end| end.set_read_timeout(Some(PATIENCE)).expect("a timeout"));
        ((asked, words(pod, n)), served)
    };
    let pods = net.pods.iter().enumerate();
    pods.flat_map(|(pod, space)| space.inside(|| (0..each).map(|n| one(pod, n)).collect::<Vec<_>>())).unzip()
}

/// Everybody asks before anybody is answered; how many are answered what they asked.
fn talk(asked: &mut [Asked], served: &mut [Served]) -> usize {
    for (stream, words) in asked.iter_mut() {
        stream.write_all(words).expect("a question");
    }
    for (stream, _) in served {
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).and_then(|()| stream.write_all(&heard)).expect("an answer");
    }
    let right = |(stream, words): &mut Asked| {
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).expect("an answer");
        heard == *words
    };
    asked.iter_mut().map(right).filter(|right| *right).count()
}

/// Sockets of every pod that speak to one server.
fn sockets(net: &Net, each: usize, server: SocketAddr) -> Vec<(UdpSocket, [u8; 8])> {
    let one = |pod, n| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
        socket.connect(server).expect("a way out");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        (socket, words(pod, n))
    };
    let pods = net.pods.iter().enumerate();
    pods.flat_map(|(pod, space)| space.inside(|| (0..each).map(|n| one(pod, n)).collect::<Vec<_>>())).collect()
}

/// Each asks and is answered: how many hear their own words, and whom the server saw.
fn exchange(asking: &[(UdpSocket, [u8; 8])], server: &UdpSocket) -> (usize, BTreeSet<SocketAddr>) {
    let (mut right, mut peers) = (0, BTreeSet::new());
    let mut heard = [0; 8];
    for some in asking.chunks(IN_FLIGHT) {
        some.iter().for_each(|(socket, words)| assert_eq!(socket.send(words).expect("a question"), words.len()));
        for _ in some {
            let (_, peer) = server.recv_from(&mut heard).expect("a question");
            server.send_to(&heard, peer).expect("an answer");
            peers.insert(peer);
        }
        for (socket, words) in some {
            socket.recv(&mut heard).expect("an answer");
            right += usize::from(heard == *words);
        }
    }
    (right, peers)
}

/// As many sockets as this process may have.
fn allow_sockets() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit everybody may");
}

/// A node with pods that are wired, and programs at work.
fn at_work() -> Option<(Leaving, Net)> {
    let attachment = allowed().then(|| Attachment::offered().expect("root may ask the kernel"))?;
    allow_sockets();
    let mut net = None;
    let node = Node::start_by(attachment, || {
        let (laid, pods) = lay();
        net = Some(laid);
        pods
    });
    let primary = if_nametoindex("primary0").expect("the link is there");
    Some((leaving_by(node, primary, SnatPorts::Prng, SnatJudges::Node, &RULES), net.expect("pods were wired")))
}

/// All of the node, each with a port of its own.
fn are_told_apart(peers: &BTreeSet<SocketAddr>, flows: usize) {
    assert!(peers.iter().all(|peer| peer.ip() == address(NODE) && in_range(peer.port())));
    assert_eq!(peers.len(), flows, "no two share a port");
}

#[test]
fn ten_thousand_flows_at_once_get_each_their_own_answers_and_leave_nothing() {
    let Some((mut it, net)) = at_work() else { return };
    let server = SocketAddr::new(address(OUTSIDE), 443);
    let [udp, tcp] = [UDP_AT_ONCE, TCP_AT_ONCE].map(|count| at_most(count) / net.pods.len());
    let asking = sockets(&net, udp, server);
    let udp_server = net.outside.inside(|| UdpSocket::bind(server).expect("the server's address"));
    udp_server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    exchange(&asking, &udp_server);
    let (mut asked, mut served) = open(&net, tcp, server);
    assert_eq!(it.entries(), asking.len() + asked.len());
    // All of them stand now.
    let (right, peers) = exchange(&asking, &udp_server);
    are_told_apart(&peers, asking.len());
    assert_eq!(right, asking.len(), "none crossed");
    println!("{right} of {} flows of UDP from {PODS} pods to {server} at once: answered with their own words", udp * 4);
    are_told_apart(&served.iter().map(|(_, peer)| *peer).collect(), asked.len());
    let right = talk(&mut asked, &mut served);
    assert_eq!(right, asked.len(), "none crossed");
    println!("{right} of {} connections of TCP beside them: likewise", asked.len());
    drop((asking, asked, served));
    let left = left_later(&mut it);
    println!("after the last was closed {left} entries stay");
    assert_eq!(left, 0);
}

/// Longer than anything but a connection that stands lives without packets.
const LATER: Duration = Duration::from_secs(200);

/// Entries that stay when the last packets have passed and some time is over; a connection would outlive it.
fn left_later(it: &mut Leaving) -> usize {
    // No flow is older than the machine.
    let up = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    thread::sleep(LATER.saturating_sub(up.into()));
    let begun = Instant::now();
    loop {
        it.node.let_time_pass(LATER);
        it.node.kernel.sweep().expect("a sweep");
        let left = it.entries();
        if left == 0 || begun.elapsed() > PATIENCE {
            return left;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Frames of one connection after another, of which only the ports differ.
struct Frames {
    syn: Vec<u8>,
    answer: Vec<u8>,
    fin: Vec<u8>,
    last: Vec<u8>,
}

/// Where a frame without IPv4 options has the ports of TCP.
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;

fn frames(it: &Leaving) -> Frames {
    let (pod, server, node) = ((it.pod(), 0), (address(OUTSIDE), 443), (address(NODE), 0));
    Frames {
        syn: wire::summed(&Frame::tcp(pod, server, SYN)),
        answer: wire::summed(&Frame::tcp(server, node, SYN | ACK)),
        fin: wire::summed(&Frame::tcp(pod, server, FIN | ACK)),
        last: wire::summed(&Frame::tcp(server, node, FIN | ACK)),
    }
}

fn with_port(frame: &mut [u8], at: usize, port: u16) {
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
}

/// A connection from its first packet to its last.
fn connection(it: &Leaving, frames: &mut Frames, port: u16) {
    let leaves = it.node.pods[0].leaves();
    let comes = At { program: program::FROM_PRIMARY, ifindex: it.primary(), ingress: it.primary(), mark: 0 };
    with_port(&mut frames.syn, SOURCE_PORT, port);
    let (ran, sent) = it.node.rewritten(leaves, &frames.syn);
    assert!(ran.redirected, "a connection from port {port} does not leave");
    let given = u16::from_be_bytes([sent[SOURCE_PORT], sent[SOURCE_PORT + 1]]);
    for frame in [&mut frames.answer, &mut frames.last] {
        with_port(frame, DESTINATION_PORT, given);
    }
    let (_, came) = it.node.rewritten(comes, &frames.answer);
    assert_eq!(came[DESTINATION_PORT..DESTINATION_PORT + 2], port.to_be_bytes(), "the answer is the pod's");
    with_port(&mut frames.fin, SOURCE_PORT, port);
    assert!(it.node.rewritten(leaves, &frames.fin).0.redirected);
    assert!(it.node.rewritten(comes, &frames.last).0.passed);
}

#[test]
fn a_million_connections_one_after_the_other_leak_nothing() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &RULES) else { return };
    let (all, mut frames) = (at_most(IN_SEQUENCE), frames(&it));
    let mut ports = (1024..=u16::MAX).cycle();
    let mut done = 0;
    while done < all {
        let batch = BETWEEN_SWEEPS.min(all - done);
        ports.by_ref().take(batch).for_each(|port| connection(&it, &mut frames, port));
        assert_eq!(it.entries(), batch, "one entry a connection");
        it.node.let_time_pass(LATER);
        let swept = it.node.kernel.sweep().expect("a sweep");
        assert_eq!((swept.flows, it.entries(), it.node.maps.flows.keys().count()), (batch, 0, 0));
        done += batch;
    }
    let counted: u64 = it.node.maps.flow_counts.iter().flatten().sum();
    assert_eq!(counted, 0, "flows are counted that are no more");
    println!("{done} connections, {BETWEEN_SWEEPS} between two sweeps: 0 flows, 0 entries and a count of 0 are left");
}
