//! What the programs of live traffic and the benchmark that runs them agree on.

/// How many packets one run of a generator sends: as many as a driver hands over at a time, of NAPI's 64.
pub(crate) const BURST: u32 = 32;
/// How many answered packets are remembered at once, of each of two; a power of two.
pub(crate) const LEARNT_MAX: u32 = 1 << 10;
/// Port of UDP by which the benchmark's own packets are known, at either side.
pub(crate) const SERVICE: u16 = 8080;
/// Where a frame of UDP over IPv4 has its source, its destination, and its ports.
pub(crate) const ADDRESSES: [usize; 3] = [26, 30, 34];
/// Where it has IPv4's identification, which makes up for its addresses in the header's checksum.
pub(crate) const IDENTIFICATION: usize = 18;
/// Where its data begin: two bytes that make up for addresses and ports in UDP's checksum.
pub(crate) const DATA: usize = 42;

/// What makes the sum of these nothing, as the Internet checksum adds (RFC 1071).
#[inline(always)]
pub(crate) fn balance(words: [u32; 3]) -> u16 {
    let sum: u64 = words.iter().map(|word| u64::from(word >> 16) + u64::from(word & 0xffff)).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Value of the map `ORDER`: what is to be done now.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// Interface that generators send by.
    pub(crate) ifindex: u32,
    /// Who answers what arrives, as its count's number in [`counts`] and one; 0: nobody, and packets end where they are
    /// counted.
    pub(crate) answering: u32,
    /// Where in `LEARNT` this one's are: 0 or [`LEARNT_MAX`].
    pub(crate) learnt: u32,
    /// MAC address of the pod's interface.
    pub(crate) pod_mac: [u8; 6],
    /// MAC address of its host veth.
    pub(crate) gateway_mac: [u8; 6],
}

/// Value of the map `LEARNT`: addresses and ports (source first) of an answer, in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressed {
    /// Source.
    pub(crate) source: u32,
    /// Destination.
    pub(crate) destination: u32,
    /// Ports.
    pub(crate) ports: u32,
}

/// Value of the map `COURSE`: the way of a bare redirect.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// Interface index of the branch.
    pub(crate) branch: u32,
    /// Interface index of the host veth.
    pub(crate) host: u32,
    /// The next hop behind the branch, in host order.
    pub(crate) gateway: u32,
}

/// Keys of the map `COUNTS`.
pub(crate) mod counts {
    /// Packets that came to a pod.
    pub(crate) const POD: u32 = 0;
    /// Packets that came outside.
    pub(crate) const OUTSIDE: u32 = 1;
    /// Packets that an interface did not take: a full queue, or a program's drop.
    pub(crate) const REFUSED: u32 = 2;
    /// How many counts there are.
    pub(crate) const ALL: u32 = 3;
}
