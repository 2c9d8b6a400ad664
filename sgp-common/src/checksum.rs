//! The Internet checksum (RFC 1071), where an address gives way to another.

/// A header's checksum after four bytes of what it covers have changed, as RFC 1624 (equation 3) says; bytes as on the wire.
#[must_use]
#[inline(always)]
pub const fn after(before: [u8; 2], from: [u8; 4], to: [u8; 4]) -> [u8; 2] {
    let sum = not(half(before, 0)) + not(half(from, 0)) + not(half(from, 2)) + half(to, 0) + half(to, 2);
    // At most five carries, and one more of their own.
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}

#[inline(always)]
const fn half<const N: usize>(bytes: [u8; N], at: usize) -> u32 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]]) as u32
}

#[inline(always)]
const fn not(half: u32) -> u32 {
    !half & 0xffff
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::after;

    /// As RFC 1071 computes it from the start.
    fn whole(header: &[u8]) -> [u8; 2] {
        let sum: u32 = header.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        (!(sum as u16)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn a_checksum_after_a_change_is_the_one_of_the_changed_header(mut header: [u8; 20], to: [u8; 4], at in prop_oneof![Just(12), Just(16)]) {
            // An IPv4 header is never all zeros.
            header[0] = 0x45;
            header[10..12].fill(0);
            let from: [u8; 4] = header[at..at + 4].try_into().expect("four bytes");
            let before = whole(&header);
            header[at..at + 4].copy_from_slice(&to);
            prop_assert_eq!(after(before, from, to), whole(&header));
        }
    }
}
