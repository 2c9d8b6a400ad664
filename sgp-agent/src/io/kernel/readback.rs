//! Reads back what is installed.

use std::collections::BTreeSet;

use anyhow::Result;

use super::attachment::Attachment;
use super::maps::{Maps, PinDirs, digest};
use super::succession;
use crate::domain::groups::{EndpointId, GroupSetId};
use crate::domain::installed::Installed;
use crate::domain::leaving::Excluded;

/// Destinations that `SNAT_EXCLUDED` holds.
pub(super) fn excluded(maps: &Maps) -> BTreeSet<Excluded> {
    maps.excluded.keys().flatten().map(|key| (key.prefix_len(), key.data())).collect()
}

/// Reads back everything under the pins.
///
/// # Errors
/// Where a link cannot be read.
pub fn installed(maps: &Maps, dirs: &PinDirs) -> Result<Installed> {
    read_back(maps, dirs, Attachment::offered()?)
}

/// Likewise, by the attachment that is in use.
pub(super) fn read_back(maps: &Maps, dirs: &PinDirs, attachment: Attachment) -> Result<Installed> {
    let sets: Vec<GroupSetId> = maps.policies.keys().flatten().map(GroupSetId).collect();
    let policies = sets.into_iter().filter_map(|id| Some((id, digest(&maps.policy(id)?)))).collect();
    let mut links = attachment.links(dirs)?;
    let predecessor = succession::predecessor(dirs)?;
    if let Some((_, old)) = &predecessor {
        links.append(&mut attachment.links(old)?);
    }
    Ok(Installed {
        policies,
        revisions: maps.revisions.iter().flatten().map(|(id, revision)| (GroupSetId(id), revision)).collect(),
        peers: maps.peers.iter().flatten().map(|(addr, peer)| (addr, GroupSetId(peer.group_set))).collect(),
        endpoints: maps.endpoints.iter().flatten().map(|(id, value)| (EndpointId(id), value)).collect(),
        names: maps.names.iter().flatten().map(|(id, value)| (EndpointId(id), value)).collect(),
        interfaces: maps.interfaces.iter().flatten().collect(),
        local: maps.local.iter().flatten().map(|(addr, id)| (addr, EndpointId(id))).collect(),
        node: maps.node.get(&0, 0).ok().filter(|node| node.ifindex != 0),
        excluded: excluded(maps),
        links,
        predecessor: predecessor.map(|(version, _)| version),
    })
}
