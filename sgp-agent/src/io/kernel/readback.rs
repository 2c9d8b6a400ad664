//! Reads back what is installed.

use std::collections::BTreeSet;

use anyhow::Result;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{MapData, MapError};
use sgp_common::Addr;
use sgp_common::trunk::NOTHING;

use super::attachment::Attachment;
use super::early;
use super::maps::{Maps, PinDirs, digest};
use super::succession;
use crate::domain::groups::{EndpointId, GroupSetId};
use crate::domain::installed::{Installed, Link};
use crate::domain::membership::Peers;
use crate::domain::prefix::Prefix;

/// What a trie of prefixes holds.
pub(super) fn prefixes(trie: &LpmTrie<MapData, Addr, u8>) -> BTreeSet<Prefix> {
    trie.keys().flatten().map(|key| (key.prefix_len(), key.data())).collect()
}

fn told((id, told): (usize, Result<u32, MapError>)) -> Option<(u16, u32)> {
    Some((id as u16, told.ok().filter(|told| *told != NOTHING)?))
}

/// Every program that is attached, and the layout of an older data path where its programs still judge.
///
/// # Errors
/// Where a link cannot be read.
pub fn attached(dirs: &PinDirs) -> Result<(BTreeSet<Link>, Option<u32>)> {
    attached_by(dirs, Attachment::offered()?)
}

fn attached_by(dirs: &PinDirs, attachment: Attachment) -> Result<(BTreeSet<Link>, Option<u32>)> {
    let mut links = attachment.links(dirs)?;
    links.append(&mut early::links(dirs)?);
    let predecessor = succession::predecessor(dirs)?;
    if let Some((_, old)) = &predecessor {
        links.append(&mut attachment.links(old)?);
    }
    Ok((links, predecessor.map(|(version, _)| version)))
}

/// Reads back everything under the pins but for peers, by the attachment that is in use.
pub(super) fn read_back(maps: &Maps, dirs: &PinDirs, attachment: Attachment) -> Result<Installed> {
    let sets: Vec<GroupSetId> = maps.policies.keys().flatten().map(GroupSetId).collect();
    let policies = sets.into_iter().filter_map(|id| Some((id, digest(&maps.policy(id)?)))).collect();
    let (links, predecessor) = attached_by(dirs, attachment)?;
    Ok(Installed {
        policies,
        revisions: maps.revisions.iter().flatten().map(|(id, revision)| (GroupSetId(id), revision)).collect(),
        peers: Peers::new(),
        endpoints: maps.endpoints.iter().flatten().map(|(id, value)| (EndpointId(id), value)).collect(),
        names: maps.names.iter().flatten().map(|(id, value)| (EndpointId(id), value)).collect(),
        interfaces: maps.interfaces.iter().flatten().collect(),
        local: maps.local.iter().flatten().map(|(addr, id)| (addr, EndpointId(id))).collect(),
        node: maps.node.get(&0, 0).ok().filter(|node| node.ifindex != 0),
        vlans: maps.vlans.iter().enumerate().filter_map(told).collect(),
        excluded: prefixes(&maps.excluded),
        stack_nets: prefixes(&maps.stack_nets),
        links,
        predecessor,
    })
}
