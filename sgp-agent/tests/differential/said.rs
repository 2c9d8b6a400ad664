//! The frames of a conversation, and what else is on a wire.

use std::net::IpAddr;

use sgp_common::Direction;

use crate::oracle::frames::{self, Frame, arp, ip, tagged};
use crate::oracle::random::Random;
use crate::oracle::{Ask, Said};
use crate::talk::POD_MAC;

/// Flags as they come in life, then some that do not.
const FLAGS: [u8; 10] = [0x02, 0x12, 0x10, 0x10, 0x10, 0x18, 0x11, 0x04, 0x06, 0x29];

/// Two sides that speak of one service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conversation {
    pub(crate) ask: Ask,
    pub(crate) local: IpAddr,
    /// The port that is no service's, or the identifier.
    pub(crate) port: u16,
}

impl Conversation {
    pub(crate) fn frame(self, random: &mut Random, direction: Direction) -> Frame {
        let Ask { direction: opened, remote, protocol, said } = self.ask;
        // Seldom from or to an address that is not the pod's.
        let local = match (self.local, random.once_in(80)) {
            (IpAddr::V4(_), true) => ip("10.9.9.77"),
            (IpAddr::V6(_), true) => ip("2001:db8:9::77"),
            (own, false) => own,
        };
        let (source, destination) = match direction {
            Direction::Inbound => (remote, local),
            Direction::Outbound => (local, remote),
        };
        let asks = direction == opened;
        match said {
            Said::Port(service) => {
                let (from, to) = if asks { (self.port, service) } else { (service, self.port) };
                let (from, to) = ((source, from), (destination, to));
                let flags = random.one_of(&FLAGS);
                if protocol == 6 { Frame::tcp(from, to, flags) } else { Frame::udp(from, to) }
            }
            Said::Icmp(kind, code) => {
                let kind = if asks { kind } else { answer(kind, remote.is_ipv4()) };
                Frame::icmp(source, destination, kind, code, self.port % 3)
            }
            Said::Nothing => Frame::new(source, destination, protocol, vec![0xee; 24]),
        }
    }
}

/// The type that answers a query, or the same type again.
fn answer(kind: u8, v4: bool) -> u8 {
    match (kind, v4) {
        (8, true) => 0,
        (0, true) => 8,
        (13 | 15 | 17, true) => kind + 1,
        (128, false) => 129,
        (129, false) => 128,
        (other, _) => other,
    }
}

/// Sometimes with options or extension headers, sometimes a fragment.
pub(crate) fn divided(random: &mut Random, mut frame: Frame) -> Frame {
    if random.once_in(10) {
        frame.options = vec![1; 4 * random.below(11)];
        let count = random.below(8);
        let kind = random.one_of(&[frames::HOP_BY_HOP, frames::DESTINATION_OPTIONS]);
        frame.extensions = vec![(kind, vec![0; 7]); count];
    }
    match random.below(14) {
        0 => frame.fragment(0),
        1 => frame.fragment(random.one_of(&[1, 2, 3, 185, 8189])),
        2 => Frame { more_fragments: false, ..frame.fragment(random.one_of(&[1, 3, 185])) },
        _ => frame,
    }
}

/// With another identification, where it can have one.
pub(crate) fn with_id(mut frame: Vec<u8>, id: u8) -> Vec<u8> {
    match frame.get(12..14) {
        Some([8, 0]) => frame[19] = id,
        Some([0x86, 0xdd]) if frame.get(20) == Some(&frames::FRAGMENT) && frame.len() > 61 => frame[61] = id,
        _ => {}
    }
    frame
}

/// Neighbour discovery, listener reports, DHCP.
pub(crate) fn link_local(random: &mut Random, direction: Direction) -> Frame {
    let own = ip(random.one_of(&["fe80::1", "::", "2001:db8:9::1"]));
    let (here, there) = (own, ip(random.one_of(&["ff02::16", "fe80::9", "2001:db8:9::1"])));
    let (source, destination) = if direction == Direction::Outbound { (here, there) } else { (there, here) };
    match random.below(3) {
        0 => Frame::udp((ip("0.0.0.0"), random.one_of(&[68, 67])), (ip("255.255.255.255"), random.one_of(&[67, 68]))),
        1 => Frame::udp((source, random.one_of(&[546, 547])), (destination, random.one_of(&[547, 546]))),
        _ => Frame::icmp(source, destination, random.one_of(&[133, 135, 136, 137, 143, 131, 128, 138]), 0, 0),
    }
}

/// No IP, or not where it belongs.
pub(crate) fn oddity(random: &mut Random, direction: Direction) -> Vec<u8> {
    let mut frame = match random.below(4) {
        0 => arp(),
        1 => tagged(Frame::udp((ip("10.9.9.1"), 1), (ip("10.0.0.1"), 53)).bytes(), 7),
        2 => vec![0x88; 60],
        _ => {
            let mut posing = Frame::tcp((ip("10.0.0.1"), 1), (ip("10.9.9.1"), 80), 2).bytes();
            posing[12..14].copy_from_slice(&[0x86, 0xdd]);
            posing
        }
    };
    if direction == Direction::Outbound && !random.once_in(4) {
        frame[6..12].copy_from_slice(&POD_MAC);
    }
    frame
}

/// A byte or some are others, or the end is missing. Ethernet mostly stays: broken, it would mostly not be IP.
pub(crate) fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let from = if random.once_in(10) { 0 } else { 14 };
        if frame.len() > from {
            let at = from + random.below((frame.len() - from).min(60));
            frame[at] = if random.once_in(2) { random.next() as u8 } else { frame[at] ^ 1 << random.below(8) };
        }
    }
    if random.once_in(4) {
        frame.truncate(14 + random.below(frame.len() - 13));
    }
}
