//! Past the host stack: packets of flows that nothing on the node rewrites.
//!
//! A flow's first packets take the stack, so that kube-proxy, and filters of others, are asked about it. Once the pod is seen to send
//! from and to the addresses that its branch sees, there is nothing left to ask, as for netfilter's own flow tables.

use aya_ebpf::bindings::{TC_ACT_REDIRECT, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;
use sgp_common::addr::v4_bytes;
use sgp_common::endpoint::Endpoint;
use sgp_common::endpoint::settings::SHORTCUT;
use sgp_common::flow::{Admission, Way};
use sgp_common::packet::{Packet, Part};
use sgp_common::verdict::MARK_SHORT;
use sgp_common::{Addr, Direction, DropReason, Family};

use crate::endpoint::Here;
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
    if !flow::find_plain(key, packet, here, &mut record.admission) {
        return Shortcut::None;
    }
    match send(ctx, packet, here.endpoint, record.admission.nat_port) {
        Ok(action) => {
            record.action = action;
            Shortcut::Taken
        }
        Err(_) => Shortcut::Broken,
    }
}

#[inline(always)]
fn send(ctx: &TcContext, packet: &Packet, endpoint: &Endpoint, nat_port: u16) -> Result<i32, DropReason> {
    if nat_port != 0 {
        return snat::send(ctx, packet, nat_port);
    }
    // The branch's own program has nothing to add.
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
