//! Frames to order: a test says what matters to it, the rest is ordinary. Shared with `sgp-agent/tests`.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::net::IpAddr;

/// IANA protocol numbers beside those of `sgp_common::packet`.
pub(crate) const ESP: u8 = 50;
/// IPv6 fragment header.
pub(crate) const FRAGMENT: u8 = 44;
/// IPv6 hop-by-hop options.
pub(crate) const HOP_BY_HOP: u8 = 0;
/// IPv6 destination options.
pub(crate) const DESTINATION_OPTIONS: u8 = 60;

/// MAC address of senders that say nothing else.
pub(crate) const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// An Ethernet frame that carries IP.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// Source MAC address.
    pub(crate) source_mac: [u8; 6],
    /// Source address.
    pub(crate) source: IpAddr,
    /// Destination address, of the same family.
    pub(crate) destination: IpAddr,
    /// Protocol of `payload`.
    pub(crate) protocol: u8,
    /// Transport header and what follows.
    pub(crate) payload: Vec<u8>,
    /// IPv4 options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv4: fragment offset in units of eight bytes.
    pub(crate) fragment_offset: u16,
    /// IPv4: more fragments follow.
    pub(crate) more_fragments: bool,
    /// IPv6 extension headers: their number, and all but their first byte.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
}

/// An address from its text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an IP address")
}

impl Frame {
    /// Any protocol.
    pub(crate) fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source_mac: SOURCE_MAC,
            source,
            destination,
            protocol,
            payload,
            options: Vec::new(),
            fragment_offset: 0,
            more_fragments: false,
            extensions: Vec::new(),
        }
    }

    /// TCP with these flags and no data.
    pub(crate) fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Self {
        let mut header = ports(source.1, destination.1);
        header.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Self::new(source.0, destination.0, 6, header)
    }

    /// UDP with four bytes of data.
    pub(crate) fn udp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        let mut header = ports(source.1, destination.1);
        header.extend([0, 12, 0, 0, 1, 2, 3, 4]);
        Self::new(source.0, destination.0, 17, header)
    }

    /// ICMP of the addresses' family; `id` stands where echo has its identifier.
    pub(crate) fn icmp(source: IpAddr, destination: IpAddr, icmp_type: u8, code: u8, id: u16) -> Self {
        let protocol = if source.is_ipv4() { 1 } else { 58 };
        let id = id.to_be_bytes();
        Self::new(source, destination, protocol, vec![icmp_type, code, 0, 0, id[0], id[1], 0, 1])
    }

    /// Made a fragment at this offset, in units of eight bytes, with more to come.
    pub(crate) fn fragment(mut self, offset: u16) -> Self {
        if self.source.is_ipv4() {
            (self.fragment_offset, self.more_fragments) = (offset, true);
        } else {
            let bits = (offset << 3 | 1).to_be_bytes();
            self.extensions.push((FRAGMENT, vec![0, bits[0], bits[1], 0, 0, 0, 7]));
        }
        self
    }

    /// With another source MAC address.
    pub(crate) fn with_source_mac(mut self, mac: [u8; 6]) -> Self {
        self.source_mac = mac;
        self
    }

    /// The frame's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2];
        frame.extend(self.source_mac);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(&mut frame, source.octets(), destination.octets())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(&mut frame, source.octets(), destination.octets())
            }
            _ => panic!("addresses of two families"),
        }
        frame
    }

    fn ipv4(&self, frame: &mut Vec<u8>, source: [u8; 4], destination: [u8; 4]) {
        let header = 20 + self.options.len();
        let length = ((header + self.payload.len()) as u16).to_be_bytes();
        let fragment = (self.fragment_offset | u16::from(self.more_fragments) << 13).to_be_bytes();
        frame.extend([8, 0, 0x40 | (header / 4) as u8, 0, length[0], length[1], 0, 7]);
        frame.extend([fragment[0], fragment[1], 64, self.protocol, 0, 0]);
        frame.extend(source.into_iter().chain(destination));
        frame.extend(self.options.iter().chain(&self.payload));
    }

    fn ipv6(&self, frame: &mut Vec<u8>, source: [u8; 16], destination: [u8; 16]) {
        let numbers: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).chain([self.protocol]).collect();
        let bodies: usize = self.extensions.iter().map(|(_, body)| 1 + body.len()).sum();
        let length = ((bodies + self.payload.len()) as u16).to_be_bytes();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], numbers[0], 64]);
        frame.extend(source.into_iter().chain(destination));
        for ((_, body), next) in self.extensions.iter().zip(&numbers[1..]) {
            frame.push(*next);
            frame.extend(body);
        }
        frame.extend(&self.payload);
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    source.to_be_bytes().into_iter().chain(destination.to_be_bytes()).collect()
}

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(SOURCE_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend([0; 20]);
    frame
}

/// The same frame with an 802.1Q tag inline.
pub(crate) fn tagged(mut frame: Vec<u8>, vlan_id: u16) -> Vec<u8> {
    let id = vlan_id.to_be_bytes();
    frame.splice(12..12, [0x81, 0, id[0], id[1]]);
    frame
}
