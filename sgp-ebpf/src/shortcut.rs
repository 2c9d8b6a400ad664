//! Past the host stack: packets of flows that nothing on the node rewrites.
//!
//! A flow's first packets take the stack, so that kube-proxy, and filters of others, are asked about it. Once the pod is seen to send
//! from and to the addresses that its branch sees, there is nothing left to ask, as for netfilter's own flow tables. Where the
//! operator says that nobody but kube-proxy would be asked, first packets go past it too, unless a Service has their destination.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_REDIRECT, bpf_fib_lookup as Route, bpf_redir_neigh,
    bpf_redir_neigh__bindgen_ty_1,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use sgp_common::addr::v4_bytes;
use sgp_common::endpoint::Endpoint;
use sgp_common::endpoint::settings::{SHORTCUT, STRAIGHT};
use sgp_common::flow::{Admission, Way, opens};
use sgp_common::packet::{Packet, Part};
use sgp_common::verdict::MARK_SHORT;
use sgp_common::{Addr, Direction, DropReason, Family};

use crate::endpoint::Here;
use crate::flow::Plain;
use crate::maps::STACK_NETS;
use crate::packet::{self, mark_with};
use crate::report::Record;
use crate::{flow, snat};

/// What became of a packet that might have gone past the host stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortcut {
    /// It takes the stack.
    None,
    /// It was judged, and is on its way.
    Taken,
    /// It opens a flow, and may go past the stack once it is judged.
    Straight,
    /// It could not be written to.
    Broken,
}

/// From the pod, to its branch or, translated, by the primary interface.
#[inline(always)]
pub(crate) fn to_branch(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Shortcut {
    let is_wanted = here.endpoint.settings & SHORTCUT != 0 && matches!(packet.part, Part::Whole);
    if is_wanted { try_branch(ctx, packet, here, record) } else { Shortcut::None }
}

/// Out of line for the stack.
#[inline(never)]
fn try_branch(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) -> Shortcut {
    let Some(key) = flow::key_of(here.id, packet, Direction::Outbound) else { return Shortcut::None };
    match flow::find_plain(key, packet, here, &mut record.admission) {
        Plain::Live => {}
        Plain::Unknown if may_go_straight(ctx, packet, here.endpoint) => return Shortcut::Straight,
        Plain::Unknown | Plain::No => return Shortcut::None,
    }
    match send(ctx, packet, here.endpoint, record.admission.nat_port) {
        Ok(action) => {
            record.action = action;
            Shortcut::Taken
        }
        Err(_) => Shortcut::Broken,
    }
}

/// Whether a packet opens a flow that the host stack would send to the branch as it is: what kube-proxy would give another
/// destination is in `STACK_NETS`, and the stack's routes say the rest.
#[inline(always)]
fn may_go_straight(ctx: &TcContext, packet: &Packet, endpoint: &Endpoint) -> bool {
    endpoint.settings & STRAIGHT != 0
        && opens(packet)
        && STACK_NETS.get(&Key::new(ADDR_BITS, packet.destination)).is_none()
        && is_routed_to_branch(ctx, packet, endpoint)
}

const ADDR_BITS: u32 = 128;

/// What the stack's routing says, also of addresses of the node itself and of its other pods; rules that ask for
/// marks have no say. A packet that is too long for the branch's MTU is left to the stack, which tells the pod.
#[inline(never)]
fn is_routed_to_branch(ctx: &TcContext, packet: &Packet, endpoint: &Endpoint) -> bool {
    // SAFETY: numbers and unions of numbers.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.ifindex = packet::ifindex(ctx);
    route.l4_protocol = packet.protocol;
    (route.sport, route.dport) = (packet.source_port.to_be(), packet.destination_port.to_be());
    match packet.family {
        Family::V4 => {
            route.family = AF_INET as u8;
            route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(v4_bytes(&packet.source));
            route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(v4_bytes(&packet.destination));
        }
        Family::V6 => {
            route.family = AF_INET6 as u8;
            route.__bindgen_anon_3.ipv6_src = packet.source.words();
            route.__bindgen_anon_4.ipv6_dst = packet.destination.words();
        }
    }
    // SAFETY: the helper (Linux 4.18) reads and writes the question, which lives until it returns.
    let answer = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut route, size_of::<Route>() as i32, 0) } as u32;
    let known = matches!(answer, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH);
    known && route.ifindex == endpoint.branch_ifindex
}

#[inline(always)]
fn send(ctx: &TcContext, packet: &Packet, endpoint: &Endpoint, nat_port: u16) -> Result<i32, DropReason> {
    if nat_port != 0 {
        return snat::send(ctx, packet, nat_port);
    }
    by_branch(ctx, packet, endpoint)
}

/// Out by the branch, to its router. The branch's own program has nothing to add.
///
/// # Errors
/// `RewriteFailed`.
#[inline(always)]
pub(crate) fn by_branch(ctx: &TcContext, packet: &Packet, endpoint: &Endpoint) -> Result<i32, DropReason> {
    mark_with(ctx, MARK_SHORT);
    let router = if matches!(packet.family, Family::V4) { &endpoint.router } else { &VPC_ROUTER_V6 };
    to_neighbour(endpoint.branch_ifindex, packet.family, router)
}

/// The router of every IPv6 subnet of a VPC (facts 3.5).
const VPC_ROUTER_V6: Addr = Addr { bytes: [0xfe, 0x80, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

/// Out by an interface, to a router whose MAC address the kernel knows or asks for.
///
/// # Errors
/// `RewriteFailed`.
#[inline(always)]
pub(crate) fn to_neighbour(ifindex: u32, family: Family, router: &Addr) -> Result<i32, DropReason> {
    let (nh_family, hop) = match family {
        Family::V4 => (AF_INET, [u32::from_ne_bytes(v4_bytes(router)), 0, 0, 0]),
        Family::V6 => (AF_INET6, router.words()),
    };
    let mut hop = bpf_redir_neigh { nh_family, __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: hop } };
    // SAFETY: the helper reads the next hop, which lives until it returns.
    let action = unsafe { bpf_redirect_neigh(ifindex, &raw mut hop, size_of::<bpf_redir_neigh>() as i32, 0) };
    if action == i64::from(TC_ACT_REDIRECT) { Ok(TC_ACT_REDIRECT) } else { Err(DropReason::RewriteFailed) }
}

/// Address families (`linux/socket.h`).
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Whether `from_pod` has judged a packet and sent it here; its mark is gone then.
#[inline(always)]
pub(crate) fn is_taken(ctx: &TcContext) -> bool {
    let is_taken = packet::has_mark(ctx, MARK_SHORT);
    if is_taken {
        packet::unmark(ctx);
    }
    is_taken
}

/// At the branch, of a packet that the stack has sent on: where its flow goes past the stack, two conversations share the flow,
/// since the pod's own packets in it would not have come here. Somebody rewrites this one's, as kube-proxy does for a Service whose backend the pod
/// also speaks to by itself from the same port. Replies are for both, so the stack has to tell them apart.
#[inline(always)]
pub(crate) fn join_stack(packet: &Packet, here: &Here, record: &mut Record) {
    if is_short(&record.admission, here) && matches!(packet.part, Part::Whole) {
        let key = flow::key_of(here.id, packet, Direction::Outbound);
        key.into_iter().for_each(flow::keep_to_stack);
    }
}

/// The way of a flow that somebody opens to the pod, under its own address: nobody gives it another. Where the pod's first packets go
/// past the stack, so must these: connection tracking would give one that looks like another conversation a port of its own choice,
/// and the pod's answer would be taken for a beginning.
#[inline(always)]
pub(crate) fn way_in(packet: &Packet, here: &Here) -> Way {
    if here.endpoint.settings & STRAIGHT != 0 && opens(packet) { Way::Short } else { Way::Plain }
}

/// From the branch, to the pod: what belongs to such a flow, and errors about one, which the stack has not heard of for long.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext, packet: &Packet, here: &Here, record: &mut Record) {
    if is_short(&record.admission, here) || packet.is_icmp_error() && is_about_short(ctx, packet, here) {
        record.action = deliver(here);
    }
}

/// Whether what this lets pass goes past the stack.
#[inline(always)]
pub(crate) fn is_short(admission: &Admission, here: &Here) -> bool {
    matches!(admission.way, Way::Short) && here.endpoint.settings & SHORTCUT != 0
}

#[inline(never)]
fn is_about_short(ctx: &TcContext, error: &Packet, here: &Here) -> bool {
    let Some(quoted) = packet::quoted(ctx, error) else { return false };
    let Some(key) = flow::key_of(here.id, quoted, Direction::Outbound) else { return false };
    here.endpoint.settings & SHORTCUT != 0 && matches!(flow::way(key), Some(Way::Short))
}

/// Into the pod's own interface, as if it had come from its host veth; what tc is told.
#[inline(always)]
pub(crate) fn deliver(here: &Here) -> i32 {
    // SAFETY: a helper (Linux 5.10) that takes plain numbers.
    unsafe { bpf_redirect_peer(here.endpoint.host_ifindex, 0) as i32 }
}
