//! Datagrams at the speed of the kernel: sent by a program of ours, counted where they end.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::tc::qdisc_add_clsact;
use aya::programs::{SchedClassifier, TcAttachType, TestRun};
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use nix::net::if_::if_nametoindex;
use sgp_agent::io::kernel::Attachment;

use crate::course::{Addressed, BURST, Course, DATA, LEARNT_MAX, Order, SERVICE, counts};
use crate::drive::{Drive, Word};
use crate::ground::{Ground, ROUTER, Seat};
use crate::node::wire::Namespace;

/// Odd, and far from any power of two: 2^32 divided by the golden ratio.
const STEP: u32 = 0x9e37_79b9;
/// Flows differ in this many low bits by a port, in the rest by the other side's address.
const PORT_BITS: u32 = 10;
/// The first of those ports.
const PORT_BASE: u32 = 0x4000;
/// Longer than a packet waits that is not lost.
const LATEST: Duration = Duration::from_millis(200);
/// As long as the shortest frame of Ethernet.
const LENGTH: usize = 60;

// SAFETY: plain numbers without padding, of any value.
unsafe impl aya::Pod for Drive {}
// SAFETY: likewise.
unsafe impl aya::Pod for Order {}
// SAFETY: likewise.
unsafe impl aya::Pod for Course {}
// SAFETY: likewise.
unsafe impl aya::Pod for Addressed {}

/// See the module.
pub(crate) struct Traffic {
    object: Ebpf,
    order: Array<MapData, Order>,
    drive: Array<MapData, Drive>,
    learnt: Array<MapData, Addressed>,
    counts: PerCpuArray<MapData, u64>,
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sender {
    /// The pod.
    Pod,
    /// Somebody outside, who asks the pod.
    Outside,
    /// Somebody outside, who answers those that were heard there.
    Answering,
}

/// Whether those to whom packets come answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Each packet is answered, and the answer counted too.
    Answer,
    /// Packets are counted and end.
    Swallow,
}

/// Packets to send.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) seat: &'a Seat,
    pub(crate) outside: &'a Namespace,
    /// By which interface the other side hears and speaks.
    pub(crate) beyond: &'a str,
    pub(crate) sender: Sender,
    /// MAC addresses (destination, source) of what is sent.
    pub(crate) macs: [[u8; 6]; 2],
    /// The other side's first address.
    pub(crate) remote: Ipv4Addr,
    /// How many flows there are: a power of two.
    pub(crate) flows: u32,
    /// How many packets, a multiple of [`BURST`].
    pub(crate) packets: u32,
    /// Number of the first.
    pub(crate) first: u32,
    pub(crate) ends: Ends,
    /// Whose answers are remembered, and gone by.
    pub(crate) memory: Memory,
}

/// Of two that take turns, one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Plain,
    Other,
}

impl Memory {
    /// Index of its first place in `LEARNT`.
    fn first(self) -> u32 {
        if self == Self::Plain { 0 } else { LEARNT_MAX }
    }
}

/// What came of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Came {
    /// Packets that came to the pod.
    pub(crate) pod: u64,
    /// Packets that came outside.
    pub(crate) outside: u64,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Traffic {
    /// Loads the programs.
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
        let mut object = EbpfLoader::new().load(&bytes).context("loading the generator")?;
        for name in ["generate", "generate_learnt", "pod_sink", "outside_sink", "bare_out", "bare_in"] {
            program(&mut object, name)?.load().with_context(|| format!("the kernel's verifier on {name}"))?;
        }
        let mut taken = |name| object.take_map(name).with_context(|| format!("there is no map {name}"));
        let (order, drive, learnt, counts) = (taken("ORDER")?, taken("TRAFFIC")?, taken("LEARNT")?, taken("COUNTS")?);
        Ok(Self {
            order: order.try_into()?,
            drive: drive.try_into()?,
            learnt: learnt.try_into()?,
            counts: counts.try_into()?,
            object,
        })
    }

    /// Lets the benchmark's packets end at both sides of these pods.
    pub(crate) fn end_at(&mut self, ground: &Ground) -> Result<()> {
        for seat in &ground.pods {
            seat.space.inside(|| self.attach("pod_sink", "eth0"))?;
            ground.outside.inside(|| self.attach("outside_sink", &seat.beyond()))?;
        }
        ground.outside.inside(|| self.attach("outside_sink", "inet0"))
    }

    /// Redirects the packets of a pod, on this node.
    pub(crate) fn redirect(&mut self, node: &Namespace, seat: &Seat) -> Result<()> {
        let course = Course { branch: seat.pod.branch, host: seat.pod.host, gateway: ROUTER.to_bits() };
        let mut map: Array<_, Course> = self.object.map_mut("COURSE").context("there is no COURSE")?.try_into()?;
        map.set(0, course, 0).context("writing COURSE")?;
        node.inside(|| {
            self.attach("bare_out", &seat.host())?;
            self.attach("bare_in", &seat.branch())
        })
    }

    fn attach(&mut self, name: &str, interface: &str) -> Result<()> {
        if Attachment::offered()? == Attachment::Clsact {
            qdisc_add_clsact(interface).with_context(|| format!("a place for filters on {interface}"))?;
        }
        let attached = program(&mut self.object, name)?.attach(interface, TcAttachType::Ingress);
        attached.map(drop).with_context(|| format!("attaching {name} to {interface}"))
    }

    /// Sends packets, and waits until the last has come or gone.
    pub(crate) fn send(&mut self, load: &Load<'_>) -> Result<Came> {
        let Load { seat, sender, .. } = *load;
        let (space, interface, name) = match sender {
            Sender::Pod => (&seat.space, "eth0", "generate"),
            Sender::Outside => (load.outside, load.beyond, "generate"),
            Sender::Answering => (load.outside, load.beyond, "generate_learnt"),
        };
        let hearer = if sender == Sender::Pod { counts::OUTSIDE } else { counts::POD };
        let answering = if load.ends == Ends::Answer { hearer + 1 } else { 0 };
        let drive = Drive { mask: load.flows - 1, step: STEP, next: load.first, words: load.words() };
        self.drive.set(0, drive, 0).context("ordering packets")?;
        let before = self.counted()?;
        let took = space.inside(|| {
            let ifindex = if_nametoindex(interface).context("the sender's interface")?;
            let (pod_mac, gateway_mac) = (seat.pod.mac, seat.host_mac());
            let order = Order { ifindex, answering, learnt: load.memory.first(), pod_mac, gateway_mac };
            self.order.set(0, order, 0).context("ordering packets")?;
            self.run(name, load, before)
        })?;
        let [pod, outside, refused] = self.counted()?;
        ensure!(refused == before[2], "{} packets of {sender:?} could not be sent", refused - before[2]);
        Ok(Came { pod: pod - before[0], outside: outside - before[1], took })
    }

    fn run(&mut self, name: &str, load: &Load<'_>, before: [u64; 3]) -> Result<Duration> {
        let frame = load.frame();
        let runs = load.packets / BURST;
        let options = TestRunOptions { data_in: Some(&frame), repeat: runs, ..TestRunOptions::default() };
        let begun = Instant::now();
        program(&mut self.object, name)?.test_run(options).with_context(|| format!("running {name}"))?;
        self.arrived(load, before, begun)
    }

    /// How long it took until the last packet had come: on a busy machine the kernel puts some off. Where some never come, how
    /// long it took to send them.
    fn arrived(&self, load: &Load<'_>, before: [u64; 3], begun: Instant) -> Result<Duration> {
        let (sent, mut now) = (begun.elapsed(), begun.elapsed());
        while now < sent + LATEST {
            let [pod, outside, _] = self.counted()?;
            let came = [pod - before[0], outside - before[1]];
            let awaited = if load.ends == Ends::Answer { came[0].min(came[1]) } else { came[0].max(came[1]) };
            if awaited >= u64::from(load.packets) {
                return Ok(now);
            }
            thread::yield_now();
            now = begun.elapsed();
        }
        Ok(sent)
    }

    fn counted(&self) -> Result<[u64; 3]> {
        let count = |which| -> Result<u64> { Ok(self.counts.get(&which, 0)?.iter().sum()) };
        Ok([count(counts::POD)?, count(counts::OUTSIDE)?, count(counts::REFUSED)?])
    }

    /// To whom answers went: the last sender, as it was seen where it was heard.
    pub(crate) fn seen(&self, memory: Memory) -> Result<Ipv4Addr> {
        let all: Vec<Ipv4Addr> = (memory.first()..memory.first() + LEARNT_MAX)
            .map(|index| Ok(Ipv4Addr::from_bits(self.learnt.get(&index, 0)?.destination)))
            .collect::<Result<_>>()?;
        ensure!(all.iter().all(|one| *one == all[0]), "packets of one pod came from several addresses");
        Ok(all[0])
    }
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(object.program_mut(name).with_context(|| format!("there is no program {name}"))?.try_into()?)
}

impl Load<'_> {
    /// What differs from flow to flow: source, destination, ports.
    fn words(&self) -> [Word; 3] {
        let own = Word { at: 0, base: self.seat.address().to_bits(), shift: 0, mask: 0, unit: 0 };
        let remote = Word { base: self.remote.to_bits(), shift: PORT_BITS, mask: u32::MAX, unit: 1, ..own };
        let base = PORT_BASE << 16 | u32::from(SERVICE);
        let ports = Word { base, mask: (1 << PORT_BITS) - 1, unit: 1 << 16, ..own };
        if self.sender == Sender::Pod { [own, remote, ports] } else { [remote, own, ports] }
    }

    /// A datagram without addresses and ports, whose checksums are right once [`crate::course::balance`] makes up for them.
    fn frame(&self) -> Vec<u8> {
        let (ip, udp) = ((LENGTH - 14) as u16, (LENGTH - 34) as u16);
        let mut frame = [self.macs.concat(), vec![8, 0, 0x45, 0]].concat();
        frame.extend(ip.to_be_bytes());
        // No identification, don't fragment, 64 hops, UDP.
        frame.extend([0, 0, 0x40, 0, 64, 17]);
        frame.extend(checksum(&[0x4500, ip, 0x4000, 64 << 8 | 17]).to_be_bytes());
        frame.resize(DATA - 4, 0);
        frame.extend(udp.to_be_bytes());
        // The pseudo header has the protocol, and the length once more.
        frame.extend(checksum(&[17, udp, udp]).to_be_bytes());
        frame.resize(LENGTH, 0);
        frame
    }
}

/// As the Internet's (RFC 1071).
fn checksum(words: &[u16]) -> u16 {
    let sum: u32 = words.iter().copied().map(u32::from).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
