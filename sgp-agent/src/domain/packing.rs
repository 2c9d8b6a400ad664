//! How memberships are packed into slices: what is to be written where something changed.
//!
//! As with EndpointSlices, an address stays where it is: holes are filled, nothing is reshuffled. Whoever reads the writes
//! in order finds, at each moment, every address that was a member and still is one; it has its old group set or its new
//! one. So what comes is written before what goes.

use std::collections::{BTreeMap, BTreeSet};

use sgp_common::Addr;

use super::groups::{GroupSet, GroupSetId};
use super::membership::Slice;

/// Who should be a member of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Group sets by their ids.
    pub sets: BTreeMap<GroupSetId, GroupSet>,
    /// The group set of each address.
    pub of: BTreeMap<Addr, GroupSetId>,
}

impl Members {
    /// Says of an address what groups it carries; what was said of it before does not count. No groups are none.
    pub fn put(&mut self, addr: Addr, groups: &GroupSet) {
        if groups.0.is_empty() {
            self.of.remove(&addr);
            return;
        }
        let id = groups.id();
        self.sets.entry(id).or_insert_with(|| groups.clone());
        self.of.insert(addr, id);
    }
}

/// One object to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Make it or write it over.
    Put(String, Slice),
    /// Delete it.
    Delete(String),
}

/// A slice on its way from what is published to what should be.
#[derive(Default)]
struct Draft {
    groups: GroupSet,
    /// What it has now and keeps.
    stays: BTreeSet<Addr>,
    /// What it has now and somebody else will have: written out once that is written.
    leaves: BTreeSet<Addr>,
    /// What it has now and nobody will have from it.
    drops: usize,
    comes: BTreeSet<Addr>,
    /// Whether what comes was written already, while something still had to leave.
    halfway: bool,
}

impl Draft {
    fn is_touched(&self) -> bool {
        self.drops > 0 || !self.comes.is_empty() || !self.leaves.is_empty()
    }

    /// What leaves needs its place until then.
    fn room(&self, limit: usize) -> usize {
        limit.saturating_sub(self.stays.len() + self.leaves.len() + self.comes.len())
    }
}

/// The writes, in order, that lead from what is published to what should be; none where it is all right already. No slice has
/// more than `limit` addresses at any moment, if none has now.
pub fn pack(published: &BTreeMap<String, Slice>, wanted: &Members, limit: usize) -> Vec<Write> {
    let (mut drafts, homeless) = drafts(published, wanted);
    let mut homes: BTreeMap<Addr, String> = BTreeMap::new();
    for (set, addresses) in homeless {
        let Some(groups) = wanted.sets.get(&set) else { continue };
        place(&mut drafts, &mut homes, groups, addresses, limit);
    }
    let next = published.values().map(|slice| slice.generation).max().unwrap_or_default() + 1;
    Order { published, drafts, homes, next, writes: Vec::new() }.write()
}

/// Sorts what is published into what stays, leaves and is dropped; and who is nowhere yet, by group set.
fn drafts(
    published: &BTreeMap<String, Slice>,
    wanted: &Members,
) -> (BTreeMap<String, Draft>, BTreeMap<GroupSetId, Vec<Addr>>) {
    let (mut at_home, mut drafts) = (BTreeSet::new(), BTreeMap::new());
    for (name, slice) in published {
        let mut draft = Draft { groups: slice.groups.clone(), ..Draft::default() };
        let id = slice.groups.id();
        for addr in &slice.addresses {
            match wanted.of.get(addr) {
                Some(set) if *set == id && at_home.insert(*addr) => drop(draft.stays.insert(*addr)),
                Some(set) if *set != id => drop(draft.leaves.insert(*addr)),
                _ => draft.drops += 1,
            }
        }
        drafts.insert(name.clone(), draft);
    }
    let mut homeless: BTreeMap<GroupSetId, Vec<Addr>> = BTreeMap::new();
    for (addr, set) in wanted.of.iter().filter(|(addr, _)| !at_home.contains(*addr)) {
        homeless.entry(*set).or_default().push(*addr);
    }
    (drafts, homeless)
}

/// Into slices that are written anyway, then into the emptiest, so that few are; then into new ones.
fn place(
    drafts: &mut BTreeMap<String, Draft>,
    homes: &mut BTreeMap<Addr, String>,
    groups: &GroupSet,
    addresses: Vec<Addr>,
    limit: usize,
) {
    let mut rest = addresses.into_iter().peekable();
    let with_room = |(name, draft): (&String, &Draft)| {
        let room = draft.room(limit);
        (draft.groups == *groups && room > 0).then(|| (!draft.is_touched(), usize::MAX - room, name.clone()))
    };
    let there: BTreeSet<(bool, usize, String)> = drafts.iter().filter_map(with_room).collect();
    let id = groups.id().0;
    let new = (0_u32..).map(|number| format!("members-{id:016x}-{number}"));
    for name in there.into_iter().map(|(_, _, name)| name).chain(new) {
        if rest.peek().is_none() {
            return;
        }
        let draft = drafts.entry(name.clone()).or_insert_with(|| Draft { groups: groups.clone(), ..Draft::default() });
        let room = if draft.groups == *groups { draft.room(limit) } else { 0 };
        for addr in rest.by_ref().take(room) {
            draft.comes.insert(addr);
            homes.insert(addr, name.clone());
        }
    }
}

/// Brings writes into an order.
struct Order<'a> {
    published: &'a BTreeMap<String, Slice>,
    drafts: BTreeMap<String, Draft>,
    /// Where those go that were nowhere yet.
    homes: BTreeMap<Addr, String>,
    next: u64,
    writes: Vec<Write>,
}

impl Order<'_> {
    /// A slice is written once all that leaves it is written elsewhere. Where slices wait for each other, one of them is
    /// written twice: first with what comes.
    fn write(mut self) -> Vec<Write> {
        let mut open: BTreeSet<String> =
            self.drafts.iter().filter(|(_, draft)| draft.is_touched()).map(|(name, _)| name.clone()).collect();
        while let Some(first) = open.first().cloned() {
            let ready: Vec<String> =
                open.iter().filter(|name| self.waits_for(name, &open).is_empty()).cloned().collect();
            for name in &ready {
                open.remove(name);
                self.put(name, BTreeSet::new());
            }
            if ready.is_empty() {
                let halfway = |name: &&String| self.drafts.get(*name).is_some_and(|draft| draft.halfway);
                let name = open.iter().find(|name| !halfway(name)).cloned().unwrap_or(first);
                let still = self.waits_for(&name, &open);
                self.put(&name, still);
                self.drafts.entry(name).or_default().halfway = true;
            }
        }
        self.writes
    }

    /// What leaves a slice and is not written elsewhere yet.
    fn waits_for(&self, name: &str, open: &BTreeSet<String>) -> BTreeSet<Addr> {
        let unwritten = |home: &String| {
            open.contains(home) && home != name && self.drafts.get(home).is_some_and(|draft| !draft.halfway)
        };
        let leaves = self.drafts.get(name).into_iter().flat_map(|draft| &draft.leaves);
        leaves.filter(|addr| self.homes.get(*addr).is_some_and(unwritten)).copied().collect()
    }

    fn put(&mut self, name: &str, still: BTreeSet<Addr>) {
        let Some(draft) = self.drafts.get(name) else { return };
        let all: BTreeSet<Addr> = draft.stays.iter().chain(&draft.comes).copied().chain(still).collect();
        if all.is_empty() {
            self.writes.extend(self.published.contains_key(name).then(|| Write::Delete(name.to_owned())));
            return;
        }
        let slice = Slice { groups: draft.groups.clone(), generation: self.next, addresses: all.into_iter().collect() };
        self.next += 1;
        self.writes.push(Write::Put(name.to_owned(), slice));
    }
}

#[cfg(test)]
mod tests;
