//! Lets the parser of `sgp-common` read from an skb, and reads what the kernel says beside the bytes.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use sgp_common::DropReason;
use sgp_common::packet::{Bytes, Frame, Packet, parse};
use sgp_common::verdict::{MARK_BY_NODE, MARK_JUDGED};

use crate::maps::{SCRATCH, Scratch};

/// What of an skb lies in one piece, where its headers nearly always are: read without a call.
struct Linear<'a>(&'a TcContext);

impl Bytes for Linear<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let place = self.0.data() + offset;
        // SAFETY: inside of the frame; bytes have no alignment.
        (place + N <= self.0.data_end()).then(|| unsafe { *(place as *const [u8; N]) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }
}

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
    let frame = match parse_linear(ctx) {
        // What seems to be cut off may be in the next piece.
        Err(DropReason::Malformed) if is_paged(ctx) => parse_paged(ctx),
        parsed => parsed,
    };
    Ok(match frame? {
        Frame::Arp => None,
        Frame::Ip => Some(&scratch().ok_or(DropReason::Malformed)?.packet),
    })
}

#[inline(always)]
fn parse_linear(ctx: &TcContext) -> Result<Frame, DropReason> {
    parse(&Linear(ctx), &mut scratch().ok_or(DropReason::Malformed)?.packet)
}

/// Out of line, since it is rare.
#[inline(never)]
fn parse_paged(ctx: &TcContext) -> Result<Frame, DropReason> {
    parse(&Skb(ctx), &mut scratch().ok_or(DropReason::Malformed)?.packet)
}

/// Whether some of the frame is not in its first piece.
#[inline(always)]
fn is_paged(ctx: &TcContext) -> bool {
    ctx.data() + (ctx.len() as usize) > ctx.data_end()
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
    sgp_common::packet::source_mac(&Linear(ctx)).or_else(|| sgp_common::packet::source_mac(&Skb(ctx)))
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
    has_mark(ctx, MARK_JUDGED)
}

/// Whether the packet's mark has all of these bits.
#[inline(always)]
pub(crate) fn has_mark(ctx: &TcContext, bits: u32) -> bool {
    skb(ctx).mark & bits == bits
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
