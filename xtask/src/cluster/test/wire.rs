//! What passes the interfaces of a node, as a packet socket hears it: what comes in before any program sees it,
//! what goes out after all of them.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nix::net::if_::if_indextoname;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::{cmsg_space, setsockopt_impl, sockopt_impl};
use sgp_common::Addr;
use sgp_common::flow::{ACK, SYN};
use sgp_common::packet::{Frame, Packet, TCP, UDP, parse};

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

sockopt_impl!(
    /// Tells a packet's mark beside it.
    ReceiveMark,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_RCVMARK,
    bool
);

/// Listens until it is ended.
pub(super) struct Wire {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Seen>>>,
}

/// A packet at an interface that opens a conversation, or answers such a one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) interface: String,
    pub(super) way: Way,
    pub(super) turn: Turn,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Port 0 for ICMP.
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) mark: u32,
}

/// The node's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// Whose turn a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Asks,
    Answers,
}

impl Seen {
    /// Port of the side that is asked.
    pub(super) fn served(&self) -> u16 {
        match self.turn {
            Turn::Asks => self.destination.port(),
            Turn::Answers => self.source.port(),
        }
    }
}

impl Wire {
    /// Begins to listen in a network namespace.
    pub(super) fn listen(netns: &str) -> Result<Self> {
        let space = File::open(format!("/run/netns/{netns}")).with_context(|| format!("opening {netns}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (told, (ready, hears)) = (Arc::clone(&stop), channel());
        let thread = std::thread::spawn(move || {
            setns(space, CloneFlags::CLONE_NEWNET).context("joining the node's namespace")?;
            hear(&told, &ready)
        });
        // An error of the thread is told by `end`.
        let _ = hears.recv();
        Ok(Self { stop, thread })
    }

    /// Ends, and tells what was seen, in order.
    pub(super) fn end(self) -> Result<Vec<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| bail!("the thread that listens panicked"))
    }
}

fn hear(stop: &AtomicBool, ready: &Sender<()>) -> Result<Vec<Seen>> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("opening a packet socket")?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(50)).context("setting a time limit")?;
    setsockopt(&socket, ReceiveMark, &true).context("asking for marks")?;
    let _ = ready.send(());
    let (mut seen, mut bytes) = (Vec::new(), vec![0; 65_536]);
    loop {
        match one(&socket, &mut bytes)? {
            Some(packet) => seen.extend(packet),
            None if stop.load(Ordering::Relaxed) => return Ok(seen),
            None => {}
        }
    }
}

/// The next frame, if one comes; inside, what it is, if it asks or answers.
fn one(socket: &OwnedFd, bytes: &mut [u8]) -> Result<Option<Option<Seen>>> {
    let mut control = cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(bytes)];
    let got = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
    let got = match got {
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
        got => got.context("listening")?,
    };
    let from = got.address.context("a packet without an interface")?;
    let mark = got.cmsgs().context("the messages beside a packet")?.find_map(mark).unwrap_or_default();
    let length = got.bytes;
    let mut packet = Packet::EMPTY;
    let turn = match parse(&bytes[..length], &mut packet) {
        Ok(Frame::Ip) => turn(&packet),
        _ => None,
    };
    let Some(turn) = turn else { return Ok(Some(None)) };
    let (source, destination) = ends(&packet);
    let interface = if_indextoname(u32::try_from(from.ifindex())?);
    Ok(Some(Some(Seen {
        // The interface may be gone by now.
        interface: interface.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        way: if from.pkttype() == OUTGOING { Way::Out } else { Way::In },
        turn,
        protocol: packet.protocol,
        source,
        destination,
        mark,
    })))
}

/// nix has no name of its own for this message.
fn mark(message: ControlMessageOwned) -> Option<u32> {
    let ControlMessageOwned::Unknown(message) = message else { return None };
    let is_mark = message.cmsg_header.cmsg_type == libc::SO_MARK;
    message.data_bytes.first_chunk().filter(|_| is_mark).map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Of TCP only what opens a connection; of UDP, the side with the lower port is asked, as everywhere in these cases.
fn turn(packet: &Packet) -> Option<Turn> {
    let asks = match packet.protocol {
        TCP if packet.tcp_flags & SYN == 0 => return None,
        TCP => packet.tcp_flags & ACK == 0,
        UDP => packet.destination_port < packet.source_port,
        _ if packet.query == 0 => return None,
        _ => packet.asks(),
    };
    Some(if asks { Turn::Asks } else { Turn::Answers })
}

fn ends(packet: &Packet) -> (SocketAddr, SocketAddr) {
    let end = |address: Addr, port| SocketAddr::new(Ipv6Addr::from(address.bytes).to_canonical(), port);
    (end(packet.source, packet.source_port), end(packet.destination, packet.destination_port))
}
