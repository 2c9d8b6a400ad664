//! Entries that a program holds on to while it judges a packet.
//!
//! A hash map of the kernel replaces an entry by another, and gives the slot of the old one to the next entry at once. A
//! program that still reads the old one would then see a stranger's. So after a slot is freed, and before the next one is
//! filled, all programs are waited for: a grace period of RCU, some 10 ms, and only where something that stood is changed or
//! taken away and something else is written after it.

use std::mem;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, MapData};

use super::maps::gone;
use super::sys;

/// Whether programs may still be reading a slot that the kernel thinks is free.
#[derive(Debug, Default)]
pub(super) struct Slots {
    freed: bool,
}

impl Slots {
    /// Writes an entry, if it is not there already.
    ///
    /// # Errors
    /// Where the map has no room, or may not be written.
    pub(super) fn put<K: Pod, V: Pod + PartialEq>(
        &mut self,
        map: &mut HashMap<MapData, K, V>,
        name: &'static str,
        key: K,
        value: V,
    ) -> Result<()> {
        let old = map.get(&key, 0).ok();
        if old == Some(value) {
            return Ok(());
        }
        if mem::take(&mut self.freed) {
            sys::wait_for_programs();
        }
        map.insert(key, value, 0).with_context(|| format!("writing {name}"))?;
        self.freed = old.is_some();
        Ok(())
    }

    /// Takes an entry away, if it is there.
    ///
    /// # Errors
    /// Where the map may not be written.
    pub(super) fn remove<K: Pod, V: Pod>(
        &mut self,
        map: &mut HashMap<MapData, K, V>,
        name: &'static str,
        key: &K,
    ) -> Result<()> {
        self.freed = true;
        gone(map.remove(key)).with_context(|| format!("writing {name}"))
    }
}
