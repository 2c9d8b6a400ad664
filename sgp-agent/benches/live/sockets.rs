//! Connections by real sockets, from the pod.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use crate::course::SERVICE;
use crate::node::wire::Namespace;
use crate::processors::Processors;

/// How long is measured, after as long as it takes to be at full speed.
const MEASURED: Duration = Duration::from_millis(60);
const BEFORE: Duration = Duration::from_millis(15);
/// Longer than any packet takes that is not lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is sent at once: as `iperf3` does.
const CHUNK: usize = 128 << 10;

/// Both ends.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) pod: &'a Namespace,
    pub(crate) outside: &'a Namespace,
    /// Where the server is.
    pub(crate) remote: Ipv4Addr,
    pub(crate) processors: Processors,
}

impl Ends<'_> {
    fn listen(&self) -> Result<TcpListener> {
        let listener = self.outside.inside(|| TcpListener::bind(self.server())).context("listening outside")?;
        let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&listener.as_fd(), ReceiveTimeout, &patience).context("a limit to waiting")?;
        Ok(listener)
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(self.remote.into(), SERVICE)
    }

    /// Bytes a second that streams carry to the server, from one processor to another.
    pub(crate) fn throughput(&self, streams: usize) -> Result<f64> {
        let listener = self.listen()?;
        let connect = || (0..streams).map(|_| connected(self.server())).collect::<Result<Vec<_>>>();
        let sending = self.pod.inside(connect)?;
        let heard: Vec<TcpStream> =
            (0..streams).map(|_| Ok(listener.accept().context("a connection")?.0)).collect::<Result<_>>()?;
        heard.iter().try_for_each(|stream| stream.set_read_timeout(Some(PATIENCE)))?;
        let count = AtomicU64::new(0);
        thread::scope(|scope| {
            heard.iter().for_each(|stream| drop(scope.spawn(|| self.processors.on_second(|| swallow(stream, &count)))));
            sending.iter().for_each(|stream| drop(scope.spawn(|| self.processors.on_first(|| pour(stream)))));
            let rate = grown(&count, BEFORE).and_then(|_| grown(&count, MEASURED));
            // The ends stop when their streams do.
            sending.iter().chain(&heard).for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
            rate
        })
    }

    /// Connections a second, one after the other, each with a question and its answer; both ends on one processor, so that
    /// none has to be woken.
    pub(crate) fn connections(&self) -> Result<f64> {
        self.answered(|| {
            let mut stream = connected(self.server())?;
            ask(&mut stream)
        })
    }

    /// Questions a second on one connection, each asked when the last is answered; likewise.
    pub(crate) fn requests(&self) -> Result<f64> {
        let mut stream = None;
        let server = self.server();
        self.answered(move || {
            let stream = match &mut stream {
                Some(stream) => stream,
                none => none.insert(connected(server)?),
            };
            ask(stream)
        })
    }

    /// How often a second something can be done in the pod while a server answers.
    fn answered(&self, mut once: impl FnMut() -> Result<()> + Send) -> Result<f64> {
        let listener = self.listen()?;
        thread::scope(|scope| {
            let server = scope.spawn(|| self.processors.on_first(|| serve(&listener)));
            let rate = self.pod.inside(|| {
                let rate = self.processors.on_first(|| rate(&mut once));
                // What is left of it, and the sign for the server to end.
                drop(once);
                connected(self.server()).and_then(|mut stream| Ok(stream.write_all(&[LAST])?)).and(rate)
            });
            let served = server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?;
            rate.and_then(|rate| served.map(|()| rate))
        })
    }
}

/// A question, and the one after which the server ends.
const QUESTION: u8 = 1;
const LAST: u8 = 2;

fn rate(once: &mut impl FnMut() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    while begun.elapsed() < BEFORE {
        once()?;
    }
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < MEASURED {
        once()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

fn connected(server: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).with_context(|| format!("connecting to {server}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[QUESTION]).context("asking")?;
    stream.read_exact(&mut [0]).context("waiting for the answer")
}

/// Answers one connection after another, until one says that it is the last.
fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().context("waiting for a connection")?;
        stream.set_nodelay(true)?;
        let mut question = [0];
        while stream.read(&mut question).context("waiting for a question")? == 1 {
            if question == [LAST] {
                return Ok(());
            }
            stream.write_all(&question).context("answering")?;
        }
    }
}

/// What a count grows by in a second: after this time, or as long as it takes until it grows at all.
fn grown(count: &AtomicU64, time: Duration) -> Result<f64> {
    let (before, begun) = (count.load(Ordering::Relaxed), Instant::now());
    loop {
        thread::sleep(time);
        let (bytes, took) = (count.load(Ordering::Relaxed) - before, begun.elapsed());
        if bytes > 0 {
            return Ok(bytes as f64 / took.as_secs_f64());
        }
        ensure!(took < PATIENCE, "no byte came in {took:?}");
    }
}

fn pour(mut stream: &TcpStream) {
    let chunk = vec![0; CHUNK];
    while stream.write_all(&chunk).is_ok() {}
}

fn swallow(mut stream: &TcpStream, count: &AtomicU64) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(bytes) => drop(count.fetch_add(bytes as u64, Ordering::Relaxed)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
