//! The conversations of a case: who speaks to whom, and what of it differs from flow to flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sgp_common::Direction;
use sgp_common::flow::ACK;

use crate::drive::Word;
use crate::frames::Frame;

/// Flows differ in this many low bits by a port, in the rest by the other side's address.
const PORT_BITS: u32 = 10;
/// The first of those ports.
const PORT_BASE: u16 = 0x4000;

/// Many conversations alike.
#[derive(Clone, Copy)]
pub(crate) struct Talk {
    /// This side's address, the same in all.
    pub(crate) local: IpAddr,
    /// The other side's, in flow 0.
    pub(crate) remote: IpAddr,
    /// Port of the side that was asked.
    pub(crate) service: u16,
    /// Who opened them: whose port differs.
    pub(crate) opened: Direction,
    /// MAC address of what is sent outwards.
    pub(crate) mac: [u8; 6],
}

impl Talk {
    /// A packet of flow 0 in this direction.
    pub(crate) fn frame(&self, direction: Direction) -> Vec<u8> {
        let (local, remote) = ((self.local, self.ports().0), (self.remote, self.ports().1));
        let frame = match direction {
            Direction::Inbound => Frame::tcp(remote, local, ACK),
            Direction::Outbound => Frame::tcp(local, remote, ACK).with_source_mac(self.mac),
        };
        frame.bytes()
    }

    /// (this side's port, the other side's) in flow 0.
    fn ports(&self) -> (u16, u16) {
        match self.opened {
            Direction::Inbound => (self.service, PORT_BASE),
            Direction::Outbound => (PORT_BASE, self.service),
        }
    }

    /// What differs from flow to flow, in packets of this direction.
    pub(crate) fn words(&self, direction: Direction) -> [Word; 3] {
        let [source, destination, ports] = if self.local.is_ipv4() { [26, 30, 34] } else { [34, 50, 54] };
        let local = Word { at: 0, base: last_word(self.local), shift: 0, mask: 0, unit: 0 };
        let remote = Word { base: last_word(self.remote), shift: PORT_BITS, mask: u32::MAX, unit: 1, ..local };
        let (first, second, own) = match direction {
            Direction::Inbound => (remote, local, self.ports().1),
            Direction::Outbound => (local, remote, self.ports().0),
        };
        let other = if direction == Direction::Inbound { self.ports().0 } else { self.ports().1 };
        let unit = if direction == self.opened { 1 << 16 } else { 1 };
        let base = u32::from(own) << 16 | u32::from(other);
        let ports = Word { at: ports, base, shift: 0, mask: (1 << PORT_BITS) - 1, unit };
        [Word { at: source, ..first }, Word { at: destination, ..second }, ports]
    }
}

fn last_word(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => addr.to_bits() as u32,
    }
}

/// The first of the other sides that rules speak of.
pub(crate) fn remote(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0).into() } else { Ipv4Addr::new(10, 77, 0, 0).into() }
}

/// One that no rule speaks of.
pub(crate) fn stranger(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0x2001, 0xdb8, 0x78, 0, 0, 0, 0, 0).into() } else { Ipv4Addr::new(10, 78, 0, 0).into() }
}

/// One outside of the VPC.
pub(crate) fn outside() -> IpAddr {
    Ipv4Addr::new(203, 0, 113, 0).into()
}
