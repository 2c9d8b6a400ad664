//! Lets the parser of `sgp-common` read from a frame, and reads what the kernel says beside the bytes.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use sgp_common::DropReason;
use sgp_common::packet::{Bytes, Frame, Packet, parse};
use sgp_common::verdict::{MARK_BY_NODE, MARK_JUDGED};

use crate::maps::{SCRATCH, Scratch};

/// A frame as the kernel gives it to a program: its first piece, where its headers nearly always are, and perhaps more.
pub(crate) trait Given {
    /// Where the first piece begins, as if there were no tag.
    fn begin(&self) -> usize;
    /// Where it ends.
    fn end(&self) -> usize;
    /// How long the frame is, as far as that is known without a call.
    fn near_length(&self) -> usize;
    /// How long it is, with all of its pieces.
    fn whole_length(&self) -> usize;
    /// Whether some of it is not in the first piece.
    fn is_paged(&self) -> bool;
    /// Bytes of any piece, by a helper.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Given for TcContext {
    #[inline(always)]
    fn begin(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn near_length(&self) -> usize {
        self.len() as usize
    }

    #[inline(always)]
    fn whole_length(&self) -> usize {
        self.len() as usize
    }

    #[inline(always)]
    fn is_paged(&self) -> bool {
        self.data() + (self.len() as usize) > self.data_end()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        TcContext::load(self, offset).ok()
    }
}

/// The first piece: read without a call.
struct Linear<'a, F>(&'a F);

impl<F: Given> Bytes for Linear<'_, F> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let place = self.0.begin() + offset;
        // SAFETY: inside of the frame; bytes have no alignment.
        (place + N <= self.0.end()).then(|| unsafe { *(place as *const [u8; N]) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.near_length()
    }
}

/// All pieces, through the helper that reaches them.
struct Pieces<'a, F>(&'a F);

impl<F: Given> Bytes for Pieces<'_, F> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset)
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.whole_length()
    }
}

/// Parses the frame into this CPU's scratch; `None` is ARP. A tag the NIC took off has no business here: a
/// branch's own is gone by now.
#[inline(always)]
pub(crate) fn parsed(ctx: &TcContext) -> Result<Option<&'static Packet>, DropReason> {
    if skb(ctx).vlan_present != 0 {
        return Err(DropReason::UnsupportedProtocol);
    }
    parsed_of(ctx)
}

/// Likewise, whatever is known beside the frame.
#[inline(always)]
pub(crate) fn parsed_of<F: Given>(given: &F) -> Result<Option<&'static Packet>, DropReason> {
    let frame = match parse_linear(given) {
        // What seems to be cut off may be in the next piece.
        Err(DropReason::Malformed) if given.is_paged() => parse_paged(given),
        parsed => parsed,
    };
    Ok(match frame? {
        Frame::Arp => None,
        Frame::Ip => Some(&scratch().ok_or(DropReason::Malformed)?.packet),
    })
}

#[inline(always)]
fn parse_linear<F: Given>(given: &F) -> Result<Frame, DropReason> {
    parse(&Linear(given), &mut scratch().ok_or(DropReason::Malformed)?.packet)
}

/// Out of line, since it is rare.
#[inline(never)]
fn parse_paged<F: Given>(given: &F) -> Result<Frame, DropReason> {
    parse(&Pieces(given), &mut scratch().ok_or(DropReason::Malformed)?.packet)
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
    scratch().is_some_and(|scratch| sgp_common::quoted::parse(&Pieces(ctx), error, &mut scratch.quoted).is_some())
}

/// The frame's source MAC address.
#[inline(always)]
pub(crate) fn source_mac(ctx: &TcContext) -> Option<[u8; 6]> {
    sgp_common::packet::source_mac(&Linear(ctx)).or_else(|| sgp_common::packet::source_mac(&Pieces(ctx)))
}

/// Bytes of the frame.
#[inline(always)]
pub(crate) fn bytes_at<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[u8; N]> {
    Linear(ctx).read(offset).or_else(|| Pieces(ctx).read(offset))
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
