//! What passes the interfaces of a node, as a packet socket hears it: what comes in before any program sees it,
//! what goes out after all of them.

use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nix::net::if_::if_indextoname;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use sgp_common::flow::{ACK, SYN};
use sgp_common::packet::{Frame, Packet, TCP, parse};

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;

/// Listens until it is ended.
pub(super) struct Wire {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Seen>>>,
}

/// The first packet of a TCP connection at an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) interface: String,
    pub(super) way: Way,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) port: u16,
}

/// The node's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
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
    let _ = ready.send(());
    let mut seen = Vec::new();
    loop {
        match one(&socket)? {
            Some(packet) => seen.extend(packet),
            None if stop.load(Ordering::Relaxed) => return Ok(seen),
            None => {}
        }
    }
}

/// The next frame, if one comes; inside, what it is, if it opens a TCP connection.
fn one(socket: &OwnedFd) -> Result<Option<Option<Seen>>> {
    let mut bytes = [0; 65_536];
    let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut bytes) {
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(None),
        got => got.context("listening")?,
    };
    let from = from.context("a packet without an interface")?;
    let mut packet = Packet::EMPTY;
    let is_ip = matches!(parse(&bytes[..length], &mut packet), Ok(Frame::Ip));
    if !is_ip || packet.protocol != TCP || packet.tcp_flags & (SYN | ACK) != SYN {
        return Ok(Some(None));
    }
    let interface = if_indextoname(u32::try_from(from.ifindex())?);
    Ok(Some(Some(Seen {
        // The interface may be gone by now.
        interface: interface.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        way: if from.pkttype() == OUTGOING { Way::Out } else { Way::In },
        source: Ipv6Addr::from(packet.source.bytes).to_canonical(),
        destination: Ipv6Addr::from(packet.destination.bytes).to_canonical(),
        port: packet.destination_port,
    })))
}
