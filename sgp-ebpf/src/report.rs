//! Counters of everything, samples of some.

use core::hint::black_box;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::warn;
use sgp_common::event::{Event, Outcome};
use sgp_common::flow::{Admission, Way};
use sgp_common::limits::EVENTS_PER_SECOND;
use sgp_common::packet::{ETHERNET_LEN, Packet, Transport};
use sgp_common::{Direction, DropReason, Verdict};

use crate::clock::{now_ns, testing};
use crate::endpoint::Here;
use crate::maps::{COUNTERS, EVENTS, EVENTS_LOST, OUTCOME, SAMPLER};
use crate::packet::scratch;

/// What is known of one judgement, for counters and events. It stands in this CPU's scratch, since the stack has no
/// room for it.
#[repr(C)]
pub(crate) struct Record {
    /// Endpoint id; 0 as long as none is found.
    endpoint: u64,
    /// Who lets it pass, if a rule does, else `Admission::NONE`.
    pub(crate) admission: Admission,
    /// Length of the IP packet in bytes.
    length: u32,
    /// What tc is told if it passes.
    pub(crate) action: i32,
    /// A `Direction`, as a plain number. From an enum in memory the compiler would compute addresses, and the
    /// verifier does not know what values an enum has.
    direction: u8,
    /// 1 once the packet in scratch is this one.
    parsed: u8,
    /// The way that a flow takes which this packet opens.
    pub(crate) way: Way,
    reserved: u8,
    /// VLAN id of the endpoint's branch; 0 as long as none is found.
    vlan_id: u16,
    padding: [u8; 2],
}

impl Record {
    /// Begins with a packet. `None` only to the verifier.
    #[inline(always)]
    pub(crate) fn begin(ctx: &TcContext, direction: Direction) -> Option<&'static mut Self> {
        // Taken here and not from the packet: the verifier refuses one load through either of two kinds of pointer.
        Self::begin_with(ctx.len().saturating_sub(ETHERNET_LEN as u32), direction)
    }

    /// Likewise, with an IP packet of this many bytes.
    #[inline(always)]
    pub(crate) fn begin_with(length: u32, direction: Direction) -> Option<&'static mut Self> {
        let record = &mut scratch()?.record;
        record.length = length;
        record.action = TC_ACT_UNSPEC;
        record.parsed = 0;
        record.way = Way::Branch;
        record.endpoint = 0;
        record.vlan_id = 0;
        record.direction = direction as u8;
        record.admission = Admission::NONE;
        Some(record)
    }

    /// The frame of this packet, parsed.
    #[inline(always)]
    pub(crate) fn parse(&mut self, ctx: &TcContext) -> Result<Option<&'static Packet>, DropReason> {
        let packet = crate::packet::parsed(ctx)?;
        self.has(packet);
        Ok(packet)
    }

    /// What the frame of this packet carries.
    #[inline(always)]
    pub(crate) fn has(&mut self, packet: Option<&Packet>) {
        self.parsed = u8::from(packet.is_some());
    }

    /// The endpoint whose packet this is.
    #[inline(always)]
    pub(crate) fn is_of(&mut self, here: &Here) {
        self.endpoint = here.id;
        self.vlan_id = here.endpoint.vlan_id;
    }

    /// Goes on with another endpoint's view of the same packet.
    #[inline(always)]
    pub(crate) fn turn_to(&mut self, here: &Here, direction: Direction) {
        self.is_of(here);
        self.direction = direction as u8;
        self.admission = Admission::NONE;
    }

    /// The pod's point of view.
    #[inline(always)]
    pub(crate) fn direction(&self) -> Direction {
        if self.direction == Direction::Inbound as u8 { Direction::Inbound } else { Direction::Outbound }
    }

    /// Counts, perhaps tells, and turns the result into what tc understands. An allowed packet goes on
    /// to the next program (`TC_ACT_UNSPEC`, the same number as tcx's "next").
    #[inline(always)]
    pub(crate) fn conclude(&self, ctx: &TcContext, result: Result<Verdict, DropReason>) -> i32 {
        // What nearly all packets come to needs no call.
        if !testing() && matches!(result, Ok(Verdict::Flow)) {
            self.count(ctx, 0);
            return self.action;
        }
        self.conclude_apart(ctx, crate::packet::ifindex(ctx), result)
    }

    /// Likewise for whatever kind of program; what is told is told of this interface.
    #[inline(never)]
    pub(crate) fn conclude_apart(
        &self,
        ctx: &impl EbpfContext,
        ifindex: u32,
        result: Result<Verdict, DropReason>,
    ) -> i32 {
        if testing() {
            self.show(result);
        }
        match result {
            Ok(Verdict::Passed) => {}
            Ok(verdict) => {
                self.count(ctx, 0);
                if matches!(verdict, Verdict::Rule) {
                    self.tell(ifindex, 0);
                }
            }
            Err(reason) => {
                // Or the compiler leaves out a bound that only it knows to be kept: reasons come by way of memory.
                let reason = black_box(reason as u8);
                self.count(ctx, reason);
                self.tell(ifindex, reason);
                return TC_ACT_SHOT;
            }
        }
        self.action
    }

    /// For tests, which cannot see a verdict in what tc is told.
    #[inline(always)]
    fn show(&self, result: Result<Verdict, DropReason>) {
        let Some(outcome) = OUTCOME.get_ptr_mut(0) else { return };
        let (verdict, reason) = match result {
            Ok(verdict) => (verdict, 0),
            Err(reason) => (Verdict::Rule, reason as u8),
        };
        // SAFETY: tests run one packet at a time.
        unsafe {
            *outcome = Outcome {
                endpoint: self.endpoint,
                policy_digest: self.admission.policy_digest,
                rule: self.admission.rule,
                direction: self.direction(),
                reason,
                verdict,
                rule_direction: self.admission.direction,
                reserved: [0; 2],
            };
        }
    }

    #[inline(always)]
    fn count(&self, ctx: &impl EbpfContext, reason: u8) {
        let Some(counts) = COUNTERS.get_ptr_mut(u32::from(self.vlan_id)) else { return uncounted(ctx) };
        // SAFETY: this CPU's own cell.
        let counter = unsafe { &mut *counts }.cell(self.direction(), reason);
        counter.packets += 1;
        counter.bytes += u64::from(self.length);
    }

    #[inline(always)]
    fn tell(&self, ifindex: u32, reason: u8) {
        let time_ns = now_ns();
        if !sampled(time_ns) {
            return;
        }
        let Some(packet) = self.seen() else { return };
        // The packet is counted; what a full ring loses is the sample.
        let Some(mut entry) = EVENTS.reserve(0) else {
            count_lost_event();
            return;
        };
        let event = entry.as_mut_ptr();
        // SAFETY: the entry is ours until submitted, and every field is written.
        unsafe {
            (*event).time_ns = time_ns;
            (*event).endpoint = self.endpoint;
            (*event).policy_digest = self.admission.policy_digest;
            (*event).ifindex = ifindex;
            (*event).length = self.length;
            (*event).rule = self.admission.rule;
            (*event).direction = self.direction();
            (*event).reason = reason;
            (*event).reserved = [0; 6];
            self.describe(packet, event);
        }
        entry.submit(0);
    }

    /// What has been parsed of this packet. Scratch is looked up and found first: where that and `parsed` are asked in one
    /// breath, the compiler adds to a pointer before it looks whether there is one, which Linux 6.1 refuses.
    #[inline(always)]
    fn seen(&self) -> Option<&'static Packet> {
        let scratch = scratch()?;
        Some(if self.parsed != 0 { &scratch.packet } else { &Packet::EMPTY })
    }

    /// # Safety
    /// `event` must be valid for writes.
    #[inline(always)]
    unsafe fn describe(&self, packet: &Packet, event: *mut Event) {
        let (local_port, remote_port) = packet.ports(self.direction());
        let icmp = matches!(packet.transport, Transport::Icmp);
        // SAFETY: as promised by the caller.
        unsafe {
            (*event).local_addr = *packet.local(self.direction());
            (*event).remote_addr = *packet.remote(self.direction());
            (*event).local_port = local_port;
            (*event).remote_port = remote_port;
            (*event).protocol = packet.protocol;
            (*event).flags = if icmp { packet.icmp_type } else { packet.tcp_flags };
        }
    }
}

/// Whether this CPU may still emit an event in this second.
#[inline(always)]
fn sampled(now_ns: u64) -> bool {
    let Some(sampler) = SAMPLER.get_ptr_mut(0) else { return false };
    // SAFETY: this CPU's own cell.
    let sampler = unsafe { &mut *sampler };
    let second = now_ns / 1_000_000_000;
    if sampler.second != second {
        sampler.second = second;
        sampler.emitted = 0;
    }
    sampler.emitted += 1;
    sampler.emitted <= u64::from(EVENTS_PER_SECOND)
}

/// A sample found the ring full. Gives how many did on this CPU: a global function, which the verifier walks once, gives a
/// number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_lost_event() -> u64 {
    let Some(lost) = EVENTS_LOST.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's own cell.
    unsafe {
        *lost += 1;
        *lost
    }
}

/// Out of line, and without arguments: logging is rare and takes the stack it needs.
#[inline(never)]
fn uncounted(ctx: &impl EbpfContext) {
    warn!(ctx, "a VLAN id is beyond the map COUNTERS: packets go uncounted");
}
