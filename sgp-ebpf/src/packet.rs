//! Lets the parser of `sgp-common` read from an skb, and reads what the kernel says beside the bytes.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use sgp_common::DropReason;
use sgp_common::packet::{Bytes, Frame, Packet, parse};
use sgp_common::verdict::{MARK_BY_NODE, MARK_JUDGED};

use crate::maps::{SCRATCH, Scratch};

/// An skb, through the helper that also reaches paged data.
struct Skb<'a>(&'a TcContext);

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }
}

/// Parses the frame into this CPU's scratch; `None` is ARP. A tag the NIC took off has no business here: a
/// branch's own is gone by now.
#[inline(always)]
pub(crate) fn parsed(ctx: &TcContext) -> Result<Option<&'static Packet>, DropReason> {
    if skb(ctx).vlan_present != 0 {
        return Err(DropReason::UnsupportedProtocol);
    }
    Ok(match parse_to_scratch(ctx)? {
        Frame::Arp => None,
        Frame::Ip => Some(&scratch().ok_or(DropReason::Malformed)?.packet),
    })
}

/// Out of line for the stack: what parsing takes is given back before judging begins.
#[inline(never)]
fn parse_to_scratch(ctx: &TcContext) -> Result<Frame, DropReason> {
    parse(&Skb(ctx), &mut scratch().ok_or(DropReason::Malformed)?.packet)
}

/// This CPU's scratch; it is always there, which only the verifier does not know.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own cell; each of its fields has one user at a time while the program runs.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

/// The packet that an ICMP error quotes, if it can be read.
#[inline(always)]
pub(crate) fn quoted(ctx: &TcContext, error: &Packet) -> Option<&'static Packet> {
    if quoted_to_scratch(ctx, error) { Some(&scratch()?.quoted) } else { None }
}

/// Out of line, as above.
#[inline(never)]
fn quoted_to_scratch(ctx: &TcContext, error: &Packet) -> bool {
    scratch().is_some_and(|scratch| sgp_common::quoted::parse(&Skb(ctx), error, &mut scratch.quoted).is_some())
}

/// The frame's source MAC address.
#[inline(always)]
pub(crate) fn source_mac(ctx: &TcContext) -> Option<[u8; 6]> {
    sgp_common::packet::source_mac(&Skb(ctx))
}

/// Interface the program runs on.
#[inline(always)]
pub(crate) fn ifindex(ctx: &TcContext) -> u32 {
    skb(ctx).ifindex
}

/// Interface the packet came into this namespace by; 0 if it was made here.
#[inline(always)]
pub(crate) fn ingress_ifindex(ctx: &TcContext) -> u32 {
    skb(ctx).ingress_ifindex
}

/// Whether `from_pod` has judged this packet for both of its endpoints.
#[inline(always)]
pub(crate) fn is_marked(ctx: &TcContext) -> bool {
    skb(ctx).mark & MARK_JUDGED != 0
}

/// Says that the packet has been judged for both of its endpoints.
#[inline(always)]
pub(crate) fn mark(ctx: &TcContext) {
    mark_with(ctx, MARK_JUDGED);
}

/// Sets bits of the mark; others stay.
#[inline(always)]
pub(crate) fn mark_with(ctx: &TcContext, bits: u32) {
    ctx.set_mark(skb(ctx).mark | bits);
}

/// Takes our bits back.
#[inline(always)]
pub(crate) fn unmark(ctx: &TcContext) {
    let ours = MARK_JUDGED | MARK_BY_NODE;
    if skb(ctx).mark & ours != 0 {
        ctx.set_mark(skb(ctx).mark & !ours);
    }
}

#[inline(always)]
fn skb(ctx: &TcContext) -> &__sk_buff {
    // SAFETY: the kernel's context outlives the program's run and the verifier checks each field.
    unsafe { &*ctx.skb.skb }
}
