//! Publishes who is a member of what: EC2 says it, Kubernetes says when to ask.
//!
//! Whoever leads reads what is published and goes on from there; each write wants the object as it was read, so one who lost
//! the Lease and does not know it yet changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{info, warn};

use super::{Role, Settings};
use crate::domain::membership::Slice;
use crate::domain::observed::NetworkInterface;
use crate::domain::packing::{Members, Write, pack};
use crate::io::ec2::Account;
use crate::io::kubernetes::{Cluster, Slices, Unwritten};

/// News gathers this long.
const TICK: Duration = Duration::from_secs(1);
/// At least this long between two writes: 50 a second, of the API server's hundreds.
const BETWEEN_WRITES: Duration = Duration::from_millis(20);
/// How often agents hear that somebody looks after the slices. They call them stale after three of these.
const BEAT: Duration = Duration::from_secs(30);

/// Publishes while this replica leads.
pub(super) async fn keep(cluster: &Cluster, settings: &Settings, mut role: watch::Receiver<Role>) {
    let account = Account::connect().await;
    while role.wait_for(|role| *role == Role::Leader).await.is_ok() {
        let mut lost = role.clone();
        tokio::select! {
            () = publish(&account, cluster.slices(), settings) => {}
            _ = lost.wait_for(|role| *role == Role::Standby) => {}
        }
    }
}

async fn publish(account: &Account, slices: Slices, settings: &Settings) {
    let mut annotated = std::pin::pin!(slices.annotated());
    let mut publisher = Publisher::new(account, slices, settings.slice_size);
    let (mut tick, mut told) = (interval(TICK), String::new());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(ids) = annotated.next() => {
                publisher.named.extend(ids.into_iter().filter(|id| !publisher.interfaces.contains_key(id)));
                continue;
            }
            _ = tick.tick() => {}
        }
        let text =
            publisher.round(settings.membership_poll).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        if !text.is_empty() && text != told {
            warn!(error = text, "memberships cannot be published; what is published stays");
        }
        told = text;
    }
}

/// What is known, and what of it is published.
struct Publisher<'a> {
    account: &'a Account,
    slices: Slices,
    /// Most addresses of a slice that is filled.
    size: usize,
    interfaces: BTreeMap<String, NetworkInterface>,
    /// Interfaces that pods have and EC2 was not asked of yet.
    named: BTreeSet<String>,
    /// `None`: to be read first.
    published: Option<BTreeMap<String, Slice>>,
    looked: Option<Instant>,
    beat: u64,
    beaten: Option<Instant>,
}

impl<'a> Publisher<'a> {
    fn new(account: &'a Account, slices: Slices, size: usize) -> Self {
        let (interfaces, named) = (BTreeMap::new(), BTreeSet::new());
        Self { account, slices, size, interfaces, named, published: None, looked: None, beat: 0, beaten: None }
    }

    async fn round(&mut self, every: Duration) -> Result<()> {
        let news = self.ask(every).await?;
        if self.published.is_none() {
            let (published, beat) = self.slices.read().await.map_err(|error| anyhow!(error))?;
            (self.published, self.beat) = (Some(published), self.beat.max(beat));
        } else if !news && self.beaten.is_some_and(|at| at.elapsed() < BEAT) {
            return Ok(());
        }
        let written = self.write().await;
        if written.is_err() {
            self.published = None;
        }
        match written {
            // The next round reads them anew, a tick later.
            Ok(()) | Err(Unwritten::Conflict) => Ok(()),
            Err(Unwritten::Failed(error)) => Err(anyhow!(error)),
        }
    }

    /// Asks EC2 of everything when it is time, else of what pods have got since. Whether anything is different.
    async fn ask(&mut self, every: Duration) -> Result<bool> {
        if self.looked.is_none_or(|at| at.elapsed() >= every) {
            let groups = self.account.referenced().await?;
            let found = self.account.carrying(&groups).await?;
            self.looked = Some(Instant::now());
            let news = members(&found) != members(&self.interfaces);
            self.interfaces = found;
            return Ok(news);
        }
        if self.named.is_empty() {
            return Ok(false);
        }
        let found = self.account.named(&self.named).await?;
        // One that EC2 does not know is a lie or a moment old; the next look at everything has it if there is one.
        self.named.clear();
        let news = !found.is_empty();
        self.interfaces.extend(found);
        Ok(news)
    }

    async fn write(&mut self) -> Result<(), Unwritten> {
        let Some(published) = &mut self.published else { return Ok(()) };
        let writes = pack(published, &members(&self.interfaces), self.size);
        let count = writes.len();
        for write in writes {
            let next = Instant::now() + BETWEEN_WRITES;
            match write {
                Write::Put(name, slice) => {
                    self.slices.put(&name, &slice).await?;
                    published.insert(name, slice);
                }
                Write::Delete(name) => {
                    self.slices.delete(&name).await?;
                    published.remove(&name);
                }
            }
            sleep_until(next).await;
        }
        if count > 0 {
            info!(
                writes = count,
                slices = published.len(),
                interfaces = self.interfaces.len(),
                "published memberships"
            );
        }
        if self.beaten.is_none_or(|at| at.elapsed() >= BEAT) {
            self.beat += 1;
            self.slices.beat(self.beat).await?;
            self.beaten = Some(Instant::now());
        }
        Ok(())
    }
}

fn members(interfaces: &BTreeMap<String, NetworkInterface>) -> Members {
    let mut members = Members::default();
    for eni in interfaces.values() {
        eni.members().for_each(|address| members.put(address, &eni.groups));
    }
    members
}
