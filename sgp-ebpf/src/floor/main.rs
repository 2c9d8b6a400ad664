//! What the data path is held against: a driver that makes another packet for every run, and the least that any
//! stateful filter does.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the classifier macro wants `pub` functions and drops their comments; a binary exports nothing"
)]

mod course;
mod drive;
mod traffic;

use aya_ebpf::bindings::{BPF_NOEXIST, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{Array, HashMap, ProgramArray};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use drive::{Drive, Word};
use sgp_common::limits::FLOWS_MAX;

/// As large as `sgp_common::flow::FlowKey`.
type Key = [u64; 6];
/// As large as `sgp_common::flow::Flow`.
type Value = [u64; 9];

const _: () = assert!(size_of::<Key>() == size_of::<sgp_common::flow::FlowKey>());
const _: () = assert!(size_of::<Value>() == size_of::<sgp_common::flow::Flow>());

#[btf_map]
static DRIVE: Array<Drive, 1> = Array::new();
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static TABLE: HashMap<Key, Value, { FLOWS_MAX as usize }> = HashMap::new();

/// Varies the packet, then becomes the program that is measured.
#[classifier]
pub fn drive(ctx: TcContext) -> i32 {
    let Some(drive) = DRIVE.get_ptr_mut(0) else { return TC_ACT_UNSPEC };
    // SAFETY: the benchmark runs one packet at a time.
    let drive = unsafe { &mut *drive };
    let flow = drive.flow();
    for word in &drive.words {
        write(&ctx, word, flow);
    }
    // SAFETY: nothing is left to drop.
    unsafe { TARGET.tail_call(&ctx, 0) };
    TC_ACT_UNSPEC
}

#[inline(always)]
fn write(ctx: &TcContext, word: &Word, flow: u32) {
    let value = word.of(flow);
    let place = ctx.data() + (word.at & 63) as usize;
    if place + 4 <= ctx.data_end() {
        // SAFETY: inside of the packet.
        unsafe { (place as *mut u32).write_unaligned(value.to_be()) };
    }
}

/// What the driver itself costs.
#[classifier]
pub fn nothing(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Reads addresses and ports.
#[classifier]
pub fn parse(ctx: TcContext) -> i32 {
    key(&ctx).map_or(TC_ACT_UNSPEC, |key| (key[0] ^ key[3] ^ key[4]) as i32 & 1)
}

/// Reads the clock.
#[classifier]
pub fn clock(_ctx: TcContext) -> i32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() as i32 & 1 }
}

/// Reads the time of the last tick.
#[classifier]
pub fn tick(_ctx: TcContext) -> i32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() as i32 & 1 }
}

/// Parses, finds the flow and stores into it.
#[classifier]
pub fn lookup(ctx: TcContext) -> i32 {
    let Some(key) = key(&ctx) else { return TC_ACT_UNSPEC };
    let Some(found) = TABLE.get_ptr_mut(&key) else { return TC_ACT_UNSPEC };
    // SAFETY: as in `drive`.
    unsafe { (*found)[0] += 1 };
    0
}

/// Parses, does not find the flow, and remembers it.
#[classifier]
pub fn insert(ctx: TcContext) -> i32 {
    let Some(key) = key(&ctx) else { return TC_ACT_UNSPEC };
    if TABLE.get_ptr_mut(&key).is_some() {
        return TC_ACT_UNSPEC;
    }
    TABLE.insert(&key, &[0; 9], BPF_NOEXIST.into()).map_or(TC_ACT_UNSPEC, |()| 0)
}

/// Addresses and ports of IPv4 without options, or of IPv6.
#[inline(always)]
fn key(ctx: &TcContext) -> Option<Key> {
    if at::<u16>(ctx, 12)? == 0x0800_u16.to_be() {
        let header: [u32; 3] = at(ctx, 26)?;
        return Some([header[0].into(), header[1].into(), 0, 0, header[2].into(), 0]);
    }
    let [a, b, c, d] = at(ctx, 22)?;
    Some([a, b, c, d, at::<u32>(ctx, 54)?.into(), 0])
}

#[inline(always)]
fn at<T>(ctx: &TcContext, offset: usize) -> Option<T> {
    let place = ctx.data() + offset;
    // SAFETY: inside of the packet.
    (place + size_of::<T>() <= ctx.data_end()).then(|| unsafe { (place as *const T).read_unaligned() })
}

/// The verifier proves that nothing panics; the language wants a handler all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
