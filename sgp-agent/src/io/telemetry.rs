//! Sampled events of the data path, and what its programs log.

use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::RingBuf;
use sgp_common::event::Event;
use sgp_common::pins::map;
use sgp_common::{Addr, Direction};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Follows the ring of events for as long as the process lives. A ring has one reader: two would each see a part.
///
/// # Errors
/// Where the ring cannot be opened or read, or `tell` fails.
pub async fn follow(pin: &Path, mut tell: impl FnMut(&Event) -> Result<()> + Send) -> Result<()> {
    let data = aya::maps::MapData::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
    let mut ring: RingBuf<_> = aya::maps::Map::from_map_data(data)?.try_into().context("the events are no ring")?;
    // SAFETY: the ring outlives `ready`: both live until this function ends, and `ready` is dropped first.
    let ready = unsafe { AsyncFd::register_with_interest(ring.as_raw_fd(), Interest::READABLE) };
    let ready = ready.context("waiting for events")?;
    loop {
        let mut guard = ready.readable().await.context("waiting for events")?;
        while let Some(item) = ring.next() {
            if let Some(event) = read(&item) {
                tell(&event)?;
            }
        }
        guard.clear_ready();
    }
}

/// Name of the pinned ring.
pub const RING: &str = map::EVENTS;

fn read(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: written by our own program of this ABI; unaligned because the ring promises only 8 bytes.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The word for a direction.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// As people write it: IPv4 without its mapping.
pub fn address(addr: &Addr) -> IpAddr {
    Ipv6Addr::from(addr.bytes).to_canonical()
}

/// Passes on what the programs log through aya-log, for as long as the process lives. All programs of one
/// object log to one ring; any of their ids finds it.
///
/// # Errors
/// Where the ring cannot be found or read.
pub async fn follow_log(program_id: u32) -> Result<()> {
    let logger = aya_log::EbpfLogger::init_from_id(program_id).context("finding the log of the data path")?;
    // SAFETY: `ready` owns the logger, whose descriptor stays the same.
    let ready = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut ready = ready.context("waiting for log lines")?;
    loop {
        let mut guard = ready.readable_mut().await.context("waiting for log lines")?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
