//! What leaves the VPC under the node's address, and how replies find back.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::programs::TcContext;
use sgp_common::addr::v4_bytes;
use sgp_common::flow::{Admission, FlowKey};
use sgp_common::packet::Packet;
use sgp_common::snat::{KEPT_PORT_MIN, Node, SnatEntry, SnatKey, SnatPolicy, SnatPorts, TRIES};
use sgp_common::{Addr, DropReason, Family};

use crate::endpoint::{self, Here};
use crate::maps::{FLOWS, NODE, SNAT, SNAT_EXCLUDED};
use crate::packet::{mark_with, scratch};
use crate::policy;
use crate::rewrite::{self, Side};
use crate::shortcut::to_neighbour;

/// The node's own way out, once the agent has told it.
#[inline(always)]
pub(crate) fn node() -> Option<&'static Node> {
    // SAFETY: as of endpoints (`primary`).
    unsafe { NODE.get(&0) }.filter(|node| node.ifindex != 0)
}

/// Whether a destination is reached by the primary interface. IPv6 is never translated (facts 3.5).
#[inline(always)]
pub(crate) fn leaves(packet: &Packet) -> bool {
    matches!(packet.family, Family::V4) && SNAT_EXCLUDED.get(&Key::new(ADDR_BITS, packet.destination)).is_none()
}

const ADDR_BITS: u32 = 128;

/// Asks those whose groups judge what leaves translated, as `policy::decide` does.
///
/// # Errors
/// As there; `SnatUnsupported` while the primary interface is not known.
#[inline(always)]
pub(crate) fn decide(pod: &Here, admission: &mut Admission) -> Result<(), DropReason> {
    let node = node().ok_or(DropReason::SnatUnsupported)?;
    // Those that were read before their policies were asked, as `revision_of` puts them together.
    let revision = &mut scratch().ok_or(DropReason::SnatUnsupported)?.revision;
    *revision = 0;
    if !matches!(node.policy, SnatPolicy::Node) {
        policy::decide(pod, admission)?;
        *revision ^= admission.revision;
    }
    if !matches!(node.policy, SnatPolicy::Pod) {
        policy::decide(&primary(node)?, admission)?;
        *revision ^= admission.revision;
    }
    admission.revision = *revision;
    Ok(())
}

/// What the revision of a translated flow is held against.
#[inline(always)]
pub(crate) fn revision(pod: &Here) -> u64 {
    node().and_then(|node| revision_of(node, pod).ok()).unwrap_or_default()
}

#[inline(always)]
fn revision_of(node: &Node, pod: &Here) -> Result<u64, DropReason> {
    Ok(match node.policy {
        SnatPolicy::Node => policy::revision(&primary(node)?),
        SnatPolicy::Pod => policy::revision(pod),
        SnatPolicy::Both => policy::revision(&primary(node)?) ^ policy::revision(pod),
    })
}

#[inline(always)]
fn primary(node: &Node) -> Result<Here, DropReason> {
    endpoint::known(node.endpoint).ok_or(DropReason::NoPolicy)
}

/// Takes a port for a new flow: inserting the key of its replies is the claim. One that takes the place of a flow that
/// is over goes on with that one's port. The port is written and not returned: beside an error it would be nothing, which Linux
/// 6.1 takes for a read of what was never written.
///
/// # Errors
/// `SnatPortsExhausted`.
#[inline(never)]
pub(crate) fn allocate(flow: &FlowKey, nat_port: &mut u16) -> Result<(), DropReason> {
    let node = node().ok_or(DropReason::SnatUnsupported)?;
    // SAFETY: the port of an entry never changes while it stands.
    let before = unsafe { FLOWS.get(flow) }.map_or(0, |flow| flow.nat_port);
    if before != 0 && owner(SnatKey::of(flow, before)).is_some_and(|entry| *entry == SnatEntry::of(flow)) {
        *nat_port = before;
        return Ok(());
    }
    if matches!(node.ports, SnatPorts::Keep) && flow.local_port >= KEPT_PORT_MIN && claim(flow, flow.local_port) {
        *nat_port = flow.local_port;
        return Ok(());
    }
    let seed = seed(node, flow);
    for attempt in 0..TRIES {
        let port = node.candidate(seed, attempt);
        if claim(flow, port) {
            *nat_port = port;
            return Ok(());
        }
    }
    Err(DropReason::SnatPortsExhausted)
}

#[inline(always)]
fn claim(flow: &FlowKey, port: u16) -> bool {
    let Some(scratch) = scratch() else { return false };
    (scratch.snat_key, scratch.snat_entry) = (SnatKey::of(flow, port), SnatEntry::of(flow));
    SNAT.insert(&scratch.snat_key, &scratch.snat_entry, BPF_NOEXIST.into()).is_ok()
}

/// Gives a port back whose flow could not be remembered.
#[inline(always)]
pub(crate) fn release(flow: &FlowKey, port: u16) {
    let Some(scratch) = scratch() else { return };
    scratch.snat_key = SnatKey::of(flow, port);
    let _ = SNAT.remove(&scratch.snat_key);
}

#[inline(always)]
fn seed(node: &Node, flow: &FlowKey) -> u32 {
    if matches!(node.ports, SnatPorts::Random) {
        // SAFETY: a helper without arguments.
        return unsafe { bpf_get_prandom_u32() };
    }
    let local = u32::from_be_bytes(v4_bytes(&flow.local_addr));
    let remote = u32::from_be_bytes(v4_bytes(&flow.remote_addr));
    let ports = u32::from(flow.local_port) << 16 | u32::from(flow.remote_port);
    // As Knuth's multiplicative hash, a step for each word.
    let mixed = |hash: u32, word: u32| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b1);
    mixed(mixed(mixed(u32::from(flow.protocol), local), remote), ports)
}

/// Whose translated flow a packet to the node's own address belongs to; `None` for what is the host's.
#[inline(always)]
pub(crate) fn owner(key: SnatKey) -> Option<&'static SnatEntry> {
    let place = &mut scratch()?.snat_key;
    *place = key;
    // SAFETY: entries are replaced whole, and only by one that says the same.
    unsafe { SNAT.get(&*place) }
}

/// Gives a packet the node's address and this port, and sends it out by the primary interface; what tc is told.
///
/// # Errors
/// `RewriteFailed`.
#[inline(never)]
pub(crate) fn send(ctx: &TcContext, packet: &Packet, nat_port: u16) -> Result<i32, DropReason> {
    let node = node().ok_or(DropReason::SnatUnsupported)?;
    rewrite::packet(ctx, packet, Side::Source, &node.addr, nat_port)?;
    redirect(ctx, node)
}

/// Likewise an ICMP error of the pod about a translated packet: what it quotes is made the packet that came.
///
/// # Errors
/// `RewriteFailed`.
#[inline(never)]
pub(crate) fn send_error(ctx: &TcContext, packet: &Packet, quoted: &Packet, nat_port: u16) -> Result<i32, DropReason> {
    let node = node().ok_or(DropReason::SnatUnsupported)?;
    rewrite::quoted(ctx, packet, quoted, Side::Destination, (&node.addr, nat_port))?;
    rewrite::packet(ctx, packet, Side::Source, &node.addr, 0)?;
    redirect(ctx, node)
}

/// Gives a reply the pod's address and port; the host stack, which has seen the flow leave, takes it there.
///
/// # Errors
/// `RewriteFailed`.
#[inline(never)]
pub(crate) fn receive(ctx: &TcContext, packet: &Packet, local_addr: &Addr, local_port: u16) -> Result<(), DropReason> {
    rewrite::packet(ctx, packet, Side::Destination, local_addr, local_port)
}

/// Likewise an ICMP error about a packet that left translated.
///
/// # Errors
/// `RewriteFailed`.
#[inline(never)]
pub(crate) fn receive_error(
    ctx: &TcContext,
    packet: &Packet,
    quoted: &Packet,
    entry: &SnatEntry,
) -> Result<(), DropReason> {
    rewrite::quoted(ctx, packet, quoted, Side::Source, (&entry.local_addr, entry.local_port))?;
    rewrite::packet(ctx, packet, Side::Destination, &entry.local_addr, 0)
}

/// To the router of the primary interface's subnet, whose MAC address the kernel knows or asks for. Marked, as whatever
/// of a pod leaves there on AWS: somebody else's filters may ask for it.
#[inline(always)]
fn redirect(ctx: &TcContext, node: &Node) -> Result<i32, DropReason> {
    mark_with(ctx, node.mark);
    to_neighbour(node.ifindex, Family::V4, &node.gateway)
}
