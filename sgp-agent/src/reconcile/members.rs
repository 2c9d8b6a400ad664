//! Memberships that the controller publishes, on their way into the kernel. What only concerns peers does not wait for a
//! round: it is one write for each address that has other groups now. Rounds take in all the rest.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::{Stream, StreamExt};
use sgp_common::Addr;
use tokio::sync::Notify;
use tracing::{info, warn};

use super::Reconciler;
use crate::domain::desired::Desired;
use crate::domain::enforcement::Revoked;
use crate::domain::groups::GroupSetId;
use crate::domain::membership::{Changes, Membership, Published};
use crate::domain::observed::Scope;
use crate::domain::plan::Step;
use crate::io::ec2::Cloud;
use crate::io::kernel::Kernel;
use crate::io::kubernetes::Heard;
use crate::telemetry::metrics::Metrics;

/// Who says who is a member of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MembershipFrom {
    /// The controller's slices where it publishes them, else EC2
    #[default]
    Auto,
    /// The controller's slices; without them nothing is taken away and no pod starts
    Slices,
    /// EC2, which each agent asks for all interfaces of the VPC
    Ec2,
}

/// What is known of memberships, and what of it may go into the kernel without a round.
pub struct Members {
    from: MembershipFrom,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    merged: Membership,
    /// The first list is complete.
    listed: bool,
    /// The index as it was seen last, and when it became so.
    beat: Option<(u64, Instant)>,
    /// Somebody withdrew what is published.
    withdrawn: bool,
    /// Addresses that changed since a round looked.
    news: BTreeSet<Addr>,
    /// What the last round enforced; `None` where it did not enforce what is published.
    enforced: Option<Enforced>,
}

/// What a round that succeeded has brought into the kernel.
#[derive(Clone, Default)]
struct Enforced {
    /// Group sets that installed policies know.
    sets: BTreeSet<GroupSetId>,
    /// Addresses of which EC2 told this node itself.
    own: BTreeSet<Addr>,
}

impl Members {
    /// Nothing is known yet.
    pub fn new(from: MembershipFrom) -> Self {
        Self { from, state: Mutex::default() }
    }

    /// What to ask EC2 of; `None` as long as nobody can know.
    pub fn scope(&self) -> Option<Scope> {
        let state = self.state();
        match self.from {
            MembershipFrom::Ec2 => Some(Scope::Vpc),
            MembershipFrom::Slices => Some(Scope::Node),
            MembershipFrom::Auto if !state.listed => None,
            MembershipFrom::Auto if state.beat.is_some() && !state.withdrawn => Some(Scope::Node),
            MembershipFrom::Auto => Some(Scope::Vpc),
        }
    }

    /// What is published, for a round; `None` until all of it was heard.
    pub fn published(&self) -> Option<Arc<Published>> {
        let mut state = self.state();
        if !state.listed || state.beat.is_none() {
            return None;
        }
        state.news.clear();
        Some(Arc::new(Published { peers: state.merged.peers().clone(), group_sets: state.merged.group_sets() }))
    }

    /// When somebody who looks after the slices was heard last.
    pub fn heard(&self) -> Option<Instant> {
        self.state().beat.map(|(_, at)| at)
    }

    /// Brings what came during a round into what it wants, where its policies know the groups.
    pub(super) fn overlay(&self, desired: &mut Desired, published: &Published, own: &BTreeSet<Addr>) {
        let state = self.state();
        let known = published.group_sets.iter().map(|set| set.id()).collect::<BTreeSet<_>>();
        for addr in state.news.difference(own) {
            match state.merged.of(addr) {
                None => drop(desired.peers.remove(addr)),
                Some(set) if known.contains(&set) => drop(desired.peers.insert(*addr, set)),
                Some(_) => {}
            }
        }
    }

    /// What a round has enforced; whether what came meanwhile needs another.
    pub fn enforced(&self, published: Option<&Published>, own: BTreeSet<Addr>) -> bool {
        let mut state = self.state();
        let sets: Option<BTreeSet<GroupSetId>> =
            published.map(|published| published.group_sets.iter().map(|set| set.id()).collect());
        state.enforced = sets.map(|sets| Enforced { sets, own });
        let Some(enforced) = &state.enforced else { return false };
        let unknown = |addr: &Addr| state.merged.of(addr).is_some_and(|set| !enforced.sets.contains(&set));
        state.news.iter().any(unknown)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something in, and leaves it to the next round.
    pub fn hear(&self, heard: Heard) {
        self.take(heard);
    }

    /// Takes something in: what can go straight into the kernel, and whether a round is needed.
    fn take(&self, heard: Heard) -> (Vec<Addr>, bool) {
        let mut state = self.state();
        let (changes, mut round) = match heard {
            Heard::Slice(name, slice) => (state.merged.update(&name, slice), false),
            Heard::Beat(beat) => (Changes::new(), state.beaten(beat)),
            Heard::All(names) => {
                let first = !std::mem::replace(&mut state.listed, true);
                (state.merged.retain(&names), first)
            }
        };
        state.news.extend(changes.keys());
        let Some(enforced) = &state.enforced else { return (Vec::new(), round) };
        let mut direct = Vec::new();
        for (addr, set) in changes {
            let known = set.is_none_or(|set| enforced.sets.contains(&set));
            match (enforced.own.contains(&addr), known) {
                (true, _) => {}
                (false, true) => direct.push(addr),
                (false, false) => round = true,
            }
        }
        (direct, round)
    }
}

impl State {
    /// Whether who says what is another now.
    fn beaten(&mut self, beat: Option<u64>) -> bool {
        let before = (self.beat.is_some(), self.withdrawn);
        self.withdrawn = beat.is_none();
        if let Some(beat) = beat.filter(|beat| self.beat.is_none_or(|(known, _)| known != *beat)) {
            self.beat = Some((beat, Instant::now()));
        }
        before != (self.beat.is_some(), self.withdrawn)
    }
}

/// Whom news concerns that does not go straight into the kernel.
pub struct Nudges {
    /// The loop.
    pub changed: Arc<Notify>,
    /// Whoever asks EC2.
    pub look: Arc<Notify>,
    /// Whether rounds must see each change of members: flows are judged again for it.
    pub each: bool,
}

/// Follows what is published for as long as the process lives.
pub async fn follow<K: Kernel + 'static>(
    heard: impl Stream<Item = Heard>,
    members: Arc<Members>,
    kernel: Arc<Mutex<K>>,
    nudges: Nudges,
    metrics: Arc<Metrics>,
) {
    let mut heard = std::pin::pin!(heard);
    while let Some(news) = heard.next().await {
        let of_source = !matches!(news, Heard::Slice(..));
        let (direct, round) = members.take(news);
        let written = write(&members, &kernel, direct).await;
        let (slices, addresses, beat) = {
            let state = members.state();
            (state.merged.slices().len(), state.merged.len(), state.beat)
        };
        metrics.members(slices, addresses, beat.map(|(_, at)| at));
        match &written {
            Ok(0) => {}
            Ok(count) => metrics.peers_written(*count),
            Err(error) => warn!(error = format!("{error:#}"), "a peer could not be written; a round tries again"),
        }
        if of_source && round {
            info!(slices, addresses, "heard of published memberships");
            nudges.look.notify_one();
        }
        if round || written.is_err() || (nudges.each && written.is_ok_and(|count| count > 0)) {
            nudges.changed.notify_one();
        }
    }
}

impl<C: Cloud, K: Kernel + 'static> Reconciler<C, K> {
    /// Beside the loop, where the controller is listened to.
    pub(super) fn follow_members(&self) {
        if self.members.from == MembershipFrom::Ec2 {
            return;
        }
        let each = self.enforcement.revoked == Revoked::IsCut;
        let nudges = Nudges { changed: Arc::clone(&self.changed), look: Arc::clone(&self.look_at_cloud), each };
        let (members, kernel, metrics) =
            (Arc::clone(&self.members), Arc::clone(&self.kernel), Arc::clone(&self.metrics));
        tokio::spawn(follow(self.kubernetes.memberships(), members, kernel, nudges, metrics));
    }
}

/// One write for each address, of what holds for it when the kernel is ours: a round may have come between.
async fn write<K: Kernel + 'static>(
    members: &Arc<Members>,
    kernel: &Arc<Mutex<K>>,
    direct: Vec<Addr>,
) -> anyhow::Result<usize> {
    if direct.is_empty() {
        return Ok(0);
    }
    let (members, kernel) = (Arc::clone(members), Arc::clone(kernel));
    let work = tokio::task::spawn_blocking(move || {
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        for addr in &direct {
            let now = members.state().merged.of(addr);
            kernel.apply(&now.map_or(Step::RemovePeer(*addr), |set| Step::PutPeer(*addr, set)))?;
        }
        anyhow::Ok(direct.len())
    });
    work.await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::groups::GroupSet;
    use crate::domain::membership::Slice;

    fn slice(group: &str, number: u8) -> Heard {
        let addresses = vec![sgp_common::addr::v4_mapped([10, 0, 0, number])];
        Heard::Slice(format!("of-{group}"), Some(Slice { groups: GroupSet::of([group]), generation: 1, addresses }))
    }

    #[test]
    fn ec2_is_asked_of_the_node_alone_only_while_a_controller_publishes() {
        let members = Members::new(MembershipFrom::Auto);
        assert_eq!(members.scope(), None, "nothing was heard yet");
        members.take(slice("sg-a", 1));
        members.take(Heard::All(["of-sg-a".to_owned()].into()));
        assert_eq!((members.scope(), members.published().is_some()), (Some(Scope::Vpc), false), "slices without index");
        assert!(members.take(Heard::Beat(Some(1))).1);
        assert_eq!((members.scope(), members.published().is_some()), (Some(Scope::Node), true));
        assert!(!members.take(Heard::Beat(Some(2))).1, "a beat alone needs no round");
        assert!(members.take(Heard::Beat(None)).1);
        assert_eq!(
            (members.scope(), members.published().is_some()),
            (Some(Scope::Vpc), true),
            "until EC2 has answered"
        );
    }

    #[test]
    fn a_peer_goes_straight_into_the_kernel_only_with_groups_that_policies_know() {
        let members = Members::new(MembershipFrom::Auto);
        members.take(slice("sg-a", 1));
        members.take(Heard::Beat(Some(1)));
        members.take(Heard::All(["of-sg-a".to_owned()].into()));
        assert_eq!(members.take(slice("sg-a", 2)).0, [], "no round was yet");
        let published = members.published();
        assert!(!members.enforced(published.as_deref(), BTreeSet::new()));
        assert_eq!(members.take(slice("sg-a", 3)).0.len(), 2, "one came and one went");
        assert_eq!(members.take(slice("sg-b", 4)), (Vec::new(), true), "policies first");
        assert!(members.enforced(published.as_deref(), BTreeSet::new()), "and what came during a round, too");
    }
}
