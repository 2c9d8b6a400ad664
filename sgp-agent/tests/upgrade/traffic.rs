//! Numbered packets by raw sockets, from a client in the VPC to a pod and back, and which of them came.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn};
use nix::sys::socket::{recv, sendto, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};

/// Begins every payload, so that nobody else's packets are counted.
const MAGIC: [u8; 4] = *b"sgp#";
/// IPv4 header without options, UDP header, magic, kind, sequence number.
const LENGTH: usize = 20 + 8 + 4 + 1 + 4;
/// Conversations that were opened before anything was restarted.
const OLD_FLOWS: u16 = 16;
/// Packets sent at a stretch at most: a receiver's queue has room for a thousand.
const BURST: u32 = 500;
const BUFFER: usize = 256 << 20;
/// How long to wait for what is under way, also in an emulated machine that gets little time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Timeouts without a packet after which none is on its way, also in an emulated machine that gets little time.
const STILL: u32 = 15;

/// What a packet is about. One counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Client to pod, of a flow that stood before.
    In,
    /// Pod to client, of such a flow: no rule would let it out.
    Out,
    /// Client to pod, the first of its flow.
    New,
    /// The pod's answer to that: no rule would let it out.
    Answer,
    /// Client to pod, to a port that no rule opens.
    Forbidden,
    /// Client to pod, the first of its flow, to a port that the rules stop opening.
    Closed,
    /// Likewise, that they begin to open.
    Opened,
}

pub(crate) const KINDS: [Kind; 7] =
    [Kind::In, Kind::Out, Kind::New, Kind::Answer, Kind::Forbidden, Kind::Closed, Kind::Opened];

/// What nothing may stop, whatever the rules of the moment, by the kind that is sent for it: each new flow is answered.
const ALLOWED: [(Kind, Kind); 4] =
    [(Kind::In, Kind::In), (Kind::Out, Kind::Out), (Kind::New, Kind::New), (Kind::Answer, Kind::New)];

impl Kind {
    fn port(self) -> u16 {
        match self {
            Self::Forbidden => 54,
            Self::Closed => 5000,
            Self::Opened => 5001,
            _ => 53,
        }
    }

    /// The client's port. A new flow has a port that no other had for longer than UDP lives.
    fn client_port(self, number: u32) -> u16 {
        let spread = |first: u16, count: u32| first + (number % count) as u16;
        match self {
            Self::In | Self::Out => spread(1_000, OLD_FLOWS.into()),
            Self::Forbidden => spread(2_000, 64),
            Self::New | Self::Answer => spread(3_000, 40_000),
            Self::Closed => spread(43_000, 10_000),
            Self::Opened => spread(53_000, 10_000),
        }
    }
}

/// How many there were of each kind.
#[derive(Default)]
pub(crate) struct Counts([AtomicU32; KINDS.len()]);

impl Counts {
    pub(crate) fn all(&self) -> Vec<u32> {
        KINDS.map(|kind| self.of(kind)).to_vec()
    }

    pub(crate) fn of(&self, kind: Kind) -> u32 {
        self.0[kind as usize].load(Ordering::SeqCst)
    }
}

/// Which of each kind arrived, by number.
pub(crate) struct Arrived([Vec<u8>; KINDS.len()]);

impl Arrived {
    fn nothing() -> Self {
        Self(Default::default())
    }

    /// How many of these numbers did not arrive.
    pub(crate) fn missing(&self, kind: Kind, numbers: std::ops::Range<u32>) -> usize {
        numbers.filter(|number| self.times(kind, *number) == 0).count()
    }

    /// How many of these numbers did.
    pub(crate) fn present(&self, kind: Kind, numbers: std::ops::Range<u32>) -> usize {
        numbers.filter(|number| self.times(kind, *number) > 0).count()
    }

    /// How many arrived more than once.
    pub(crate) fn doubled(&self) -> usize {
        self.0.iter().flatten().filter(|times| **times > 1).count()
    }

    fn times(&self, kind: Kind, number: u32) -> u8 {
        self.0[kind as usize].get(number as usize).copied().unwrap_or_default()
    }

    fn note(&mut self, kind: Kind, number: u32) {
        let list = &mut self.0[kind as usize];
        list.resize(list.len().max(number as usize + 1), 0);
        list[number as usize] = list[number as usize].saturating_add(1);
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).filter(|(mine, _)| mine.is_empty()).for_each(|(mine, theirs)| *mine = theirs);
        self
    }
}

/// Who talks, and whether to.
pub(crate) struct Talk {
    pub(crate) client: Ipv4Addr,
    pub(crate) pod: Ipv4Addr,
    pub(crate) sent: Counts,
    /// What arrived, of what is sent while nothing is lost: see [`Talk::settle`].
    heard: Counts,
    pub(crate) paused: AtomicBool,
    pub(crate) over: AtomicBool,
    pub(crate) silent: AtomicBool,
    /// How many listen.
    pub(crate) listening: AtomicU32,
    /// How many send, and how often each went round.
    senders: AtomicU32,
    rounds: [AtomicU32; 2],
}

/// Packets a second of a kind that one sender sends.
pub(crate) type Rates = &'static [(Kind, u32)];

impl Talk {
    pub(crate) fn between(client: Ipv4Addr, pod: Ipv4Addr) -> Self {
        Self {
            client,
            pod,
            sent: Counts::default(),
            heard: Counts::default(),
            paused: AtomicBool::new(false),
            over: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            listening: AtomicU32::new(0),
            senders: AtomicU32::new(0),
            rounds: Default::default(),
        }
    }

    /// Sends until it is over, from the namespace of this thread; gives the seconds in which it did.
    pub(crate) fn send(&self, rates: Rates) -> f64 {
        let (socket, mut busy, mut last) = (raw(), Duration::ZERO, Instant::now());
        let mut due = vec![0.0; rates.len()];
        let round = &self.rounds[self.senders.fetch_add(1, Ordering::SeqCst) as usize];
        while !self.over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_micros(500));
            let passed = last.elapsed();
            last = Instant::now();
            round.fetch_add(1, Ordering::SeqCst);
            if self.paused.load(Ordering::SeqCst) {
                continue;
            }
            busy += passed;
            for ((kind, rate), due) in rates.iter().zip(&mut due) {
                // What was missed while others had the CPU stays missed.
                *due = f64::min(*due + f64::from(*rate) * passed.as_secs_f64(), BURST.into());
                while *due >= 1.0 {
                    self.send_next(&socket, *kind);
                    *due -= 1.0;
                }
            }
        }
        busy.as_secs_f64()
    }

    /// Waits until all that is sent so far has been judged, however long a sender or a queue had no CPU: each sender has
    /// gone round, and of what nothing may stop as much was heard as was sent. What is forbidden went the same way, before them.
    pub(crate) fn settle(&self) {
        let rounds = self.rounds.each_ref().map(|rounds| rounds.load(Ordering::SeqCst));
        let went_round = || self.rounds.iter().zip(&rounds).all(|(now, then)| now.load(Ordering::SeqCst) > then + 1);
        wait(went_round);
        let sent = self.sent.all();
        wait(|| ALLOWED.iter().all(|(kind, cause)| self.heard.of(*kind) >= sent[*cause as usize]));
    }

    /// Sends one of each flow there is to be, both ways, so that they stand.
    pub(crate) fn open_old_flows(&self, socket: &OwnedFd, kind: Kind) {
        (0..u32::from(OLD_FLOWS)).for_each(|_| self.send_next(socket, kind));
    }

    fn send_next(&self, socket: &OwnedFd, kind: Kind) {
        let number = self.sent.0[kind as usize].fetch_add(1, Ordering::SeqCst);
        self.send_one(socket, kind, number);
    }

    fn send_one(&self, socket: &OwnedFd, kind: Kind, number: u32) {
        let (client, pod) = (kind.client_port(number), kind.port());
        let (to, from_port, to_port) = match kind {
            Kind::Out | Kind::Answer => (self.client, pod, client),
            _ => (self.pod, client, pod),
        };
        let mut packet = Vec::with_capacity(LENGTH);
        packet.extend(from_port.to_be_bytes());
        packet.extend(to_port.to_be_bytes());
        packet.extend((LENGTH as u16 - 20).to_be_bytes());
        // No checksum, as UDP over IPv4 allows.
        packet.extend([0, 0]);
        packet.extend(MAGIC);
        packet.push(kind as u8);
        packet.extend(number.to_be_bytes());
        let [a, b, c, d] = to.octets();
        let send = || sendto(socket.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty());
        // A raw socket does not wait for room in its send buffer (`__ip_append_data`, Linux 6.1): where the queue behind it
        // gets no CPU, the packet was never sent. Other errors are no excuse: that it did not arrive is what counts.
        while send() == Err(nix::errno::Errno::ENOBUFS) {
            std::thread::yield_now();
        }
    }

    /// Notes what arrives in the namespace of this thread until it is over and still. New conversations are answered.
    pub(crate) fn hear(&self) -> Arrived {
        let (socket, mut arrived, mut bytes, mut still) = (raw(), Arrived::nothing(), [0; 128], 0);
        self.listening.fetch_add(1, Ordering::SeqCst);
        loop {
            match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(length) => {
                    still = 0;
                    self.note(&socket, &bytes[..length], &mut arrived);
                }
                Err(nix::errno::Errno::EAGAIN) if self.silent.load(Ordering::SeqCst) => {
                    still += 1;
                    if still == STILL {
                        return arrived;
                    }
                }
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(error) => panic!("listening: {error}"),
            }
        }
    }

    fn note(&self, socket: &OwnedFd, bytes: &[u8], arrived: &mut Arrived) {
        if bytes.len() != LENGTH || bytes[28..32] != MAGIC {
            return;
        }
        let Some(kind) = KINDS.into_iter().find(|kind| *kind as u8 == bytes[32]) else { return };
        let number = u32::from_be_bytes([bytes[33], bytes[34], bytes[35], bytes[36]]);
        arrived.note(kind, number);
        self.heard.0[kind as usize].fetch_add(1, Ordering::SeqCst);
        if kind == Kind::New {
            self.sent.0[Kind::Answer as usize].fetch_max(number + 1, Ordering::SeqCst);
            self.send_one(socket, Kind::Answer, number);
        }
    }
}

/// Gives up in the end: what does not arrive at all is told as lost.
fn wait(over: impl Fn() -> bool) {
    let begun = Instant::now();
    while !over() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A raw socket hears all UDP that its namespace is given, whatever the port, and sends from any port.
pub(crate) fn raw() -> OwnedFd {
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Udp);
    let socket = socket.expect("root may have a raw socket");
    setsockopt(&socket, RcvBufForce, &BUFFER).expect("room for what waits");
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(200)).expect("a timeout");
    socket
}
