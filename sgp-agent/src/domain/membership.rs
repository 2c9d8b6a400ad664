//! Who is a member of what, as the controller publishes it: slices, and what they say together.
//!
//! A slice lists addresses of one group set. An address that gets other groups is written into a slice of the new set
//! before it is taken out of one of the old, so for a moment two slices have it: the younger one counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use imbl::OrdMap;
use sgp_common::Addr;
use sha2::{Digest, Sha256};

use super::desired::mapped;
use super::groups::{GroupSet, GroupSetId};

/// Most addresses of one slice.
pub const SLICE_MAX: usize = 1000;
/// The form of slices that this build reads and writes.
pub const FORM: u32 = 1;

/// What one object of the kind `SecurityGroupMembership` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The groups that all of its addresses carry.
    pub groups: GroupSet,
    /// Counts writes over all slices: of two that have an address, the one with the greater number is right.
    pub generation: u64,
    /// Sorted, none twice; v4-mapped.
    pub addresses: Vec<Addr>,
}

/// A slice, and what in it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// What could.
    pub slice: Slice,
    /// One sentence, where something could not.
    pub trouble: Option<String>,
}

impl Slice {
    /// Reads what an object holds. Addresses that are none are left out; beyond [`SLICE_MAX`] nobody can have meant them.
    ///
    /// # Errors
    /// A sentence, where nothing of it can be used.
    pub fn read(form: u32, groups: &[String], generation: u64, addresses: &[String]) -> Result<Read, String> {
        if form != FORM {
            return Err(format!(
                "it has form {form}, and this build reads {FORM}: run one version of agents and controller"
            ));
        }
        if groups.is_empty() {
            return Err("it names no group; the controller writes it anew once it is deleted".into());
        }
        if addresses.len() > SLICE_MAX {
            return Err(format!("it has {} addresses of at most {SLICE_MAX}; delete it", addresses.len()));
        }
        let parsed = addresses.iter().map(|text| text.parse::<IpAddr>().map_err(|_| text.as_str()));
        let (good, bad): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
        let good: BTreeSet<Addr> = good.into_iter().flatten().map(mapped).collect();
        let bad: Vec<&str> = bad.into_iter().filter_map(Result::err).take(3).collect();
        let trouble =
            bad.first().map(|_| format!("{} no address and left out: delete the slice to have it anew", are(&bad)));
        let slice =
            Self { groups: GroupSet::of(groups.iter().cloned()), generation, addresses: good.into_iter().collect() };
        Ok(Read { slice, trouble })
    }

    fn has(&self, addr: &Addr) -> bool {
        self.addresses.binary_search(addr).is_ok()
    }
}

fn are(texts: &[&str]) -> String {
    format!("{} {}", texts.join(", "), if texts.len() == 1 { "is" } else { "are" })
}

/// An address as people write it.
pub fn text(addr: &Addr) -> String {
    Ipv6Addr::from(addr.bytes).to_canonical().to_string()
}

/// The group set of each address. There may be a hundred thousand: a copy shares what is alike.
pub type Peers = OrdMap<Addr, GroupSetId>;

/// What all slices say together. Keeps names, sets and addresses, nothing of the objects they came in.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    slices: BTreeMap<String, Slice>,
    peers: Peers,
    /// How many slices have an address, where it is more than one.
    shared: BTreeMap<Addr, usize>,
}

/// First 64 bits of SHA-256 over who is a member of what.
pub(super) fn hash(peers: &Peers) -> u64 {
    let mut hash = Sha256::new();
    for (addr, set) in peers {
        hash.update(addr.bytes);
        hash.update(set.0.to_be_bytes());
    }
    let hash = hash.finalize();
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

/// What is published, as a round needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The group set of every address.
    pub peers: Peers,
    /// Those sets.
    pub group_sets: BTreeSet<GroupSet>,
}

/// Addresses of which something else holds now: their group set, or that they are nobody's member any more.
pub type Changes = BTreeMap<Addr, Option<GroupSetId>>;

impl Membership {
    /// Takes in what a slice says now; `None` where it was deleted. Touches its own addresses only.
    pub fn update(&mut self, name: &str, now: Option<Slice>) -> Changes {
        let before = match now {
            Some(slice) => self.slices.insert(name.to_owned(), slice),
            None => self.slices.remove(name),
        }
        .unwrap_or_default();
        let now = self.slices.get(name).cloned().unwrap_or_default();
        let set = now.groups.id();
        let touched: BTreeSet<Addr> = before.addresses.iter().chain(&now.addresses).copied().collect();
        let mut changes = Changes::new();
        for addr in touched {
            let slices = self.count(&addr) - usize::from(before.has(&addr)) + usize::from(now.has(&addr));
            match slices {
                0 | 1 => self.shared.remove(&addr),
                _ => self.shared.insert(addr, slices),
            };
            let is = match slices {
                0 => None,
                1 if now.has(&addr) => Some(set),
                _ => self.youngest(&addr),
            };
            if self.put(addr, is) != is {
                changes.insert(addr, is);
            }
        }
        changes
    }

    /// Slices that have an address.
    fn count(&self, addr: &Addr) -> usize {
        self.shared.get(addr).copied().unwrap_or_else(|| self.peers.contains_key(addr).into())
    }

    /// What held before.
    fn put(&mut self, addr: Addr, set: Option<GroupSetId>) -> Option<GroupSetId> {
        match set {
            Some(set) => self.peers.insert(addr, set),
            None => self.peers.remove(&addr),
        }
    }

    fn youngest(&self, addr: &Addr) -> Option<GroupSetId> {
        let having = self.slices.iter().filter(|(_, slice)| slice.has(addr));
        having.max_by_key(|(name, slice)| (slice.generation, *name)).map(|(_, slice)| slice.groups.id())
    }

    /// Forgets slices of other names.
    pub fn retain(&mut self, names: &BTreeSet<String>) -> Changes {
        let gone: Vec<String> = self.slices.keys().filter(|name| !names.contains(*name)).cloned().collect();
        gone.iter().flat_map(|name| self.update(name, None)).collect()
    }

    /// The group set of an address.
    pub fn of(&self, addr: &Addr) -> Option<GroupSetId> {
        self.peers.get(addr).copied()
    }

    /// The group set of every address.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Every group set that some address may have.
    pub fn group_sets(&self) -> BTreeSet<GroupSet> {
        self.slices.values().map(|slice| slice.groups.clone()).collect()
    }

    /// Slices known.
    pub fn slices(&self) -> &BTreeMap<String, Slice> {
        &self.slices
    }

    /// Addresses known.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: u32, addresses: &[&str]) -> Result<Read, String> {
        let addresses: Vec<String> = addresses.iter().map(|text| (*text).to_owned()).collect();
        Slice::read(form, &["sg-a".into()], 1, &addresses)
    }

    #[test]
    fn what_cannot_be_read_of_a_slice_is_named_and_the_rest_of_it_counts() {
        let found = read(FORM, &["10.0.0.1", "10.0.0.300", "2001:db8::1"]).expect("two are good");
        assert_eq!(
            found.slice.addresses.iter().map(text).collect::<Vec<_>>(),
            ["2001:db8::1", "10.0.0.1"].map(String::from).into_iter().rev().collect::<Vec<_>>()
        );
        assert!(found.trouble.expect("one is bad").starts_with("10.0.0.300 is no address"));
        assert!(read(2, &[]).expect_err("unknown").contains("form 2"));
        assert!(read(FORM, &["10.0.0.1"; 1001]).expect_err("too many").contains("1001"));
        assert!(Slice::read(FORM, &[], 1, &[]).expect_err("no group").contains("no group"));
    }

    #[test]
    fn of_two_slices_that_have_an_address_the_younger_counts_and_the_other_takes_over_when_it_goes() {
        let of = |group: &str, generation| {
            let found = Slice::read(FORM, &[group.into()], generation, &["10.0.0.1".into()]);
            found.expect("a good slice").slice
        };
        let (addr, id) = (mapped(IpAddr::from([10, 0, 0, 1])), |group: &str| GroupSet::of([group]).id());
        let mut members = Membership::default();
        assert_eq!(members.update("a", Some(of("sg-a", 1))), [(addr, Some(id("sg-a")))].into());
        assert_eq!(members.update("b", Some(of("sg-b", 2))), [(addr, Some(id("sg-b")))].into());
        assert_eq!(members.update("a", Some(of("sg-a", 1))), Changes::new());
        assert_eq!(members.update("a", None), Changes::new());
        assert_eq!(members.retain(&BTreeSet::new()), [(addr, None)].into());
        assert!(members.is_empty() && members.slices().is_empty());
    }
}
