//! What a packet's place among the others says about it: the flags of a TCP packet that is given none, and how
//! much of its datagram a fragment holds.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::packet::{Ends, Header, Packet};
use crate::domain::scenario::given::Fragment;

/// TCP flags (RFC 9293 §3.1).
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Bytes a fragment holds when nothing says where the next one begins: Ethernet's usual 1,500 less the header.
const FRAGMENT_BYTES: u32 = 1480;
/// Data of a packet that is whole, and of a last fragment.
const DATA_BYTES: u32 = 8;

/// TCP connections that were seen, whichever side spoke.
#[derive(Default)]
pub(super) struct Connections(BTreeSet<[(IpAddr, u16); 2]>);

impl Connections {
    /// Gives a TCP packet without flags those of its place: SYN if it is the first of its connection in the
    /// scenario, else ACK.
    pub(super) fn flag(&mut self, packet: &mut Packet) {
        let (source, destination) = packet.ends.pair();
        let Header::Tcp { source_port, destination_port, flags } = &mut packet.header else { return };
        let mut ends = [(source, *source_port), (destination, *destination_port)];
        ends.sort();
        let first = self.0.insert(ends);
        *flags = flags.or(Some(if first { SYN } else { ACK }));
    }
}

/// Bytes behind the IP header of `packet`, transport header included, if these packets follow: a fragment
/// reaches up to the next one of its datagram.
pub(super) fn length<'a>(packet: &Packet, mut following: impl Iterator<Item = &'a Packet>) -> usize {
    let header = match packet.header {
        Header::Tcp { .. } => 20,
        Header::Udp { .. } | Header::Icmp { .. } => 8,
        Header::None => 0,
    };
    let Some(fragment) = packet.fragment.filter(|fragment| fragment.more) else { return header + DATA_BYTES as usize };
    let of_datagram = |other: &&Packet| datagram(other) == datagram(packet);
    let next = following.find(of_datagram).and_then(|next| next.fragment).map(|next| next.offset);
    let length = next.unwrap_or(u32::MAX).saturating_sub(fragment.offset).min(FRAGMENT_BYTES) as usize;
    // All but the last are a multiple of 8 bytes long, and none is empty.
    length.max(header.next_multiple_of(8)).max(8)
}

/// What the fragments of one datagram have in common (RFC 791, RFC 8200).
fn datagram(packet: &Packet) -> Option<(Ends, u8, u32)> {
    packet.fragment.map(|Fragment { id, .. }| (packet.ends, packet.protocol, id))
}
