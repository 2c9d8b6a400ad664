//! Packets for the live benchmark: where they come from, where they end, and the barest way between.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;

use sgp_common::packet::UDP;

use crate::at;
use crate::course::{
    ADDRESSES, Addressed, BURST, Course, DATA, IDENTIFICATION, LEARNT_MAX, Order, SERVICE, balance, counts,
};
use crate::drive::Drive;

#[btf_map]
static ORDER: Array<Order, 1> = Array::new();
#[btf_map]
static TRAFFIC: Array<Drive, 1> = Array::new();
#[btf_map]
static LEARNT: Array<Addressed, { 2 * LEARNT_MAX as usize }> = Array::new();
#[btf_map]
static COUNTS: PerCpuArray<u64, { counts::ALL as usize }> = PerCpuArray::new();
#[btf_map]
static COURSE: Array<Course, 1> = Array::new();

/// Sends a burst of packets by an interface of the namespace that runs this, each of the flow that is next.
#[classifier]
pub fn generate(ctx: TcContext) -> i32 {
    burst(&ctx, |drive, _, flow| {
        let value = |at: usize| drive.words[at].of(flow);
        Some([value(0), value(1), value(2)])
    })
}

/// Likewise, to those that packets came from when they were answered.
#[classifier]
pub fn generate_learnt(ctx: TcContext) -> i32 {
    burst(&ctx, |_, order, flow| {
        let learnt = LEARNT.get(order.learnt + (flow & (LEARNT_MAX - 1)))?;
        Some([learnt.source, learnt.destination, learnt.ports])
    })
}

#[inline(always)]
fn burst(ctx: &TcContext, words: impl Fn(&Drive, &Order, u32) -> Option<[u32; 3]>) -> i32 {
    let (Some(drive), Some(order)) = (TRAFFIC.get_ptr_mut(0), ORDER.get(0)) else { return TC_ACT_SHOT };
    // SAFETY: the benchmark runs one generator at a time.
    let drive = unsafe { &mut *drive };
    for _ in 0..BURST {
        let flow = drive.flow();
        let Some(words) = words(drive, order, flow) else { return TC_ACT_SHOT };
        address(ctx, words);
        if ctx.clone_redirect(order.ifindex, 0).is_err() {
            count(counts::REFUSED);
        }
    }
    TC_ACT_SHOT
}

/// Writes addresses and ports, and what makes up for them in both checksums.
#[inline(always)]
fn address(ctx: &TcContext, words: [u32; 3]) {
    let [source, destination, ports] = words;
    words.into_iter().zip(ADDRESSES).for_each(|(word, place)| put(ctx, place, word.to_be()));
    put(ctx, IDENTIFICATION, balance([source, destination, 0]).to_be());
    put(ctx, DATA, balance([source, destination, ports]).to_be());
}

#[inline(always)]
fn put<T>(ctx: &TcContext, at: usize, value: T) {
    let place = ctx.data() + at;
    if place + size_of::<T>() <= ctx.data_end() {
        // SAFETY: inside of the packet.
        unsafe { (place as *mut T).write_unaligned(value) };
    }
}

#[inline(always)]
fn count(which: u32) -> u64 {
    let Some(count) = COUNTS.get_ptr_mut(which) else { return 0 };
    // SAFETY: this CPU's own.
    unsafe {
        *count += 1;
        *count
    }
}

/// The end of the benchmark's packets at a pod, which counts or answers them; others pass.
#[classifier]
pub fn pod_sink(ctx: TcContext) -> i32 {
    sink(&ctx, counts::POD, |order| Some((order.pod_mac, order.gateway_mac))).unwrap_or(TC_ACT_UNSPEC)
}

/// Likewise outside.
#[classifier]
pub fn outside_sink(ctx: TcContext) -> i32 {
    sink(&ctx, counts::OUTSIDE, |_| Some((at(&ctx, 0)?, at(&ctx, 6)?))).unwrap_or(TC_ACT_UNSPEC)
}

/// `macs`: those that an answer leaves from and goes to.
#[inline(always)]
fn sink(ctx: &TcContext, which: u32, macs: impl Fn(&Order) -> Option<([u8; 6], [u8; 6])>) -> Option<i32> {
    // In one piece, as they stand: the compiler would split single ones so that the verifier cannot follow.
    let [source, destination, ports] = at::<[u32; 3]>(ctx, ADDRESSES[0])?.map(u32::from_be);
    let is_service = ports as u16 == SERVICE || (ports >> 16) as u16 == SERVICE;
    if !is_ipv4(ctx) || at::<u8>(ctx, 23)? != UDP || !is_service {
        return None;
    }
    let number = count(which);
    let order = ORDER.get(0)?;
    if order.answering != which + 1 {
        return Some(TC_ACT_SHOT);
    }
    let back = Addressed { source: destination, destination: source, ports: ports.rotate_left(16) };
    let place = order.learnt + ((number as u32).wrapping_sub(1) & (LEARNT_MAX - 1));
    if let Some(learnt) = LEARNT.get_ptr_mut(place) {
        // SAFETY: one packet at a time.
        unsafe { *learnt = back };
    }
    let (from, to) = macs(order)?;
    // The sum of what is exchanged stays as it is.
    let words = [back.source, back.destination, back.ports].into_iter();
    words.zip(ADDRESSES).for_each(|(word, place)| put(ctx, place, word.to_be()));
    put(ctx, 0, to);
    put(ctx, 6, from);
    // SAFETY: a helper that is given numbers.
    Some(unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) } as i32)
}

/// Host veth, tc ingress: to the next hop by the branch, past the host stack and unjudged.
#[classifier]
pub fn bare_out(ctx: TcContext) -> i32 {
    let Some(course) = COURSE.get(0).filter(|_| is_ipv4(&ctx)) else { return TC_ACT_UNSPEC };
    let gateway = course.gateway.to_be();
    let mut hop = bpf_redir_neigh {
        nh_family: 2,
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [gateway, 0, 0, 0] },
    };
    // SAFETY: the hop is as long as is said.
    unsafe { bpf_redirect_neigh(course.branch, &raw mut hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}

/// Branch, tc ingress: into the pod, likewise.
#[classifier]
pub fn bare_in(ctx: TcContext) -> i32 {
    let Some(course) = COURSE.get(0).filter(|_| is_ipv4(&ctx)) else { return TC_ACT_UNSPEC };
    // SAFETY: a helper that is given numbers.
    unsafe { bpf_redirect_peer(course.host, 0) as i32 }
}

#[inline(always)]
fn is_ipv4(ctx: &TcContext) -> bool {
    at::<u16>(ctx, 12) == Some(0x0800_u16.to_be())
}
