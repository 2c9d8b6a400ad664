//! Addresses of both families in one shape.

use crate::plain;

/// An IP address; IPv4 is stored v4-mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
///
/// Aligned, because BPF moves and compares what is aligned by words, and everything else byte by byte.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    /// In network order.
    pub bytes: [u8; 16],
}

impl Addr {
    /// The address with these halves. Made of two words and not of sixteen bytes: what is stored byte by byte and then read as a
    /// word makes a processor wait for all of it.
    #[inline(always)]
    pub const fn of_halves(high: [u8; 8], low: [u8; 8]) -> Self {
        // SAFETY: an address is sixteen bytes, and any sixteen bytes are one.
        unsafe { core::mem::transmute([u64::from_ne_bytes(high), u64::from_ne_bytes(low)]) }
    }

    /// Its four words as they lie in memory, which is how the kernel has addresses.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(self.bytes) }
    }
}

/// No address: `::`. Packets can carry it (neighbour discovery does), so nothing may be known by it.
pub const UNSPECIFIED: Addr = Addr { bytes: [0; 16] };

/// The IP version of a packet or a rule. A rule of one family never matches the other.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, RFC 791.
    V4 = 4,
    /// IPv6, RFC 8200.
    V6 = 6,
}

/// The v4-mapped form of four bytes in network order.
#[inline(always)]
pub const fn v4_mapped([a, b, c, d]: [u8; 4]) -> Addr {
    Addr::of_halves([0; 8], [0, 0, 0xff, 0xff, a, b, c, d])
}

/// Whether an address of an IPv6 packet poses as one of IPv4.
#[inline(always)]
pub fn is_v4_mapped(addr: &Addr) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = addr.bytes;
    (a | b | c | d | e | f | g | h | i | j) == 0 && (k & l) == 0xff
}

/// What stands for the /80 of an IPv6 address among peers: its last address. EC2 delegates prefixes of that length to
/// interfaces (EC2 user guide, "Assigning prefixes"), and whoever is in one carries the groups of its interface.
#[inline(always)]
pub const fn prefix_name(addr: &Addr) -> Addr {
    let [a, b, c, d, e, f, g, h, i, j, ..] = addr.bytes;
    Addr::of_halves([a, b, c, d, e, f, g, h], [i, j, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
}

/// The four IPv4 bytes of a v4-mapped address, in network order.
#[inline(always)]
pub const fn v4_bytes(addr: &Addr) -> [u8; 4] {
    let [.., a, b, c, d] = addr.bytes;
    [a, b, c, d]
}

impl From<[u8; 16]> for Addr {
    #[inline(always)]
    fn from(bytes: [u8; 16]) -> Self {
        Self { bytes }
    }
}

plain!(Addr);
