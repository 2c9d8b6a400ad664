//! `PEERS`, which may be too large to be read in each round: read after each sweep, and known from then on by what was written.

use std::cell::RefCell;

use anyhow::{Context, Result};
use sgp_common::Addr;
use sgp_common::policy::Peer;

use super::maps::{self, Maps, gone};
use crate::domain::groups::GroupSetId;
use crate::domain::membership::Peers;

/// What the table holds; nothing where it must be read again. What somebody else wrote is seen then.
#[derive(Default)]
pub(super) struct Known(RefCell<Option<Peers>>);

impl Known {
    /// What the table holds.
    pub(super) fn get(&self, maps: &Maps) -> Result<Peers> {
        let known = self.0.borrow().clone();
        let peers = known.map_or_else(|| read(maps), Ok)?;
        self.0.replace(Some(peers.clone()));
        Ok(peers)
    }

    /// Has it read again.
    pub(super) fn forget(&mut self) {
        self.0.take();
    }

    /// Writes one peer, or removes it.
    pub(super) fn put(&mut self, maps: &mut Maps, addr: &Addr, set: Option<GroupSetId>) -> Result<()> {
        // After an error nobody knows.
        let mut known = self.0.take();
        match set {
            Some(set) => {
                maps.peers.insert(addr, Peer { group_set: set.0 }, 0).context("PEERS has no room for a peer")?
            }
            None => gone(maps.peers.remove(addr)).context("writing PEERS")?,
        }
        if let Some(peers) = &mut known {
            match set {
                Some(set) => peers.insert(*addr, set),
                None => peers.remove(addr),
            };
        }
        self.0.replace(known);
        Ok(())
    }
}

/// Reads the table.
pub(super) fn read(maps: &Maps) -> Result<Peers> {
    let mut all = Vec::new();
    maps::each(&maps.peers, |addr, peer| all.push((addr, GroupSetId(peer.group_set)))).context("reading PEERS")?;
    // In order it is built faster.
    all.sort_unstable();
    Ok(all.into_iter().collect())
}
