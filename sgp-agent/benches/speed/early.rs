//! Frames as a driver has them, before an skb exists: the kernel makes pages of them, runs the trunk's program on each, and
//! makes skbs of those that pass and gives them to the stack (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18). So what a drop before the
//! skb spares is measured without a network card: the same frames in both cases, but for the tag.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use sgp_agent::domain::enforcement::Early;
use sgp_agent::domain::installed::Link;
use sgp_agent::domain::plan::Step;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Kernel as _, trial};
use sgp_common::Direction;
use sgp_common::pins::program;

use crate::frames::tagged;
use crate::node::Node;
use crate::place::{Dropped, Place};
use crate::talk::Talk;

/// Where a frame is dropped, and by whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// On the trunk, as a tagged frame.
    Early,
    /// At the branch, by tc.
    Late,
}

/// The VLAN id of the first pod's branch.
const VLAN_ID: u16 = 1;

/// Nanoseconds for a frame of a conversation with the first pod, from the driver on; every one must be counted as dropped.
pub(crate) fn measure(talk: &Talk, seen: Seen, place: &mut Place, packets: u32) -> Result<f64> {
    prepare(&mut place.node)?;
    let before = place.counted(0, Dropped::Yes);
    let ns = run(&place.node, seen, &talk.frame(Direction::Inbound), packets)?;
    let counted = place.counted(0, Dropped::Yes) - before;
    ensure!(counted == u64::from(packets), "{counted} of {packets} frames were dropped and counted");
    Ok(ns)
}

/// Has the branch of the first pod take frames like a driver, and tells the trunk's program of it. A device has a queue for XDP
/// only while a program is on it and it is up.
fn prepare(node: &mut Node) -> Result<()> {
    let (interface, ifindex) = ("vlan.eth.1", node.pods[0].branch);
    let up = std::process::Command::new("ip").args(["link", "set", interface, "up"]).status().context("running ip")?;
    ensure!(up.success(), "{interface} does not come up");
    let link = Link { interface: interface.into(), ifindex, program: program::FROM_TRUNK };
    node.kernel.apply(&Step::AttachEarly(link, Early::Native))?;
    node.kernel.apply(&Step::PutVlan(VLAN_ID, ifindex))
}

/// Nanoseconds for a frame, from its page to its end.
fn run(node: &Node, seen: Seen, frame: &[u8], packets: u32) -> Result<f64> {
    let early = trial::early(&PinDirs::new(&node.dir))?;
    let frame = if seen == Seen::Early { tagged(frame.to_vec(), VLAN_ID) } else { frame.to_vec() };
    let fd = early.fd()?.as_fd().as_raw_fd();
    live(fd.cast_unsigned(), node.pods[0].branch, &frame, packets).context("BPF_PROG_TEST_RUN of live frames")
}

/// `struct xdp_md` of linux/bpf.h.
#[repr(C)]
struct Metadata {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// The part of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    answer: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;

fn live(program: u32, ifindex: u32, frame: &[u8], packets: u32) -> io::Result<f64> {
    let context = Metadata {
        data: 0,
        data_end: frame.len() as u32,
        data_meta: 0,
        ingress_ifindex: ifindex,
        rx_queue_index: 0,
        egress_ifindex: 0,
    };
    let mut run = Run {
        program,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: packets,
        ctx_size_in: size_of::<Metadata>() as u32,
        ctx_in: std::ptr::from_ref(&context) as u64,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        ..Run::default()
    };
    // SAFETY: the structure is as the kernel reads it, and what it points to outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, std::ptr::from_mut(&mut run), size_of::<Run>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(f64::from(run.duration)) }
}
