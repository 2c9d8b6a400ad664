//! The whole story, top to bottom. `?` is the only way to drop, and there is no way to fail open: a hook
//! returns what `Record::conclude` makes of its result.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use sgp_common::endpoint::{Endpoint, Side};
use sgp_common::exempt::{exempt, exempt_on_node, link_scoped};
use sgp_common::flow::{Flow, FlowKey};
use sgp_common::packet::Packet;
use sgp_common::{Direction, DropReason, Verdict};

use crate::endpoint::{self, Here};
use crate::flow::{self, Found};
use crate::packet::{self, ifindex, ingress_ifindex};
use crate::policy;
use crate::report::Record;

/// Branch interface, either way: the packet has the addresses that the VPC sees.
#[inline(always)]
pub(crate) fn at_branch(ctx: &TcContext, direction: Direction) -> i32 {
    let mut record = Record::new(ctx, direction);
    let result = enforce_at_branch(ctx, &mut record);
    record.conclude(ctx, result)
}

#[inline(always)]
fn enforce_at_branch(ctx: &TcContext, record: &mut Record) -> Result<Verdict, DropReason> {
    let here = endpoint::at(ifindex(ctx))?;
    record.endpoint = here.id;
    let Some(packet) = packet::parsed(ctx)? else { return Ok(Verdict::Exempt) };
    record.packet = Some(packet);
    let exempt = exempt(packet, record.direction, here.endpoint);
    judge(packet, &here, record, exempt)
}

/// Host veth, from the pod: is the source its own? What may leave is judged further on, where it has its
/// final addresses. Only replies to a neighbour on this node are judged here: kube-proxy may give them
/// another source on their way.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> i32 {
    let mut record = Record::new(ctx, Direction::Outbound);
    packet::unmark(ctx);
    let result = enforce_from_pod(ctx, &mut record);
    record.conclude(ctx, result)
}

#[inline(always)]
fn enforce_from_pod(ctx: &TcContext, record: &mut Record) -> Result<Verdict, DropReason> {
    let here = endpoint::at(ifindex(ctx))?;
    record.endpoint = here.id;
    let mac = packet::source_mac(ctx).ok_or(DropReason::Malformed)?;
    if mac != here.endpoint.pod_mac {
        return Err(DropReason::SpoofedSource);
    }
    let Some(packet) = packet::parsed(ctx)? else { return Ok(Verdict::Exempt) };
    record.packet = Some(packet);
    if !here.endpoint.owns(&packet.source) && !link_scoped(packet) {
        return Err(DropReason::SpoofedSource);
    }
    if answers_neighbour(packet, here.id) {
        packet::mark(ctx);
    }
    Ok(Verdict::Passed)
}

/// Whether the packet belongs to a live flow of its sender and to one of its receiver on this node; if
/// so, both are refreshed.
#[inline(never)]
fn answers_neighbour(packet: &Packet, sender: u64) -> bool {
    let Some(receiver) = endpoint::local(&packet.destination) else { return false };
    let Some(out) = FlowKey::of(sender, packet, Direction::Outbound) else { return false };
    let Some(into) = FlowKey::of(receiver, packet, Direction::Inbound) else { return false };
    let now_ns = now();
    flow::lives(&into, packet, now_ns)
        && flow::refresh(&out, packet, Direction::Outbound, now_ns) == Found::Live
        && flow::refresh(&into, packet, Direction::Inbound, now_ns) == Found::Live
}

/// Host veth, to the pod. What came by the branch, from the node itself (standard mode: kubelet's probes
/// pass, as on AWS), from the pod to itself, or judged as a reply, passes. From another pod of this node it
/// is judged twice: the sender's outbound rules, then this pod's inbound rules.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext) -> i32 {
    let mut record = Record::new(ctx, Direction::Inbound);
    let here = match endpoint::at(ifindex(ctx)) {
        Ok(here) => here,
        Err(reason) => return record.conclude(ctx, Err(reason)),
    };
    record.endpoint = here.id;
    let packet = match packet::parsed(ctx) {
        Ok(Some(packet)) => packet,
        Ok(None) => return record.conclude(ctx, Ok(Verdict::Exempt)),
        Err(reason) => return record.conclude(ctx, Err(reason)),
    };
    record.packet = Some(packet);
    if settled(ctx, here.endpoint) && !forgotten(packet, ingress_ifindex(ctx), here.id) {
        packet::unmark(ctx);
        return record.conclude(ctx, Ok(Verdict::Passed));
    }
    if sender_refuses(ctx, packet) {
        return TC_ACT_SHOT;
    }
    let result = judge(packet, &here, &mut record, exempt_on_node(packet));
    record.conclude(ctx, result)
}

#[inline(always)]
fn settled(ctx: &TcContext, endpoint: &Endpoint) -> bool {
    let from = ingress_ifindex(ctx);
    from == 0 || from == endpoint.branch_ifindex || from == endpoint.host_ifindex || packet::is_marked(ctx)
}

/// Whether a packet that claims no way in, as if the node had made it, has a neighbour's source: the kernel
/// forgets the interface of fragments that it puts together and takes apart again.
#[inline(never)]
fn forgotten(packet: &Packet, from: u32, receiver: u64) -> bool {
    from == 0 && matches!(endpoint::local(&packet.source), Some(id) if id != receiver)
}

/// Judges a packet by the outbound rules of the pod of this node that sent it, if one did; counted and
/// told as that pod's. A source that is not the pod's any more (kube-proxy masquerades NodePorts) is refused: what
/// the sender's rules say of it cannot be known.
#[inline(always)]
fn sender_refuses(ctx: &TcContext, packet: &'static Packet) -> bool {
    let Some(sender) = endpoint::find(ingress_ifindex(ctx)) else { return false };
    if !matches!(sender.side, Side::Pod) {
        return false;
    }
    let mut record = Record::new(ctx, Direction::Outbound);
    record.endpoint = sender.id;
    record.packet = Some(packet);
    let result = judge(packet, &sender, &mut record, exempt_on_node(packet));
    record.conclude(ctx, result) == TC_ACT_SHOT
}

/// Exempt? Known flow? Allowed by a rule? Then remember it.
#[inline(never)]
fn judge(packet: &Packet, here: &Here, record: &mut Record, exempt: bool) -> Result<Verdict, DropReason> {
    let direction = record.direction;
    if exempt {
        return Ok(Verdict::Exempt);
    }
    if !here.endpoint.owns(packet.local(direction)) {
        return Err(not_ours(direction));
    }
    let Some(key) = FlowKey::of(here.id, packet, direction) else {
        record.matched = policy::decide(packet, here.endpoint, direction)?;
        return Ok(Verdict::Rule);
    };
    let now_ns = now();
    let found = flow::refresh(&key, packet, direction, now_ns);
    if found == Found::Live {
        return Ok(Verdict::Flow);
    }
    let matched = policy::decide(packet, here.endpoint, direction)?;
    record.matched = matched;
    let flow = Flow::open(packet, direction, matched.rule, matched.digest, now_ns);
    flow::open(&key, &flow, found)?;
    Ok(Verdict::Rule)
}

#[inline(always)]
fn not_ours(direction: Direction) -> DropReason {
    match direction {
        Direction::Inbound => DropReason::UnknownEndpoint,
        Direction::Outbound => DropReason::SpoofedSource,
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
