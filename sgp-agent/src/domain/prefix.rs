//! Prefixes: the shape every rule is brought into.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sgp_common::Addr;
use sgp_common::addr::v4_mapped;
use sgp_common::policy::{HEAD_BITS, RuleSet, Selector};

/// Bits of a v4-mapped address before the IPv4 address itself.
const V4_OFFSET: u32 = 96;

/// An address prefix as tries of prefixes hold it: length in bits, v4-mapped address.
pub type Prefix = (u32, Addr);

/// The key of a trie of prefixes.
pub fn key(net: &IpNet) -> Prefix {
    let (addr, bits) = address(net);
    (bits, addr)
}

/// The address and the length in bits of an address prefix, v4-mapped, host bits cleared.
pub fn address(net: &IpNet) -> (Addr, u32) {
    match net.trunc() {
        IpNet::V4(v4) => (v4_mapped(v4.network().octets()), V4_OFFSET + u32::from(v4.prefix_len())),
        IpNet::V6(v6) => (v6.network().octets().into(), u32::from(v6.prefix_len())),
    }
}

/// The fewest port prefixes that cover `from..=to` exactly, each as (first port, bits of it that count).
/// At most 30 for any range.
pub fn ports(from: u16, to: u16) -> Vec<(u16, u32)> {
    let (mut next, end) = (u32::from(from), u32::from(to) + 1);
    let mut prefixes = Vec::new();
    while next < end {
        let aligned = if next == 0 { 1 << 16 } else { next & next.wrapping_neg() };
        let fits = 1 << (end - next).ilog2();
        let size = aligned.min(fits);
        prefixes.push((next as u16, 16 - size.trailing_zeros()));
        next += size;
    }
    prefixes
}

/// A longest-prefix lookup answers with one key only, so each key takes over the rules of all that cover
/// it. Keys are sorted so that whatever covers a key stands before it; one pass with a stack does it.
pub fn inherit(own: BTreeMap<(u32, Selector), RuleSet>) -> BTreeMap<(u32, Selector), RuleSet> {
    let mut keys: Vec<((u32, Selector), RuleSet)> = own.into_iter().collect();
    keys.sort_by_key(|((bits, selector), _)| (*selector, *bits));
    let mut all = BTreeMap::new();
    let mut stack: Vec<((u32, Selector), RuleSet)> = Vec::new();
    for (key, mut rules) in keys {
        while stack.last().is_some_and(|(above, _)| !covers(above, &key)) {
            stack.pop();
        }
        if let Some((_, inherited)) = stack.last() {
            unite(&mut rules, inherited);
        }
        all.insert(key, rules);
        stack.push((key, rules));
    }
    all
}

/// Adds `more` to `rules`.
fn unite(rules: &mut RuleSet, more: &RuleSet) {
    for (word, other) in rules.words.iter_mut().zip(more.words) {
        *word |= other;
    }
}

/// Whether every selector that `inner` matches, `outer` matches too.
pub fn covers(outer: &(u32, Selector), inner: &(u32, Selector)) -> bool {
    let head = |selector: &Selector| (selector.direction, selector.family, selector.axis);
    outer.0 <= inner.0
        && head(&outer.1) == head(&inner.1)
        && same_bits(&outer.1.data, &inner.1.data, outer.0.saturating_sub(HEAD_BITS))
}

fn same_bits(a: &[u8; 16], b: &[u8; 16], bits: u32) -> bool {
    let differing = u128::from_be_bytes(*a) ^ u128::from_be_bytes(*b);
    bits == 0 || differing >> (128 - bits.min(128)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_becomes_prefixes_that_cover_it_exactly() {
        for (from, to) in [(0, 65535), (80, 80), (1000, 2000), (1, 65534), (65535, 65535), (0, 0), (1024, 65535)] {
            let prefixes = ports(from, to);
            assert!(prefixes.len() <= 30, "{from}-{to} takes {}", prefixes.len());
            for port in 0..=u16::MAX {
                let hits = prefixes.iter().filter(|(first, bits)| matches(*first, *bits, port)).count();
                assert_eq!(hits, usize::from((from..=to).contains(&port)), "port {port} of {from}-{to}");
            }
        }
    }

    fn matches(first: u16, bits: u32, port: u16) -> bool {
        bits == 0 || (first ^ port) >> (16 - bits) == 0
    }

    #[test]
    fn host_bits_of_an_address_prefix_are_cleared() {
        let (addr, bits) = address(&"10.0.2.20/24".parse().expect("a CIDR"));
        assert_eq!((addr.bytes[12..].to_vec(), bits), (vec![10, 0, 2, 0], 120));
    }
}
