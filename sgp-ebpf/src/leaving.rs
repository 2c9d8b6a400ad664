//! What a standard-mode pod sends out of the VPC, and what comes back: judged, translated, and by the primary interface.
//!
//! Only a flow that the pod opened is translated. One that came in by the branch answers by the branch, wherever its other
//! side is.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::programs::TcContext;
use sgp_common::endpoint::settings::RELATED_ICMP;
use sgp_common::exempt::exempt;
use sgp_common::flow::{Admission, Asker, FlowKey};
use sgp_common::fragment::{Fragment, FragmentKey};
use sgp_common::packet::{Packet, Part, Transport};
use sgp_common::policy::Question;
use sgp_common::snat::{SnatEntry, SnatKey};
use sgp_common::{Direction, DropReason, Verdict};

use crate::clock::now_ns;
use crate::endpoint::{self, Here};
use crate::flow::{self, Found};
use crate::judge::remember;
use crate::packet::{self, scratch};
use crate::report::Record;
use crate::{fragment, policy, shortcut, snat};

/// A packet of the pod for a destination outside.
#[inline(never)]
pub(crate) fn judge(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    if !endpoint::owns(here, &packet.source) {
        return Err(DropReason::SpoofedSource);
    }
    if matches!(packet.part, Part::Later) {
        if !fragment::first(here.id, packet, Direction::Outbound, &mut record.admission)? {
            return Err(DropReason::FragmentWithoutFlow);
        }
        return sent(ctx, packet, record, Verdict::Flow);
    }
    let result = weigh(packet, here, record);
    shortcut::join_stack(packet, here, record);
    if matches!(packet.part, Part::First) {
        let admission = result.is_ok().then_some(&record.admission);
        fragment::remember(here.id, packet, Direction::Outbound, admission);
    }
    sent(ctx, packet, record, result?)
}

/// Sends a packet on its flow's way.
#[inline(always)]
pub(crate) fn sent(
    ctx: &TcContext,
    packet: &Packet,
    record: &mut Record,
    verdict: Verdict,
) -> Result<Verdict, DropReason> {
    if record.admission.nat_port != 0 {
        record.action = snat::send(ctx, packet, record.admission.nat_port)?;
    }
    Ok(verdict)
}

/// Known flow? Allowed by a rule, or by EC2 whatever the rules? Then it gets a port, and is remembered.
#[inline(always)]
fn weigh(packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    let key = flow::key_of(here.id, packet, Direction::Outbound).ok_or(DropReason::SnatUnsupported)?;
    let found = flow::find_here(key, packet, Direction::Outbound, here, &mut record.admission);
    match found {
        Found::Live => return Ok(Verdict::Flow),
        Found::Refused => return Err(DropReason::NoMatchingRule),
        Found::Over | Found::Nothing => {}
    }
    admit(key, packet, here, record, found)
}

/// Judges, translates and sends a packet that opens a flow, whose key is in scratch and nowhere else.
#[inline(never)]
pub(crate) fn begin(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    let key = &scratch().ok_or(DropReason::SnatUnsupported)?.key;
    let verdict = admit(key, packet, here, record, Found::Nothing)?;
    sent(ctx, packet, record, verdict)
}

#[inline(always)]
fn admit(
    key: &FlowKey,
    packet: &Packet,
    here: &Here,
    record: &mut Record,
    found: Found,
) -> Result<Verdict, DropReason> {
    if matches!(packet.transport, Transport::None) {
        return Err(DropReason::SnatUnsupported);
    }
    let verdict = if exempt(packet, Direction::Outbound, here.endpoint) {
        record.admission = Admission::NONE;
        Verdict::Exempt
    } else {
        *policy::question()? = Question::of(packet, Direction::Outbound);
        snat::decide(here, &mut record.admission)?;
        Verdict::Rule
    };
    open(key, packet, here, record, found)?;
    Ok(verdict)
}

/// The key of the replies first, then the flow: a reply never finds half of it.
#[inline(always)]
fn open(key: &FlowKey, packet: &Packet, here: &Here, record: &mut Record, found: Found) -> Result<(), DropReason> {
    snat::allocate(key, &mut record.admission.nat_port)?;
    remember(packet, here, record, found).inspect_err(|_| snat::release(key, record.admission.nat_port))
}

/// Whether an ICMP error of the pod is about a translated flow, whose way it then goes; any other goes by the branch.
#[inline(never)]
pub(crate) fn is_about_translated(ctx: &TcContext, packet: &Packet, here: &Here) -> bool {
    let Some(quoted) = packet::quoted(ctx, packet) else { return false };
    let Some(key) = flow::key_of(here.id, quoted, Direction::Inbound) else { return false };
    let mut about = Admission::NONE;
    flow::would_pass(key, quoted, here, &mut about) && about.nat_port != 0
}

/// Judges such an error, and sends it.
#[inline(never)]
pub(crate) fn judge_error(
    ctx: &TcContext,
    packet: &Packet,
    here: &Here,
    record: &mut Record,
) -> Result<Verdict, DropReason> {
    let quoted = &scratch().ok_or(DropReason::SnatUnsupported)?.quoted;
    let key = flow::key_of(here.id, quoted, Direction::Inbound).ok_or(DropReason::SnatUnsupported)?;
    if !flow::would_pass(key, quoted, here, &mut record.admission) {
        record.admission = Admission::NONE;
        return Err(DropReason::NoMatchingRule);
    }
    let nat_port = record.admission.nat_port;
    admit_error(packet, here, Direction::Outbound, record)?;
    record.action = snat::send_error(ctx, packet, quoted, nat_port)?;
    Ok(Verdict::Flow)
}

/// Whether an ICMP error about a translated flow, whose admission the record has, may pass: by the flow, if the operator wants
/// that, else by a rule.
#[inline(always)]
fn admit_error(packet: &Packet, here: &Here, direction: Direction, record: &mut Record) -> Result<(), DropReason> {
    if here.endpoint.settings & RELATED_ICMP != 0 {
        return Ok(());
    }
    record.admission = Admission::NONE;
    *policy::question()? = Question::of(packet, direction);
    snat::decide(here, &mut record.admission)
}

/// Primary interface, what comes in. Nothing of the host's is dropped or counted here.
#[inline(always)]
pub(crate) fn from_primary(ctx: &TcContext) -> i32 {
    let Some(node) = snat::node() else { return TC_ACT_UNSPEC };
    let Some(record) = Record::begin(ctx, Direction::Inbound) else { return TC_ACT_UNSPEC };
    let Ok(Some(packet)) = record.parse(ctx) else { return TC_ACT_UNSPEC };
    if packet.destination != node.addr {
        return TC_ACT_UNSPEC;
    }
    match answer(ctx, packet, record) {
        Some(result) => record.conclude(ctx, result),
        None => TC_ACT_UNSPEC,
    }
}

/// What becomes of a packet that is a pod's; `None` if it is not.
#[inline(always)]
fn answer(ctx: &TcContext, packet: &Packet, record: &mut Record) -> Option<Result<Verdict, DropReason>> {
    if packet.is_icmp_error() {
        return answer_error(ctx, packet, record);
    }
    if matches!(packet.part, Part::Later) {
        return answer_later(ctx, packet, record);
    }
    answer_reply(ctx, packet, record)
}

/// Out of line for the stack: to Linux 6.1 every frame counts in steps of 32 bytes, and errors have a long way to go.
#[inline(never)]
fn answer_reply(ctx: &TcContext, packet: &Packet, record: &mut Record) -> Option<Result<Verdict, DropReason>> {
    let entry = snat::owner(SnatKey::of_reply(packet)?)?;
    let here = endpoint::known(entry.endpoint)?;
    record.is_of(&here);
    let key = flow_of(entry, packet)?;
    if flow::find_here(key, packet, Direction::Inbound, &here, &mut record.admission) != Found::Live {
        return None;
    }
    if matches!(packet.part, Part::First) {
        remember_first(packet, entry, &record.admission);
    }
    Some(given(ctx, &here, record, snat::receive(ctx, packet, &entry.local_addr, entry.local_port)))
}

/// The key of the flow that a reply belongs to, in scratch.
#[inline(always)]
fn flow_of(entry: &SnatEntry, packet: &Packet) -> Option<&'static FlowKey> {
    let key = &mut scratch()?.key;
    if !key.write(entry.endpoint, packet, Direction::Inbound) {
        return None;
    }
    key.local_addr = entry.local_addr;
    key.local_port = entry.local_port;
    if packet.query != 0 {
        key.asker = Asker::Local;
    }
    Some(key)
}

/// Judged for the pod it is for: goes there at once, or by the stack, with a mark that says so at the pod's veth.
#[inline(always)]
fn given(
    ctx: &TcContext,
    here: &Here,
    record: &mut Record,
    rewritten: Result<(), DropReason>,
) -> Result<Verdict, DropReason> {
    rewritten?;
    if shortcut::is_short(&record.admission, here) {
        record.action = shortcut::deliver(here);
    } else {
        packet::mark(ctx);
    }
    Ok(Verdict::Flow)
}

#[inline(never)]
fn answer_error(ctx: &TcContext, packet: &Packet, record: &mut Record) -> Option<Result<Verdict, DropReason>> {
    let quoted = packet::quoted(ctx, packet)?;
    let entry = snat::owner(SnatKey::of_quoted(quoted)?)?;
    let here = endpoint::known(entry.endpoint)?;
    record.is_of(&here);
    let key = &mut scratch()?.key;
    if !key.write(entry.endpoint, quoted, Direction::Outbound) {
        return None;
    }
    key.local_addr = entry.local_addr;
    key.local_port = entry.local_port;
    if !flow::would_pass(key, quoted, &here, &mut record.admission) {
        return None;
    }
    if let Err(reason) = admit_error(packet, &here, Direction::Inbound, record) {
        return Some(Err(reason));
    }
    Some(given(ctx, &here, record, snat::receive_error(ctx, packet, quoted, entry)))
}

/// Fragments of replies: no endpoint is known before the first one has told it.
const NOBODY: u64 = 0;

#[inline(never)]
fn remember_first(packet: &Packet, entry: &SnatEntry, admission: &Admission) {
    let Some(scratch) = scratch() else { return };
    scratch.fragment_key = FragmentKey::of(NOBODY, packet, Direction::Inbound);
    scratch.fragment = Fragment {
        endpoint: entry.endpoint,
        local_addr: entry.local_addr,
        ..Fragment::first(packet, admission, now_ns())
    };
    fragment::put(&scratch.fragment_key, &scratch.fragment);
}

#[inline(always)]
fn answer_later(ctx: &TcContext, packet: &Packet, record: &mut Record) -> Option<Result<Verdict, DropReason>> {
    let first = fragment::find(NOBODY, packet, Direction::Inbound)?;
    let here = endpoint::known(first.endpoint)?;
    record.is_of(&here);
    if first.is_overlapped_by(packet) {
        return Some(Err(DropReason::Malformed));
    }
    record.admission = first.admission;
    Some(given(ctx, &here, record, snat::receive(ctx, packet, &first.local_addr, 0)))
}
