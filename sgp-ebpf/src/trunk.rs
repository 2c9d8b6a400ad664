//! The trunk, before an skb exists: what `from_branch` would refuse for certain goes here already, and everything else passes to
//! it. Nothing is admitted, remembered or refreshed, so that a verdict is the same without this program.
//!
//! Passed unseen: frames without a tag in them (the trunk's own, and those whose tag the NIC took off), ids of others'
//! interfaces, fragments, and what belongs to no flow, ICMP errors above all: to judge those takes what only tc does.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use sgp_common::exempt::exempt;
use sgp_common::packet::{ETHERNET_LEN, Packet, Part};
use sgp_common::policy::Question;
use sgp_common::trunk::{NOTHING, OTHERS, REFUSED, TAG_LEN, UNTOLD};
use sgp_common::{Direction, DropReason, Verdict};

use crate::endpoint::{self, Here};
use crate::maps::VLANS;
use crate::packet::{Given, parsed_of};
use crate::report::Record;
use crate::{flow, policy};

/// Ethertype of a tag (IEEE 802.1Q).
const TAGGED: [u8; 2] = [0x81, 0x00];

/// Drops what no rule and no flow of its endpoint can let pass.
#[inline(always)]
pub(crate) fn from_trunk(ctx: &XdpContext) -> u32 {
    let Some(id) = vlan_id(ctx) else { return XDP_PASS };
    let ifindex = told(id);
    if ifindex == OTHERS || (ifindex == NOTHING && (id == UNTOLD || told(UNTOLD) != REFUSED)) {
        return XDP_PASS;
    }
    let frame = Tagged(ctx);
    let length = frame.near_length().saturating_sub(ETHERNET_LEN) as u32;
    let Some(record) = Record::begin_with(length, Direction::Inbound) else { return XDP_PASS };
    let (ifindex, result) = if ifindex == NOTHING {
        (ingress(ctx), Err(DropReason::UnknownEndpoint))
    } else {
        (ifindex, look(&frame, ifindex, record))
    };
    if result.is_ok() {
        return XDP_PASS;
    }
    record.conclude_apart(ctx, ifindex, result);
    XDP_DROP
}

/// Whether a branch's packet may pass, as far as it can be said here.
#[inline(always)]
fn look(frame: &Tagged<'_>, ifindex: u32, record: &mut Record) -> Result<Verdict, DropReason> {
    // An endpoint that goes is tc's to refuse.
    let Ok(here) = endpoint::at(ifindex) else { return Ok(Verdict::Passed) };
    record.is_of(&here);
    let packet = parsed_of(frame);
    let Some(packet) = packet? else { return Ok(Verdict::Passed) };
    record.has(Some(packet));
    if !matches!(packet.part, Part::Whole) || exempt(packet, Direction::Inbound, here.endpoint) {
        return Ok(Verdict::Passed);
    }
    weigh(packet, &here, record)
}

/// A flow that is over counts as one here: tc finds out.
#[inline(always)]
fn weigh(packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    let Some(key) = flow::key_of(here.id, packet, Direction::Inbound) else { return Ok(Verdict::Passed) };
    if !endpoint::owns(here, packet.local(Direction::Inbound)) {
        return Err(DropReason::UnknownEndpoint);
    }
    if flow::way(key).is_some() {
        return Ok(Verdict::Passed);
    }
    *policy::question()? = Question::of(packet, Direction::Inbound);
    policy::decide(here, &mut record.admission)?;
    Ok(Verdict::Passed)
}

/// What the agent tells of a VLAN id.
#[inline(always)]
fn told(id: u16) -> u32 {
    VLANS.get(u32::from(id)).copied().unwrap_or(OTHERS)
}

/// The VLAN id that stands in a frame.
#[inline(always)]
fn vlan_id(ctx: &XdpContext) -> Option<u16> {
    let place = ctx.data() + ETHERNET_LEN - TAGGED.len();
    if place + TAG_LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: inside of the frame; bytes have no alignment.
    let [high, low, priority, id] = unsafe { *(place as *const [u8; TAG_LEN]) };
    ([high, low] == TAGGED).then_some(u16::from_be_bytes([priority, id]) & 0x0fff)
}

#[inline(always)]
fn ingress(ctx: &XdpContext) -> u32 {
    ctx.ingress_ifindex() as u32
}

/// A frame with a tag, read as if that were not there.
struct Tagged<'a>(&'a XdpContext);

impl Given for Tagged<'_> {
    #[inline(always)]
    fn begin(&self) -> usize {
        self.0.data() + TAG_LEN
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.0.data_end()
    }

    #[inline(always)]
    fn near_length(&self) -> usize {
        self.0.data_end() - self.0.data() - TAG_LEN
    }

    #[inline(always)]
    fn whole_length(&self) -> usize {
        // SAFETY: the kernel's context outlives the program's run.
        let length = unsafe { bpf_xdp_get_buff_len(self.0.ctx) } as usize;
        length.saturating_sub(TAG_LEN)
    }

    #[inline(always)]
    fn is_paged(&self) -> bool {
        self.whole_length() > self.near_length()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let place = (offset + TAG_LEN) as u32;
        // SAFETY: as above; the helper writes no more than the buffer holds.
        let done = unsafe { bpf_xdp_load_bytes(self.0.ctx, place, bytes.as_mut_ptr().cast(), N as u32) };
        (done == 0).then_some(bytes)
    }
}
