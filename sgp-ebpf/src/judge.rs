//! Whose packet is it, and what lets it pass? The same for every hook, family and direction.

use aya_ebpf::programs::TcContext;
use sgp_common::endpoint::settings::RELATED_ICMP;
use sgp_common::flow::{FlowKey, Way};
use sgp_common::packet::{Packet, Part};
use sgp_common::policy::Question;
use sgp_common::{Direction, DropReason, Verdict};

use crate::clock::now_ns;
use crate::endpoint::{self, Here};
use crate::flow::{self, Found};
use crate::report::Record;
use crate::{fragment, packet, policy};

/// Whose packet is it, and what lets it pass? Exemptions are the caller's: they differ between hooks.
///
/// What nearly all packets take is inlined: to return from a function costs as much as to judge (of processors that leak by it, see
/// `spec_rstack_overflow`).
#[inline(always)]
pub(crate) fn judge_here(
    ctx: &TcContext,
    packet: &Packet,
    here: &Here,
    record: &mut Record,
) -> Result<Verdict, DropReason> {
    let direction = record.direction();
    if !matches!(packet.part, Part::Whole) {
        return judge(ctx, packet, here, record);
    }
    let Some(key) = flow::key_of(here.id, packet, direction) else { return judge(ctx, packet, here, record) };
    if !endpoint::owns(here, packet.local(direction)) {
        return Err(not_ours(direction));
    }
    weigh(key, packet, here, record)
}

/// Likewise out of line, for fragments and for packets of no flow too.
#[inline(never)]
pub(crate) fn judge(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    if !endpoint::owns(here, packet.local(record.direction())) {
        return Err(not_ours(record.direction()));
    }
    if matches!(packet.part, Part::Later) {
        return follow(packet, here, record);
    }
    let result = match flow::key_of(here.id, packet, record.direction()) {
        Some(key) => weigh(key, packet, here, record),
        None => weigh_alone(ctx, packet, here, record),
    };
    if matches!(packet.part, Part::First) {
        let admission = result.is_ok().then_some(&record.admission);
        fragment::remember(here.id, packet, record.direction(), admission);
    }
    result
}

/// A fragment without ports: by its first one, or by rules that ask for no ports.
#[inline(always)]
fn follow(packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    if fragment::first(here.id, packet, record.direction(), &mut record.admission)? {
        return Ok(Verdict::Flow);
    }
    match decide(packet, here, record) {
        Err(DropReason::NoMatchingRule) => Err(DropReason::FragmentWithoutFlow),
        result => result,
    }
}

/// Known flow? Allowed by a rule? Then remember it.
#[inline(always)]
fn weigh(key: &FlowKey, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    match flow::find_here(key, packet, record.direction(), here, &mut record.admission) {
        Found::Live => Ok(Verdict::Flow),
        Found::Refused => Err(DropReason::NoMatchingRule),
        Found::Over => open(packet, here, record, Found::Over),
        Found::Nothing => open(packet, here, record, Found::Nothing),
    }
}

/// Remembers the flow of a packet, whose key is in scratch, if a rule allows it. One that EC2 would not track passes without, and
/// by the host stack.
#[inline(never)]
pub(crate) fn open(packet: &Packet, here: &Here, record: &mut Record, found: Found) -> Result<Verdict, DropReason> {
    decide(packet, here, record)?;
    match remember(packet, here, record, found) {
        Ok(()) => Ok(Verdict::Rule),
        Err(_) if flow::answers_untracked(packet, record.direction(), here) => {
            record.way = Way::Branch;
            Ok(Verdict::Rule)
        }
        Err(reason) => Err(reason),
    }
}

/// Remembers the flow, whose key is in scratch, of a packet that was admitted. Out of line for the stack, of which policies are
/// asked on another piece.
#[inline(never)]
pub(crate) fn remember(packet: &Packet, here: &Here, record: &mut Record, found: Found) -> Result<(), DropReason> {
    let scratch = packet::scratch().ok_or(DropReason::FlowTableFull)?;
    record.admission.way = record.way;
    scratch.flow.begin(packet, record.direction(), &record.admission, now_ns());
    flow::open(&scratch.key, &scratch.flow, here.endpoint, found)
}

/// A packet of no flow: an ICMP error may be about one.
#[inline(always)]
fn weigh_alone(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    if here.endpoint.settings & RELATED_ICMP != 0 && is_related(ctx, packet, here, record) {
        return Ok(Verdict::Flow);
    }
    decide(packet, here, record)
}

/// Whether the packet is an ICMP error about a flow whose packets would pass.
#[inline(always)]
fn is_related(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> bool {
    if !packet.is_icmp_error() {
        return false;
    }
    let Some(quoted) = packet::quoted(ctx, packet) else { return false };
    let Some(key) = flow::key_of(here.id, quoted, record.direction().opposite()) else { return false };
    flow::would_pass(key, quoted, here, &mut record.admission)
}

#[inline(always)]
fn decide(packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    *policy::question()? = Question::of(packet, record.direction());
    policy::decide(here, &mut record.admission)?;
    Ok(Verdict::Rule)
}

#[inline(always)]
fn not_ours(direction: Direction) -> DropReason {
    match direction {
        Direction::Inbound => DropReason::UnknownEndpoint,
        Direction::Outbound => DropReason::SpoofedSource,
    }
}
