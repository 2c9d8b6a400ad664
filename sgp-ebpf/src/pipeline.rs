//! The whole story, top to bottom. `?` is the only way to drop, and there is no way to fail open: a hook
//! returns what `Record::conclude` makes of its result.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use sgp_common::endpoint::settings::{NODE_PORTS, SNAT};
use sgp_common::endpoint::{Endpoint, Side};
use sgp_common::exempt::{exempt, exempt_on_node, link_scoped};
use sgp_common::flow::{Admission, Way};
use sgp_common::packet::Packet;
use sgp_common::verdict::MARK_BY_NODE;
use sgp_common::{Direction, DropReason, Verdict};

use crate::endpoint::{self, Here};
use crate::flow::{self, Found};
use crate::judge::{judge, judge_here, open};
use crate::leaving;
use crate::packet::{self, ifindex, ingress_ifindex};
use crate::report::Record;
use crate::shortcut::{self, Shortcut};
use crate::snat;

/// Branch interface, from the VPC: the packet has the addresses that the VPC sees.
#[inline(always)]
pub(crate) fn from_branch(ctx: &TcContext) -> i32 {
    let Some(record) = Record::begin(ctx, Direction::Inbound) else { return TC_ACT_SHOT };
    let result = enforce_from_branch(ctx, record);
    record.conclude(ctx, result)
}

#[inline(always)]
fn enforce_from_branch(ctx: &TcContext, record: &mut Record) -> Result<Verdict, DropReason> {
    let here = endpoint::at(ifindex(ctx))?;
    record.is_of(&here);
    let Some(packet) = record.parse(ctx)? else { return Ok(Verdict::Exempt) };
    record.way = shortcut::way_in(packet, &here);
    let verdict = judge_at_branch(ctx, packet, &here, record)?;
    shortcut::to_pod(ctx, packet, &here, record);
    Ok(verdict)
}

/// Branch interface, to the VPC: likewise. What a standard-mode pod sends out of the VPC leaves by the primary interface.
#[inline(always)]
pub(crate) fn to_branch(ctx: &TcContext) -> i32 {
    if shortcut::is_taken(ctx) {
        return TC_ACT_UNSPEC;
    }
    let Some(record) = Record::begin(ctx, Direction::Outbound) else { return TC_ACT_SHOT };
    let result = enforce_to_branch(ctx, record);
    record.conclude(ctx, result)
}

#[inline(always)]
fn enforce_to_branch(ctx: &TcContext, record: &mut Record) -> Result<Verdict, DropReason> {
    let here = endpoint::at(ifindex(ctx))?;
    record.is_of(&here);
    record.way = Way::Plain;
    let Some(packet) = record.parse(ctx)? else { return Ok(Verdict::Exempt) };
    if here.endpoint.settings & SNAT != 0 && snat::leaves(packet) {
        if !packet.is_icmp_error() {
            return leaving::judge(ctx, packet, &here, record);
        }
        if leaving::is_about_translated(ctx, packet, &here) {
            return leaving::judge_error(ctx, packet, &here, record);
        }
    }
    // A flow keeps its way, also where its destination has been excluded since.
    let verdict = judge_at_branch(ctx, packet, &here, record)?;
    shortcut::join_stack(packet, &here, record);
    leaving::sent(ctx, packet, record, verdict)
}

#[inline(always)]
pub(crate) fn judge_at_branch(
    ctx: &TcContext,
    packet: &Packet,
    here: &Here,
    record: &mut Record,
) -> Result<Verdict, DropReason> {
    if exempt(packet, record.direction(), here.endpoint) {
        Ok(Verdict::Exempt)
    } else {
        judge_here(ctx, packet, here, record)
    }
}

/// Host veth, from the pod: is the source its own? What may leave is judged further on, where it has its
/// final addresses. Judged here are only packets that have them already (`shortcut`), and replies to a neighbour on this node:
/// kube-proxy may give them another source on their way.
#[inline(always)]
pub(crate) fn from_pod(ctx: &TcContext) -> i32 {
    let Some(record) = Record::begin(ctx, Direction::Outbound) else { return TC_ACT_SHOT };
    packet::unmark(ctx);
    let result = enforce_from_pod(ctx, record);
    record.conclude(ctx, result)
}

#[inline(always)]
fn enforce_from_pod(ctx: &TcContext, record: &mut Record) -> Result<Verdict, DropReason> {
    let here = endpoint::at(ifindex(ctx))?;
    record.is_of(&here);
    let mac = packet::source_mac(ctx).ok_or(DropReason::Malformed)?;
    if mac != here.endpoint.pod_mac {
        return Err(DropReason::SpoofedSource);
    }
    let Some(packet) = record.parse(ctx)? else { return Ok(Verdict::Exempt) };
    if !endpoint::owns(&here, &packet.source) && !link_scoped(packet) {
        return Err(DropReason::SpoofedSource);
    }
    match shortcut::to_branch(ctx, packet, &here, record) {
        Shortcut::None => {}
        Shortcut::Taken => return Ok(Verdict::Flow),
        Shortcut::Straight => return open_straight(ctx, packet, &here, record),
        Shortcut::Broken => return Err(DropReason::RewriteFailed),
    }
    if answers_neighbour(packet, &here) {
        packet::mark(ctx);
    } else if here.endpoint.settings & NODE_PORTS != 0 && answers_node(packet, &here, record)? {
        packet::mark_with(ctx, MARK_BY_NODE | snat::node().map_or(0, |node| node.mark));
    }
    Ok(Verdict::Passed)
}

/// Judges what opens a flow, whose key is in scratch, in the branch's stead, and sends it past the host stack.
#[inline(always)]
fn open_straight(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    // Connection tracking never hears of it, so nor do replies take the stack.
    record.way = Way::Short;
    if !endpoint::owns(here, &packet.source) {
        return Err(DropReason::SpoofedSource);
    }
    if here.endpoint.settings & SNAT != 0 && snat::leaves(packet) {
        return leaving::begin(ctx, packet, here, record);
    }
    // Where there is no flow that could tell replies their way it takes the stack.
    if exempt(packet, Direction::Outbound, here.endpoint) {
        return Ok(Verdict::Passed);
    }
    let verdict = open(packet, here, record, Found::Nothing)?;
    if !matches!(record.way, Way::Short) {
        return Ok(Verdict::Passed);
    }
    record.action = shortcut::by_branch(ctx, packet, here.endpoint)?;
    Ok(verdict)
}

/// Whether the packet answers what came by another interface of the node, and so leaves by `main` and not by the branch: it
/// is judged here, since no other hook sees it.
#[inline(never)]
fn answers_node(packet: &Packet, here: &Here, record: &mut Record) -> Result<bool, DropReason> {
    let Some(key) = flow::key_of(here.id, packet, Direction::Outbound) else { return Ok(false) };
    if !matches!(flow::way(key), Some(Way::Node)) {
        return Ok(false);
    }
    match flow::find(key, packet, Direction::Outbound, here, &mut record.admission) {
        Found::Live => Ok(true),
        Found::Refused => Err(DropReason::NoMatchingRule),
        Found::Over | Found::Nothing => Ok(false),
    }
}

/// Whether the packet belongs to a live flow of its sender and to one of its receiver on this node; if
/// so, both are refreshed.
#[inline(never)]
fn answers_neighbour(packet: &Packet, sender: &Here) -> bool {
    let Some(receiver) = endpoint::local(&packet.destination).and_then(endpoint::known) else { return false };
    let Some(into) = flow::key_of(receiver.id, packet, Direction::Inbound) else { return false };
    flow::would_pass(into, packet, &receiver, &mut { Admission::NONE })
        && goes_on(packet, sender, Direction::Outbound)
        && goes_on(packet, &receiver, Direction::Inbound)
}

#[inline(always)]
fn goes_on(packet: &Packet, here: &Here, direction: Direction) -> bool {
    let Some(key) = flow::key_of(here.id, packet, direction) else { return false };
    flow::find(key, packet, direction, here, &mut { Admission::NONE }) == Found::Live
}

/// Host veth, to the pod. What came by the branch, from the node itself (standard mode: kubelet's probes
/// pass, as on AWS), from the pod to itself, or judged as a reply, passes. From another pod of this node it
/// is judged twice: the sender's outbound rules, then this pod's inbound rules.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext) -> i32 {
    let Some(record) = Record::begin(ctx, Direction::Inbound) else { return TC_ACT_SHOT };
    let here = match endpoint::at(ifindex(ctx)) {
        Ok(here) => here,
        Err(reason) => return record.conclude(ctx, Err(reason)),
    };
    record.is_of(&here);
    let packet = match record.parse(ctx) {
        Ok(Some(packet)) => packet,
        Ok(None) => return record.conclude(ctx, Ok(Verdict::Exempt)),
        Err(reason) => return record.conclude(ctx, Err(reason)),
    };
    if settled(ctx, here.endpoint) && !forgotten(packet, ingress_ifindex(ctx), here.id) {
        packet::unmark(ctx);
        return record.conclude(ctx, Ok(Verdict::Passed));
    }
    match endpoint::find(ingress_ifindex(ctx)) {
        Some((sender, Side::Pod)) => {
            if refuses(ctx, packet, &sender, record) {
                return TC_ACT_SHOT;
            }
        }
        // A neighbour's branch vouches for nothing; any other interface is the node's own.
        Some(_) => {}
        None => record.way = Way::Node,
    }
    let result = receive(ctx, packet, record);
    record.conclude(ctx, result)
}

/// Judges it by the inbound rules of the pod that it is for, which is looked at again: the stack has no room for two endpoints.
#[inline(always)]
fn receive(ctx: &TcContext, packet: &Packet, record: &mut Record) -> Result<Verdict, DropReason> {
    let here = endpoint::at(ifindex(ctx))?;
    record.turn_to(&here, Direction::Inbound);
    judge_on_node(ctx, packet, &here, record)
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

/// Judges a packet by the outbound rules of the pod of this node that sent it; counted and told as that pod's. A source that is not the pod's any more (kube-proxy masquerades NodePorts) is refused: what
/// the sender's rules say of it cannot be known.
#[inline(always)]
fn refuses(ctx: &TcContext, packet: &Packet, sender: &Here, record: &mut Record) -> bool {
    record.turn_to(sender, Direction::Outbound);
    let result = judge_on_node(ctx, packet, sender, record);
    record.conclude(ctx, result) == TC_ACT_SHOT
}

#[inline(always)]
fn judge_on_node(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Result<Verdict, DropReason> {
    if exempt_on_node(packet) { Ok(Verdict::Exempt) } else { judge(ctx, packet, here, record) }
}
