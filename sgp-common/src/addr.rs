//! Addresses of both families in one shape.

/// An IP address in network byte order, 16 bytes; IPv4 is stored v4-mapped (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2).
pub type Addr = [u8; 16];

/// No address: `::`. Packets can carry it (neighbour discovery does), so nothing may be known by it.
pub const UNSPECIFIED: Addr = [0; 16];

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
pub const fn v4_mapped(v4: [u8; 4]) -> Addr {
    let mut addr = [0; 16];
    addr[10] = 0xff;
    addr[11] = 0xff;
    addr[12] = v4[0];
    addr[13] = v4[1];
    addr[14] = v4[2];
    addr[15] = v4[3];
    addr
}

/// Whether an address of an IPv6 packet poses as one of IPv4.
#[inline(always)]
pub fn is_v4_mapped(addr: &Addr) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *addr;
    (a | b | c | d | e | f | g | h | i | j) == 0 && (k & l) == 0xff
}

/// The four IPv4 bytes of a v4-mapped address, in network order.
#[inline(always)]
pub const fn v4_bytes(addr: &Addr) -> [u8; 4] {
    [addr[12], addr[13], addr[14], addr[15]]
}
