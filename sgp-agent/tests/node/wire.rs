//! A pod with real interfaces: namespaces of its own and of the VPC's router, and real sockets in them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn};
use nix::sys::socket::{recv, sendto, setsockopt, socket, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use super::Pod;

/// Long enough for a packet through three namespaces of an emulated machine.
const PATIENCE: Duration = Duration::from_secs(1);

const POD_MAC: &str = "02:00:00:00:09:01";
const HOST_MAC: &str = "02:00:00:00:0a:01";
const BRANCH_MAC: &str = "02:00:00:00:0b:01";
const ROUTER_MAC: &str = "02:00:00:00:0c:01";

/// Of each family: the pod, its gateway, the router as its branch sees it, and a client behind the router.
const ADDRESSES: [[&str; 5]; 2] = [
    ["-4", "10.9.9.1/32", "169.254.1.1", "10.200.0.1", CLIENTS[0]],
    ["-6", "2001:db8:9::1/128", "fe80::1", "fe80:ec2::1", CLIENTS[1]],
];

/// A client in the VPC, of each family.
pub(crate) const CLIENTS: [&str; 2] = ["10.0.2.20", "2001:db8:2::20"];

/// What a branch is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Branch {
    /// A VLAN of the trunk, as on EC2.
    Vlan,
    /// A veth of the same name, for kernels that have no VLANs.
    Veth,
}

/// A pod, the VPC's router, and the wires between them and the node, which is the namespace this was made in.
pub(crate) struct Wire {
    pub(crate) pod: Namespace,
    pub(crate) router: Namespace,
}

impl Wire {
    /// Lays the wires of one pod.
    pub(crate) fn lay(branch: Branch) -> (Self, Pod) {
        let wire = Self { pod: Namespace::new("pod"), router: Namespace::new("router") };
        for (name, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            fs::write(format!("/proc/sys/net/{name}"), value).expect("root may set this");
        }
        let (pod, router) = (&wire.pod.name, &wire.router.name);
        ip("link set lo up");
        ip(&format!("link add host1 address {HOST_MAC} type veth peer name eth0 address {POD_MAC} netns {pod}"));
        ip(&format!("link add trunk0 type veth peer name trunk1 netns {router}"));
        match branch {
            Branch::Vlan => wire.add_vlan("link add link trunk0 name vlan.eth.1", 1),
            Branch::Veth => ip(&format!("link add vlan.eth.1 type veth peer name vpc1 netns {router}")),
        }
        ip(&format!("link set vlan.eth.1 address {BRANCH_MAC}"));
        ["host1", "trunk0", "vlan.eth.1"].iter().for_each(|name| ip(&format!("link set {name} up")));
        wire.pod.ip("link set eth0 up");
        ["lo", "trunk1"].iter().for_each(|name| wire.router.ip(&format!("link set {name} up")));
        wire.router.ip(&format!("link set vpc1 address {ROUTER_MAC} up"));
        ADDRESSES.iter().for_each(|addresses| wire.route(addresses));
        let index = |name: &str| if_nametoindex(name).expect("the link is there");
        let pod = Pod::on(1, index("host1"), index("vlan.eth.1"));
        (wire, pod)
    }

    /// Does something in the pod's namespace.
    pub(crate) fn in_pod<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pod.inside(work)
    }

    /// Does something where the clients in the VPC are.
    pub(crate) fn in_router<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.router.inside(work)
    }

    /// A VLAN at both ends of the trunk.
    fn add_vlan(&self, here: &str, id: u16) {
        ip(&format!("{here} type vlan id {id}"));
        self.router.ip(&format!("link add link trunk1 name vpc{id} type vlan id {id}"));
    }

    /// Everybody is told everybody's MAC address: what is tested is not how they would ask.
    fn route(&self, [family, pod, gateway, router, client]: &[&str; 5]) {
        let address = pod.split('/').next().unwrap_or(pod);
        ip(&format!("{family} route add {pod} dev host1"));
        ip(&format!("neigh add {address} lladdr {POD_MAC} dev host1 nud permanent"));
        ip(&format!("{family} rule add from {address} priority 1536 table 101"));
        ip(&format!("neigh add {router} lladdr {ROUTER_MAC} dev vlan.eth.1 nud permanent"));
        ip(&format!("{family} route add default via {router} dev vlan.eth.1 onlink table 101"));
        let nodad = if *family == "-6" { "nodad" } else { "" };
        self.pod.ip(&format!("{family} address add {pod} dev eth0 {nodad}"));
        self.pod.ip(&format!("neigh add {gateway} lladdr {HOST_MAC} dev eth0 nud permanent"));
        self.pod.ip(&format!("{family} route add default via {gateway} dev eth0 onlink"));
        self.router.ip(&format!("{family} address add {client} dev lo {nodad}"));
        self.router.ip(&format!("{family} route add {pod} dev vpc1 src {client}"));
        self.router.ip(&format!("neigh add {address} lladdr {BRANCH_MAC} dev vpc1 nud permanent"));
    }

    /// The router sends what is for the pod by another VLAN, of which the node knows nothing.
    pub(crate) fn mistake_vlan(&self) {
        self.router.ip("link add link trunk1 name vpc9 type vlan id 9");
        self.router.ip(&format!("link set vpc9 address {ROUTER_MAC} up"));
        let [_, pod, _, _, client] = ADDRESSES[0];
        self.router.ip(&format!("-4 route replace {pod} dev vpc9 src {client}"));
        self.router.ip(&format!("neigh add 10.9.9.1 lladdr {BRANCH_MAC} dev vpc9 nud permanent"));
    }

    /// Frames that came to the router with the tag of the pod's VLAN.
    pub(crate) fn tagged_frames(&self) -> u64 {
        let listed =
            self.router.inside(|| fs::read_to_string("/proc/thread-self/net/dev").expect("this thread's interfaces"));
        let line = listed.lines().find_map(|line| line.trim().strip_prefix("vpc1:")).expect("the router's VLAN");
        line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a count of frames")
    }

    /// Whether a client in the VPC can talk with a server in the pod by TCP.
    pub(crate) fn reaches_pod(&self, pod: IpAddr, port: u16) -> bool {
        let to = SocketAddr::new(pod, port);
        let server = self.pod.inside(|| TcpListener::bind(to).expect("the pod's address"));
        let Ok(mut client) = self.router.inside(|| TcpStream::connect_timeout(&to, PATIENCE)) else { return false };
        let (mut served, _) = server.accept().expect("a connection stands");
        let mut heard = [0; 4];
        served.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.write_all(b"ping").and_then(|()| served.read_exact(&mut heard)).expect("a connection carries data");
        heard == *b"ping"
    }

    /// Whether a datagram of the pod comes to a client in the VPC, and the answer back.
    pub(crate) fn pod_asks(&self, client: IpAddr, port: u16) -> bool {
        let to = SocketAddr::new(client, port);
        let server = self.router.inside(|| UdpSocket::bind(to).expect("the client's address"));
        let asker = self.pod.inside(|| UdpSocket::bind(SocketAddr::new(any(client), 0)).expect("a port"));
        [&server, &asker].iter().for_each(|end| end.set_read_timeout(Some(PATIENCE)).expect("a timeout"));
        let mut heard = [0; 4];
        // A packet that tc drops is reported to a local sender on some kernels.
        drop(asker.send_to(b"ping", to));
        let Ok((_, from)) = server.recv_from(&mut heard) else { return false };
        server.send_to(b"pong", from).expect("an answer");
        asker.recv(&mut heard).is_ok() && heard == *b"pong"
    }

    /// Whether an echo request of the pod is answered.
    pub(crate) fn pod_pings(&self, [a, b, c, d]: [u8; 4]) -> bool {
        self.pod.inside(|| {
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("root may set this");
            let ping = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), SockProtocol::Icmp);
            let ping = ping.expect("a socket for echo requests");
            setsockopt(&ping, ReceiveTimeout, &TimeVal::new(1, 0)).expect("a timeout");
            let request = [8, 0, 0, 0, 0, 0, 0, 1];
            let _ = sendto(ping.as_raw_fd(), &request, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty());
            recv(ping.as_raw_fd(), &mut [0; 64], MsgFlags::empty()).is_ok()
        })
    }
}

/// Opens a conversation in which the pod asks a client in the VPC by UDP, or the client the pod: the asker's end, and the
/// other's, which knows whom it answers.
pub(crate) fn converse(asker: &Namespace, answerer: &Namespace, to: SocketAddr) -> (UdpSocket, UdpSocket) {
    let server = answerer.inside(|| UdpSocket::bind(to).expect("an address of its own"));
    let asker = asker.inside(|| UdpSocket::bind(SocketAddr::new(any(to.ip()), 0)).expect("a port"));
    [&server, &asker].iter().for_each(|end| end.set_read_timeout(Some(PATIENCE)).expect("a timeout"));
    asker.connect(to).expect("a route");
    (asker, server)
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// A network namespace with a name, which goes with this.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    /// Makes one.
    pub(crate) fn new(what: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("sgp-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        ip(&format!("netns add {name}"));
        Self { name }
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// Does something inside, on a thread of its own. A socket stays there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace stands");
        let enter = || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
            work()
        };
        thread::scope(|scope| scope.spawn(enter).join()).expect("the work inside ends well")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "delete", &self.name]).status());
    }
}

/// Runs `ip` where this is.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `tc` where this is.
pub(crate) fn tc(arguments: &str) {
    let output = Command::new("tc").args(arguments.split(' ')).output().expect("tc runs");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
