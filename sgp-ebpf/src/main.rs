//! The data path of sgp: five tc programs, all telling the same story (`pipeline`), and one of XDP that knows its end early
//! (`trunk`).
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the classifier macro wants `pub` functions and drops their comments; a binary exports nothing"
)]

mod clock;
mod endpoint;
mod flow;
mod fragment;
mod judge;
mod leaving;
mod maps;
mod packet;
mod pipeline;
mod policy;
mod report;
mod rewrite;
mod shortcut;
mod snat;
mod trunk;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Host veth, tc ingress: what the pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    pipeline::from_pod(&ctx)
}

/// Host veth, tc egress: what the pod is given.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    pipeline::to_pod(&ctx)
}

/// Branch interface, tc ingress: what the VPC delivers.
#[classifier]
pub fn from_branch(ctx: TcContext) -> i32 {
    pipeline::from_branch(&ctx)
}

/// Branch interface, tc egress: what leaves for the VPC.
#[classifier]
pub fn to_branch(ctx: TcContext) -> i32 {
    pipeline::to_branch(&ctx)
}

/// Primary interface, tc ingress: replies to what left under the node's address. All else is the host's, and passes.
#[classifier]
pub fn from_primary(ctx: TcContext) -> i32 {
    leaving::from_primary(&ctx)
}

/// Trunk interface, XDP: what the VPC delivers to branches, before an skb exists. Frames in several pieces too (Linux 5.18).
#[xdp(frags)]
pub fn from_trunk(ctx: XdpContext) -> u32 {
    trunk::from_trunk(&ctx)
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
