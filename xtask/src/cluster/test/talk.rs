//! Conversations in any network namespace, by sockets of this process: who asks, and who answers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol as Number, Socket, Type};

/// How often a server looks whether it shall end.
const TICK: Duration = Duration::from_millis(100);
/// Both what is asked and what is answered; a web server answers it too.
const WORDS: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// Echo requests of the two families.
const ECHO: [u8; 2] = [8, 128];

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
    /// Echo, of either family.
    Icmp,
}

/// Somebody asks.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Path of the network namespace of who asks.
    pub(super) space: PathBuf,
    pub(super) protocol: Protocol,
    /// Port 0 for ICMP.
    pub(super) to: SocketAddr,
    /// Port to ask from; 0 is any.
    pub(super) from_port: u16,
}

impl Protocol {
    /// Whether this is the protocol of a packet.
    pub(super) fn is(self, number: u8) -> bool {
        match self {
            Self::Tcp => number == 6,
            Self::Udp => number == 17,
            Self::Icmp => number == 1 || number == 58,
        }
    }
}

impl Question {
    /// Whether an answer comes in this time.
    ///
    /// # Errors
    /// Where there is no socket to ask from.
    pub(super) fn is_answered(&self, patience: Duration) -> Result<bool> {
        inside(&self.space, || {
            let socket = self.socket().with_context(|| format!("a socket for {self:?}"))?;
            socket.set_read_timeout(Some(patience)).context("setting a time limit")?;
            // Whatever goes wrong from here on, there is no answer.
            Ok(self.ask(&socket, patience).unwrap_or(false))
        })
    }

    fn socket(&self) -> std::io::Result<Socket> {
        let v4 = self.to.is_ipv4();
        let (kind, number) = match self.protocol {
            Protocol::Tcp => (Type::STREAM, Number::TCP),
            Protocol::Udp => (Type::DGRAM, Number::UDP),
            Protocol::Icmp if v4 => (Type::DGRAM, Number::ICMPV4),
            Protocol::Icmp => (Type::DGRAM, Number::ICMPV6),
        };
        if self.protocol == Protocol::Icmp {
            // For both families; root's group is 0.
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
        }
        let socket = Socket::new(Domain::for_address(self.to), kind, Some(number))?;
        if self.from_port != 0 {
            socket.set_reuse_address(true)?;
            let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            socket.bind(&SocketAddr::new(any, self.from_port).into())?;
        }
        Ok(socket)
    }

    fn ask(&self, mut socket: &Socket, patience: Duration) -> std::io::Result<bool> {
        let echo = [ECHO[usize::from(self.to.is_ipv6())], 0, 0, 0, 0, 0, 0, 1];
        match self.protocol {
            Protocol::Tcp => socket.connect_timeout(&self.to.into(), patience)?,
            Protocol::Udp | Protocol::Icmp => socket.connect(&self.to.into())?,
        }
        socket.write_all(if self.protocol == Protocol::Icmp { &echo } else { WORDS })?;
        Ok(socket.read(&mut [0; 64])? > 0)
    }
}

/// Somebody who answers whatever is asked at a port, by TCP and by UDP, until it is dropped.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Begins to answer.
    ///
    /// # Errors
    /// Where the address is not there, or taken.
    pub(super) fn start(space: &Path, at: SocketAddr) -> Result<Self> {
        let open = |kind, number| {
            let socket = Socket::new(Domain::for_address(at), kind, Some(number))?;
            socket.set_reuse_address(true)?;
            socket.set_read_timeout(Some(TICK))?;
            socket.bind(&at.into())?;
            std::io::Result::Ok(socket)
        };
        let opened = inside(space, || Ok((open(Type::STREAM, Number::TCP)?, open(Type::DGRAM, Number::UDP)?)));
        let (tcp, udp) = opened.with_context(|| format!("serving at {at} in {}", space.display()))?;
        tcp.listen(128).context("listening")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (of_tcp, of_udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            thread::spawn(move || while_not(&of_tcp, || answer_tcp(&tcp))),
            thread::spawn(move || while_not(&of_udp, || answer_udp(&udp))),
        ];
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// One that asks and goes away is no reason to end; silence neither.
fn while_not(stop: &AtomicBool, mut answer: impl FnMut() -> std::io::Result<()>) {
    while !stop.load(Ordering::Relaxed) {
        drop(answer());
    }
}

fn answer_tcp(socket: &Socket) -> std::io::Result<()> {
    let (mut asker, _) = socket.accept()?;
    asker.set_read_timeout(Some(TICK))?;
    let _ = asker.read(&mut [0; 64])?;
    asker.write_all(WORDS)
}

fn answer_udp(socket: &Socket) -> std::io::Result<()> {
    let (_, asker) = socket.recv_from(&mut [MaybeUninit::uninit(); 64])?;
    socket.send_to(WORDS, &asker).map(drop)
}

/// Does something in a network namespace, on a thread of its own. A socket stays there.
fn inside<T: Send>(space: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(space).with_context(|| format!("opening {}", space.display()))?;
    let enter = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("joining {}", space.display()))?;
        work()
    };
    thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|_| anyhow::bail!("the thread inside panicked"))
}
