//! The loop: observe, desire, plan, apply. The only place where the pure core meets the world.
//!
//! Level-triggered: any news only marks the world dirty; the loop then looks at all of it. Node steps are
//! applied at once; cloud steps run beside the loop, each object backing off by itself, so that EC2 never
//! holds up the data path.

mod dispatch;
mod enforce;
mod members;
mod poll;
mod provision;
mod status;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sgp_common::Addr;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::domain::branches::CloudStep;
use crate::domain::desired::{Desired, Refusal, own_peers};
use crate::domain::enforcement::{Enforcement, Shortcuts};
use crate::domain::groups::GroupSet;
use crate::domain::installed::Installed;
use crate::domain::memo::Memo;
use crate::domain::observed::{CloudFacts, Observed, Scope};
use crate::domain::settings::Settings;
use crate::io::ec2::Cloud;
use crate::io::kernel::{Kernel, shared, without_ours};
use crate::io::kubernetes::Kubernetes;
use crate::io::netlink::Netlink;
use crate::telemetry::metrics::Metrics;

pub use dispatch::{Dispatch, Rates};
pub use enforce::apply;
pub use members::{Members, MembershipFrom, Nudges, follow};
pub use poll::{Described, denied, poll};
pub use provision::{Provisioner, Round};
pub use status::{Status, Synced, next_round};
use tell::Told;

/// How long news may gather before the loop looks.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The loop looks this often even without news.
const RESYNC: Duration = Duration::from_secs(30);
/// Nor does it look more often than this without news; and this long after a round that failed, then twice that, until it is
/// [`RESYNC`].
const SOON: Duration = Duration::from_millis(100);

/// The loop and what it works with.
pub struct Reconciler<C: Cloud, K: Kernel> {
    /// Name of this node.
    pub node: String,
    /// Kubernetes.
    pub kubernetes: Arc<Kubernetes>,
    /// EC2.
    pub cloud: Arc<C>,
    /// The data path.
    pub kernel: Arc<Mutex<K>>,
    /// The node's links.
    pub netlink: Netlink,
    /// Trunk and branches.
    pub provisioner: Arc<Mutex<Provisioner>>,
    /// The operator's choices, by AWS's environment variables.
    pub settings: Settings,
    /// The operator's choices.
    pub enforcement: Enforcement,
    /// Whether branches are made here or by someone else.
    pub provision: Provision,
    /// What EC2 said last.
    pub facts: watch::Receiver<Option<Arc<Described>>>,
    /// What the controller publishes.
    pub members: Arc<Members>,
    /// Asks for another look at EC2, now.
    pub look_at_cloud: Arc<Notify>,
    /// Marks the world dirty.
    pub changed: Arc<Notify>,
    /// Where rounds and steps are counted.
    pub metrics: Arc<Metrics>,
    /// Where the outcome of each round goes.
    pub status: watch::Sender<Status>,
}

/// Who makes trunk and branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Provision {
    /// This agent, by calling EC2.
    #[value(name = "self")]
    Own,
    /// Somebody else, AWS's resource controller for example; the agent enforces what it finds.
    Observe,
}

/// What the loop remembers between rounds; none of it decides anything but when.
struct Memory {
    begun: Instant,
    told: Told,
    look_in: Duration,
    /// How long to wait should the next round fail.
    retry_in: Duration,
    last_sweep: Option<Instant>,
    /// See `Observed::former_group_sets`.
    group_sets: BTreeSet<GroupSet>,
    policies: Memo,
}

impl<C: Cloud, K: Kernel + 'static> Reconciler<C, K> {
    /// Runs for as long as the process lives.
    pub async fn run(self) {
        let mut memory = Memory {
            begun: Instant::now(),
            told: Told::default(),
            look_in: RESYNC,
            retry_in: SOON,
            last_sweep: None,
            group_sets: BTreeSet::new(),
            policies: Memo::default(),
        };
        let mut facts = self.facts.clone();
        self.follow_members();
        loop {
            // Before the round reads them: what arrives during the round is news for the next.
            facts.mark_unchanged();
            if let Err(error) = self.round(&mut memory).await {
                self.metrics.round(None, 0);
                memory.look_in = memory.retry_in;
                memory.retry_in = (memory.retry_in * 2).min(RESYNC);
                warn!(error = format!("{error:#}"), "a round of reconciliation failed; what is installed stays");
            }
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(DEBOUNCE).await,
                _ = facts.changed() => {}
                () = tokio::time::sleep(memory.look_in) => {}
            }
        }
    }

    async fn round(&self, memory: &mut Memory) -> Result<()> {
        let begun = Instant::now();
        let links = self.netlink.links().await.context("observing the node's links")?;
        let links = without_ours(links)?;
        let cloud = self.cloud_facts(memory);
        let of_node = cloud.as_ref().is_some_and(|cloud| cloud.scope == Scope::Node);
        let observed = Observed {
            cluster: self.kubernetes.facts(),
            published: if of_node { self.members.published() } else { None },
            cloud,
            own_addresses: match self.enforcement.shortcuts {
                Shortcuts::All => self.netlink.own_addresses().await?,
                Shortcuts::Off | Shortcuts::Auto => BTreeSet::new(),
            },
            shared: shared(&links, self.enforcement.shortcuts).await?,
            links: Some(links),
            enforcement: self.enforcement,
            settings: self.settings.clone(),
            former_group_sets: memory.group_sets.clone(),
        };
        let desired = Desired::remembering(&observed, &mut memory.policies);
        let group_sets = observed.group_sets();
        // A round that fails half-way may have published some of these, and left some of those before.
        memory.group_sets.extend(group_sets.iter().cloned());
        let (desired, installed) = self.enforce(desired, &observed, memory).await?;
        memory.group_sets = group_sets;
        let mut round = self.provision(&observed, &installed, memory);
        let mut refused = by_object(desired.refused.iter());
        refused.append(&mut round.refused);
        round.refused.clone_from(&refused);
        memory.told.tell(&self.kubernetes, &round, &observed);
        memory.look_in = round.look_in.unwrap_or(RESYNC).clamp(SOON, RESYNC);
        memory.retry_in = SOON;
        let described = self.facts.borrow().as_ref().map(|described| described.asked);
        let answered = self.kubernetes.answered();
        let published = observed.published.as_ref().and(self.members.heard());
        let synced = Some(Synced { at: Instant::now(), took: begun.elapsed(), described, answered, published });
        self.metrics.round(Some(begun.elapsed()), refused.len());
        self.metrics.heard_of_kubernetes(answered);
        self.status.send_replace(Status { observed, installed, desired, refused, synced });
        Ok(())
    }

    /// Enforces it, with what came of memberships meanwhile: whoever writes single peers waits for the kernel as well, so none
    /// of these writes is undone.
    async fn enforce(
        &self,
        mut desired: Desired,
        observed: &Observed,
        memory: &mut Memory,
    ) -> Result<(Desired, Installed)> {
        let due = memory.last_sweep.is_none_or(|at| at.elapsed() > RESYNC);
        if due {
            memory.last_sweep = Some(Instant::now());
        }
        let (kernel, members, published) =
            (Arc::clone(&self.kernel), Arc::clone(&self.members), observed.published.clone());
        let own: BTreeSet<Addr> = observed.cloud.iter().flat_map(own_peers).map(|(addr, _)| addr).collect();
        let done = tokio::task::spawn_blocking(move || {
            let mut kernel = kernel.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(published) = &published {
                members.overlay(&mut desired, published, &own);
            }
            let installed = apply(&mut *kernel, &mut desired, due)?;
            let again = members.enforced(published.as_deref(), own);
            anyhow::Ok((desired, installed, again))
        })
        .await
        .context("the thread that applies node steps")?;
        if done.is_err() {
            // A sweep that failed is due again at once: branches go on to other pods.
            memory.last_sweep = None;
        }
        let (desired, installed, again) = done?;
        if again {
            self.changed.notify_one();
        }
        Ok((desired, installed))
    }

    /// What EC2 said, with what it answered since on top.
    fn cloud_facts(&self, memory: &Memory) -> Option<CloudFacts> {
        let described = self.facts.borrow().clone()?;
        let asked = described.asked.saturating_duration_since(memory.begun);
        Some(lock(&self.provisioner).facts(described.facts.clone(), asked))
    }

    fn provision(&self, observed: &Observed, installed: &Installed, memory: &Memory) -> Round {
        if self.provision == Provision::Observe {
            return Round::default();
        }
        let enforced = installed.endpoints.keys().copied().collect();
        let round = lock(&self.provisioner).round(observed, &enforced, memory.begun.elapsed());
        for step in &round.start {
            self.spawn(step.clone(), memory.begun);
        }
        round
    }

    /// Takes a step beside the loop.
    fn spawn(&self, step: CloudStep, begun: Instant) {
        let (cloud, kubernetes) = (Arc::clone(&self.cloud), Arc::clone(&self.kubernetes));
        let (look, changed) = (Arc::clone(&self.look_at_cloud), Arc::clone(&self.changed));
        let (provisioner, metrics) = (Arc::clone(&self.provisioner), Arc::clone(&self.metrics));
        tokio::spawn(async move {
            let asked = Instant::now();
            let outcome = match step.action() {
                Some(_) => cloud.apply(&step).await,
                None => kubernetes.apply(&step).await,
            };
            metrics.step(&step, outcome.as_ref().err(), asked.elapsed());
            let (step_name, took_ms) = (step.key(), asked.elapsed().as_millis());
            match &outcome {
                Ok(_) => info!(step = step_name, took_ms, "took a step"),
                Err(failure) => warn!(step = step_name, took_ms, %failure, "a step failed"),
            }
            let notice = lock(&provisioner).finished(&step, outcome, begun.elapsed());
            if let Some(notice) = notice {
                tell::publish(&kubernetes, notice);
            }
            look.notify_one();
            changed.notify_one();
        });
    }
}

fn by_object<'a>(refusals: impl Iterator<Item = &'a Refusal>) -> BTreeMap<String, String> {
    refusals.map(|refusal| (refusal.object.clone(), refusal.reason.clone())).collect()
}

fn lock(provisioner: &Mutex<Provisioner>) -> MutexGuard<'_, Provisioner> {
    provisioner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
