//! Policies: prefixes of who and what, each answering with the set of rules it satisfies.

use crate::flow::is_syn;
use crate::limits::RULE_WORDS;
use crate::packet::{Packet, TCP, Transport, UDP};
use crate::{Addr, Direction, Family, plain};

/// What a key of the policy trie speaks of.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// The policy itself: one key, which satisfies no rule and is there in every policy, for its digest.
    Digest = 0,
    /// An address prefix: CIDR rows and prefix-list rows.
    Remote = 1,
    /// A group set id, 8 bytes big-endian, exact.
    Peer = 2,
    /// Protocol (8 bits), then destination port (16), or ICMP type (8) and code (8).
    Service = 3,
}

/// Key of a policy trie, without the prefix length that stands before it.
///
/// A prefix of `n` data bits has prefix length [`HEAD_BITS`] + n.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The pod's point of view.
    pub direction: Direction,
    /// 4 or 6.
    pub family: Family,
    /// What `data` holds.
    pub axis: Axis,
    /// Zero.
    pub reserved: u8,
    /// Left-aligned, network order, zero beyond the prefix.
    pub data: [u8; 16],
    /// Zero. The kernel's trie wants keys that are a multiple of the value's alignment.
    pub padding: [u8; 4],
}

/// Bits of a selector before its data.
pub const HEAD_BITS: u32 = 32;
/// Prefix length of an exact 16-byte selector.
pub const FULL_BITS: u32 = HEAD_BITS + 128;
/// Prefix length of an exact group set.
pub const PEER_BITS: u32 = HEAD_BITS + 64;
/// Prefix length of a protocol without port.
pub const PROTOCOL_BITS: u32 = HEAD_BITS + 8;
/// Prefix length of a protocol with port, or with ICMP type and code.
pub const SERVICE_BITS: u32 = HEAD_BITS + 24;

impl Selector {
    /// A selector with nothing but its head; `data` is zero.
    #[inline(always)]
    pub const fn new(direction: Direction, family: Family, axis: Axis) -> Self {
        Self { direction, family, axis, reserved: 0, data: [0; 16], padding: [0; 4] }
    }

    /// Asks for the policy's digest.
    #[inline(always)]
    pub const fn digest() -> Self {
        Self::new(Direction::Inbound, Family::V4, Axis::Digest)
    }

    /// Asks for the rules a remote address satisfies; IPv4 addresses keep their v4-mapped form.
    #[inline(always)]
    pub const fn remote(direction: Direction, family: Family, addr: Addr) -> Self {
        Self { data: addr.bytes, ..Self::new(direction, family, Axis::Remote) }
    }

    /// Asks for the rules a member of this group set satisfies.
    #[inline(always)]
    pub const fn peer(direction: Direction, family: Family, group_set: u64) -> Self {
        Self { data: Self::peer_data(group_set), ..Self::new(direction, family, Axis::Peer) }
    }

    /// The data of [`Self::peer`].
    #[inline(always)]
    pub const fn peer_data(group_set: u64) -> [u8; 16] {
        Addr::of_halves(group_set.to_be_bytes(), [0; 8]).bytes
    }

    /// Asks for the rules a service satisfies, with the prefix length the question can answer: a packet without
    /// ports is asked only what it says.
    #[inline(always)]
    pub fn service(question: &Question) -> (u32, Self) {
        let (bits, data) = Self::service_data(question);
        (bits, Self { data, ..Self::new(question.direction, question.family, Axis::Service) })
    }

    /// The prefix length and the data of [`Self::service`].
    #[inline(always)]
    pub fn service_data(question: &Question) -> (u32, [u8; 16]) {
        let [first, second] = question.detail;
        let data = Addr::of_halves([question.protocol, first, second, 0, 0, 0, 0, 0], [0; 8]).bytes;
        (if question.detailed == 0 { PROTOCOL_BITS } else { SERVICE_BITS }, data)
    }
}

/// All that rules can be asked about a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The other side's address.
    pub remote: Addr,
    /// The pod's point of view.
    pub direction: Direction,
    /// IP version.
    pub family: Family,
    /// IP protocol number.
    pub protocol: u8,
    /// 1 where `detail` is known, else 0.
    pub detailed: u8,
    /// Destination port in network order, or ICMP type and code; zero where unknown.
    pub detail: [u8; 2],
}

impl Question {
    /// What a packet asks.
    #[inline(always)]
    pub fn of(packet: &Packet, direction: Direction) -> Self {
        let (detailed, detail) = match packet.transport {
            Transport::Ports => (1, packet.destination_port.to_be_bytes()),
            Transport::Icmp => (1, [packet.icmp_type, packet.icmp_code]),
            Transport::None | Transport::LaterFragment => (0, [0, 0]),
        };
        Self {
            remote: *packet.remote(direction),
            direction,
            family: packet.family,
            protocol: packet.protocol,
            detailed,
            detail,
        }
    }

    /// What the packet asked that this one, going `direction`, would be an answer to: the other direction, for the port
    /// this one comes from. `None` for what has no ports, and for a SYN without ACK, which answers nothing.
    #[inline(always)]
    pub fn answered_by(packet: &Packet, direction: Direction) -> Option<Self> {
        if !matches!(packet.transport, Transport::Ports) || is_syn(packet) {
            return None;
        }
        let detail = packet.source_port.to_be_bytes();
        let remote = *packet.remote(direction);
        let direction = direction.opposite();
        Some(Self { remote, direction, family: packet.family, protocol: packet.protocol, detailed: 1, detail })
    }
}

/// Which rules of a policy are satisfied: bit `i` stands for rule `i` of that direction and family.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// Rule `i` is bit `i % 64` of word `i / 64`.
    pub words: [u64; RULE_WORDS],
}

impl RuleSet {
    /// No rule.
    pub const EMPTY: Self = Self { words: [0; RULE_WORDS] };

    /// Adds rule `index`.
    ///
    /// # Panics
    /// If `index` is not below [`crate::limits::RULES_MAX`]; the compiler refuses such policies before.
    pub fn insert(&mut self, index: usize) {
        self.words[index / 64] |= 1 << (index % 64);
    }

    /// Whether some rule is in both sets.
    pub fn meets(&self, other: &Self) -> bool {
        self.words.iter().zip(other.words).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// Whether rule `index` is in the set.
    pub fn contains(&self, index: usize) -> bool {
        self.words[index / 64] & (1 << (index % 64)) != 0
    }
}

/// Value of a policy trie: what a key says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The rules its key satisfies.
    pub rules: RuleSet,
    /// Digest of the policy, the same in every key.
    pub digest: u64,
    /// Keys of [`Axis::Service`]: what else is known of this service, bits of [`hints`].
    pub hints: u64,
}

/// Bits of `Answer::hints`.
pub mod hints {
    /// EC2 would not track a TCP flow to this service.
    pub const UNTRACKED_TCP: u64 = 1;
    /// Nor a UDP one.
    pub const UNTRACKED_UDP: u64 = 2;
    /// Of the rules that allow the service, some ask for an address. Where none does, there is no need to look for it.
    pub const BY_ADDRESS: u64 = 4;
    /// Some ask for a group: likewise.
    pub const BY_GROUP: u64 = 8;
}

impl Answer {
    /// Says nothing.
    pub const EMPTY: Self = Self { rules: RuleSet::EMPTY, digest: 0, hints: 0 };

    /// Whether EC2 would track a flow of this protocol to the service (facts 5.2): not, if it is TCP or UDP, a rule for
    /// all addresses admits it, and the other direction is open to all addresses and ports.
    #[inline(always)]
    pub fn is_untracked(&self, protocol: u8) -> bool {
        match protocol {
            TCP => self.hints & hints::UNTRACKED_TCP != 0,
            UDP => self.hints & hints::UNTRACKED_UDP != 0,
            _ => false,
        }
    }
}

/// The lowest rule that is satisfied by who (by address or by group) and by what, if any.
#[inline(always)]
pub fn first_match(remote: Option<&RuleSet>, peer: Option<&RuleSet>, service: &RuleSet) -> Option<u16> {
    let mut word = 0;
    while word < RULE_WORDS {
        let who = remote.map_or(0, |set| set.words[word]) | peer.map_or(0, |set| set.words[word]);
        let both = who & service.words[word];
        if both != 0 {
            return Some((word as u16) * 64 + lowest_bit(both));
        }
        word += 1;
    }
    None
}

/// Index of the lowest set bit of a word that is not zero: how many bits stand below it, added up in parallel. BPF has
/// no count of trailing zeros, and branches here would be paths for the verifier to walk.
#[inline(always)]
fn lowest_bit(word: u64) -> u16 {
    let below = (word & word.wrapping_neg()).wrapping_sub(1);
    let pairs = below - (below >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u16
}

/// Key of `RULE_NAMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Digest of the policy the index belongs to; indices of two versions are never mixed up.
    pub policy_digest: u64,
    /// Index of the rule in its direction and family.
    pub rule: u16,
    /// The pod's point of view.
    pub direction: Direction,
    /// 4 or 6.
    pub family: Family,
    /// Zero.
    pub reserved: [u8; 4],
}

/// Value of `RULE_NAMES`: the rule in EC2's own names, UTF-8, zero-padded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleName {
    /// The rule's `sgr-…`.
    pub rule_id: [u8; 32],
    /// The `sg-…` the rule belongs to.
    pub group_id: [u8; 32],
}

/// Value of `PEERS`, keyed by remote address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Id of the group set the address's interface carries.
    pub group_set: u64,
}

plain!(Selector, RuleSet, Answer, RuleKey, RuleName, Peer);
