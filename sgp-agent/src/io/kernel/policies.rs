//! Building policies and swapping them in.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use aya::maps::{Map, MapData};
use sgp_common::pins::map;
use sgp_common::policy::RuleName;

use super::maps::{Maps, PinDirs, PolicyTrie, gone, policy_name};
use super::sys;
use crate::domain::compile::padded;
use crate::domain::desired::Policy;
use crate::domain::groups::GroupSetId;

/// Builds a policy beside the old one, then swaps it in with one pointer write. Its rules' names are there
/// first, so that whoever reads a rule's index can name it. Waits for readers of the old one (RCU, some
/// milliseconds): not for an async thread.
///
/// # Errors
/// Where the kernel has no room; the old policy then stays.
pub(super) fn put(maps: &mut Maps, dirs: &PinDirs, id: GroupSetId, policy: &Policy) -> Result<()> {
    let name = policy_name(id);
    for (key, name) in &policy.names {
        let value = RuleName { rule_id: padded(&name.rule_id), group_id: padded(&name.group_id) };
        maps.rule_names.insert(key, value, 0).with_context(|| format!("RULE_NAMES has no room for policy {name}"))?;
    }
    let trie = build(dirs, &name, policy).with_context(|| format!("building policy {name}"))?;
    maps.policies.insert(id.0, &trie, 0).with_context(|| format!("POLICIES has no room for policy {name}"))?;
    pin(dirs, id, trie)
}

fn build(dirs: &PinDirs, name: &str, policy: &Policy) -> Result<PolicyTrie> {
    let shape = sys::open_pin(&dirs.map(map::POLICY_SHAPE)).context("opening POLICY_SHAPE")?;
    let room = policy.trie.len().max(1) as u32;
    let fd = sys::create_like(shape.as_fd(), room, name)?;
    let mut trie: PolicyTrie = Map::from_map_data(MapData::from_fd(fd)?)?.try_into()?;
    for ((bits, selector), answer) in &policy.trie {
        trie.insert(&Key::new(*bits, *selector), answer, 0).context("filling the trie")?;
    }
    Ok(trie)
}

/// The pin is for people and bpftool; programs reach the policy through POLICIES.
fn pin(dirs: &PinDirs, id: GroupSetId, trie: PolicyTrie) -> Result<()> {
    let path = dirs.policy(id);
    let passing = path.with_extension("");
    let passing = passing.with_file_name(format!("{}_new", policy_name(id)));
    drop(fs::remove_file(&passing));
    trie.pin(&passing).with_context(|| format!("pinning {}", path.display()))?;
    fs::rename(&passing, &path).with_context(|| format!("renaming the pin to {}", path.display()))
}

/// Forgets a policy. Endpoints of its group set, if there were any, would drop with `NoPolicy`.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn remove(maps: &mut Maps, dirs: &PinDirs, id: GroupSetId) -> Result<()> {
    gone(maps.policies.remove(&id.0)).with_context(|| format!("removing policy {}", policy_name(id)))?;
    // The pin may have gone with an earlier try.
    drop(fs::remove_file(dirs.policy(id)));
    Ok(())
}

/// Removes the names of rules that neither an installed policy nor a flow speaks of any more; `known` are the digests of
/// policies that flows speak of.
///
/// # Errors
/// Where a map cannot be read or written.
pub(super) fn forget_names(maps: &mut Maps, mut known: BTreeSet<u64>) -> Result<usize> {
    let ids: Vec<u64> = maps.policies.keys().flatten().collect();
    known.extend(ids.into_iter().filter_map(|id| maps.policy(GroupSetId(id))).map(|trie| super::maps::digest(&trie)));
    let stale: Vec<_> = maps.rule_names.keys().flatten().filter(|key| !known.contains(&key.policy_digest)).collect();
    for key in &stale {
        gone(maps.rule_names.remove(key)).context("forgetting the name of a rule")?;
    }
    Ok(stale.len())
}
