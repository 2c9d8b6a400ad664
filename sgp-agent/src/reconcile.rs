//! The loop: observe, desire, plan, apply. The only place where the pure core meets the world.
//!
//! Level-triggered: any news only marks the world dirty; the loop then looks at all of it. Node steps are
//! applied at once; cloud steps run beside the loop, each object backing off by itself, so that EC2 never
//! holds up the data path.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::runtime::events::EventType;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::domain::branches::{BranchSettings, CloudPlan, CloudStep, cloud_plan};
use crate::domain::desired::{Desired, Refusal};
use crate::domain::enforcement::Enforcement;
use crate::domain::installed::Installed;
use crate::domain::matching::groups_of;
use crate::domain::observed::{CloudFacts, Observed};
use crate::domain::plan::plan;
use crate::domain::settings::Settings;
use crate::io::ec2::Cloud;
use crate::io::kernel::Kernel;
use crate::io::kubernetes::Kubernetes;
use crate::io::netlink::Netlink;

/// How long news may gather before the loop looks.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// The loop looks this often even without news.
const RESYNC: Duration = Duration::from_secs(30);
/// The longest a failing cloud step waits for its next try.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What the loop has brought about; the CNI plugin's requests wait on it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What was observed last.
    pub observed: Observed,
    /// What the kernel held after the last round.
    pub installed: Installed,
    /// What should be there.
    pub desired: Desired,
    /// What cannot be done, and why, by object.
    pub refused: BTreeMap<String, String>,
}

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
    /// How branches are made.
    pub branches: BranchSettings,
    /// The operator's choices, by AWS's environment variables.
    pub settings: Settings,
    /// The operator's choices.
    pub enforcement: Enforcement,
    /// Whether branches are made here or by someone else.
    pub provision: Provision,
    /// What EC2 said last.
    pub facts: watch::Receiver<Option<Arc<CloudFacts>>>,
    /// Asks for another look at EC2, now.
    pub look_at_cloud: Arc<Notify>,
    /// Marks the world dirty.
    pub changed: Arc<Notify>,
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
#[derive(Default)]
struct Memory {
    begun: Option<Instant>,
    ended_s: BTreeMap<String, u64>,
    told: BTreeMap<String, String>,
    last_sweep: Option<Instant>,
}

/// Cloud steps under way, and those that failed lately: by step, how often and until when it rests.
type Tries = Arc<Mutex<BTreeMap<String, Try>>>;

#[derive(Clone, Copy)]
enum Try {
    Running,
    Resting(u32, Instant),
}

impl<C: Cloud, K: Kernel + 'static> Reconciler<C, K> {
    /// Runs for as long as the process lives.
    pub async fn run(self) {
        let (mut memory, tries) = (Memory::default(), Tries::default());
        memory.begun = Some(Instant::now());
        let mut facts = self.facts.clone();
        loop {
            // Before the round reads them: what arrives during the round is news for the next.
            facts.mark_unchanged();
            if let Err(error) = self.round(&mut memory, &tries).await {
                warn!(error = format!("{error:#}"), "a round of reconciliation failed; what is installed stays");
            }
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(DEBOUNCE).await,
                _ = facts.changed() => {}
                () = tokio::time::sleep(self.pause(&memory)) => {}
            }
        }
    }

    /// Cool-downs and backoffs end without news, so while there are any the loop looks every second.
    fn pause(&self, memory: &Memory) -> Duration {
        if memory.ended_s.is_empty() && memory.told.is_empty() { RESYNC } else { Duration::from_secs(1) }
    }

    async fn round(&self, memory: &mut Memory, tries: &Tries) -> Result<()> {
        let observed = Observed {
            cluster: self.kubernetes.facts(),
            cloud: self.facts.borrow().as_deref().cloned(),
            links: Some(self.netlink.links().await.context("observing the node's links")?),
            enforcement: self.enforcement,
            settings: self.settings.clone(),
        };
        let desired = Desired::from(&observed);
        let installed = self.enforce(&desired, memory).await?;
        let cloud = self.plan_cloud(&observed, memory);
        self.start(&cloud, tries);
        let mut refused = by_object(desired.refused.iter().chain(&cloud.refused));
        refused.extend(failing(tries));
        self.tell(&refused, &observed, memory);
        self.status.send_replace(Status { observed, installed, desired, refused });
        Ok(())
    }

    async fn enforce(&self, desired: &Desired, memory: &mut Memory) -> Result<Installed> {
        let due = memory.last_sweep.is_none_or(|at| at.elapsed() > RESYNC);
        if due {
            memory.last_sweep = Some(Instant::now());
        }
        let (kernel, desired) = (Arc::clone(&self.kernel), desired.clone());
        tokio::task::spawn_blocking(move || {
            let mut kernel = kernel.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            apply(&mut *kernel, &desired, due)
        })
        .await
        .context("the thread that applies node steps")?
    }

    fn plan_cloud(&self, observed: &Observed, memory: &mut Memory) -> CloudPlan {
        if self.provision == Provision::Observe {
            return CloudPlan::default();
        }
        let now_s = memory.begun.map_or(0, |begun| begun.elapsed().as_secs());
        let plan = cloud_plan(observed, &self.branches, &memory.ended_s, now_s);
        memory.ended_s.retain(|id, _| plan.resting.contains(id));
        for id in &plan.resting {
            memory.ended_s.entry(id.clone()).or_insert(now_s);
        }
        plan
    }

    fn start(&self, plan: &CloudPlan, tries: &Tries) {
        let mut known = lock(tries);
        let planned: BTreeSet<String> = plan.steps.iter().map(key).collect();
        known.retain(|key, state| matches!(state, Try::Running) || planned.contains(key));
        for step in &plan.steps {
            let failures = match known.get(&key(step)) {
                Some(Try::Running) => continue,
                Some(Try::Resting(_, until)) if *until > Instant::now() => continue,
                Some(Try::Resting(failures, _)) => *failures,
                None => 0,
            };
            known.insert(key(step), Try::Running);
            self.spawn(step.clone(), failures, Arc::clone(tries));
        }
    }

    fn spawn(&self, step: CloudStep, failures: u32, tries: Tries) {
        let (cloud, kubernetes) = (Arc::clone(&self.cloud), Arc::clone(&self.kubernetes));
        let (look, changed) = (Arc::clone(&self.look_at_cloud), Arc::clone(&self.changed));
        tokio::spawn(async move {
            let result = match &step {
                CloudStep::Annotate { uid, namespace, name, branch } => {
                    kubernetes.annotate(namespace, name, uid, branch).await
                }
                step => cloud.apply(step).await,
            };
            match result {
                // The step stays "running" until facts that no longer ask for it arrive, or a moment has passed.
                Ok(()) => {
                    lock(&tries).insert(key(&step), Try::Resting(0, Instant::now() + Duration::from_secs(2)));
                }
                Err(error) => {
                    let rest = backoff(failures);
                    warn!(step = key(&step), error = format!("{error:#}"), again_in = ?rest, "a cloud step failed");
                    if let CloudStep::CreateBranch { uid, .. } = &step {
                        let message = format!("failed to allocate branch ENI to pod: {error:#}");
                        kubernetes.tell(uid, EventType::Warning, "BranchAllocationFailed", &message).await;
                    }
                    lock(&tries).insert(key(&step), Try::Resting(failures + 1, Instant::now() + rest));
                }
            }
            look.notify_one();
            changed.notify_one();
        });
    }

    /// Tells each refusal once, as an event on the pod it names; another refusal of the same pod is news.
    fn tell(&self, refused: &BTreeMap<String, String>, observed: &Observed, memory: &mut Memory) {
        memory.told.retain(|object, _| refused.contains_key(object));
        let pods = observed.cluster.iter().flat_map(|cluster| cluster.pods.values());
        let uids: BTreeMap<String, &String> =
            pods.map(|pod| (crate::domain::branches::pod_name(pod), &pod.uid)).collect();
        for (object, reason) in refused {
            if memory.told.insert(object.clone(), reason.clone()).as_ref() == Some(reason) {
                continue;
            }
            warn!(object, reason, "refused");
            if let Some(uid) = uids.get(object) {
                let message = format!("failed to allocate branch ENI to pod: pod {object}: {reason}");
                let (kubernetes, uid) = (Arc::clone(&self.kubernetes), (*uid).clone());
                // Beside the loop: an API server that does not answer must not hold up the data path.
                tokio::spawn(async move {
                    kubernetes.tell(&uid, EventType::Warning, "BranchAllocationFailed", &message).await;
                });
            }
        }
    }
}

/// Takes every step; the first that fails ends the round, since later ones may rest on it.
fn apply<K: Kernel>(kernel: &mut K, desired: &Desired, sweep: bool) -> Result<Installed> {
    let installed = kernel.installed().context("reading what is installed")?;
    let steps = plan(desired, &installed);
    let done = steps.iter().try_for_each(|step| kernel.apply(step));
    // A step may have failed for want of room that only sweeping gives back.
    if sweep || done.is_err() {
        kernel.sweep()?;
    }
    done?;
    if steps.is_empty() {
        return Ok(installed);
    }
    info!(
        steps = steps.len(),
        endpoints = desired.endpoints.len(),
        policies = desired.policies.len(),
        "enforced a change"
    );
    kernel.installed().context("reading what is installed")
}

fn by_object<'a>(refusals: impl Iterator<Item = &'a Refusal>) -> BTreeMap<String, String> {
    refusals.map(|refusal| (refusal.object.clone(), refusal.reason.clone())).collect()
}

/// Steps that failed at least once and are still wanted. Their errors were told when they failed.
fn failing(tries: &Tries) -> BTreeMap<String, String> {
    let failed = |(key, state): (&String, &Try)| match state {
        Try::Resting(failures, _) if *failures > 0 => Some((key.clone(), format!("failed {failures} times"))),
        _ => None,
    };
    lock(tries).iter().filter_map(failed).collect()
}

/// One object's step: what must not run twice at a time.
fn key(step: &CloudStep) -> String {
    match step {
        CloudStep::CreateTrunk { .. } => "create the trunk".to_owned(),
        CloudStep::AttachTrunk { trunk, .. } => format!("attach trunk {trunk}"),
        CloudStep::CreateBranch { pod, uid, .. } => format!("create a branch for {pod} ({uid})"),
        CloudStep::Associate { branch, .. } => format!("associate {branch}"),
        CloudStep::Annotate { namespace, name, uid, .. } => format!("annotate {namespace}/{name} ({uid})"),
        CloudStep::Disassociate { branch, .. } => format!("disassociate {branch}"),
        CloudStep::Delete { interface } => format!("delete {interface}"),
    }
}

/// 0.5 s, doubling, with up to half of it as jitter so that nodes do not come back in step.
fn backoff(failures: u32) -> Duration {
    let base = Duration::from_millis(500).saturating_mul(1 << failures.min(7)).min(BACKOFF_MAX);
    let jitter = (RandomState::new().hash_one(failures) % 500) as u32;
    base + base / 1000 * jitter
}

fn lock(tries: &Tries) -> std::sync::MutexGuard<'_, BTreeMap<String, Try>> {
    tries.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Asks EC2 again and again: every `every`, and at once when told to. Tells each outage once; what was said
/// before it stays.
pub async fn poll<C: Cloud>(
    cloud: Arc<C>,
    kubernetes: Arc<Kubernetes>,
    every: Duration,
    look: Arc<Notify>,
    facts: watch::Sender<Option<Arc<CloudFacts>>>,
) {
    let mut failures = 0;
    loop {
        let wanted = kubernetes.facts().map(|cluster| {
            let named = cluster.policies.iter().flat_map(|policy| policy.group_ids.clone());
            named.chain(cluster.pods.values().flat_map(|pod| groups_of(pod, &cluster).0)).collect::<BTreeSet<_>>()
        });
        let asked = tokio::time::timeout(Duration::from_secs(10), cloud.facts(&wanted.unwrap_or_default())).await;
        match asked.unwrap_or_else(|_| Err(anyhow::anyhow!("EC2 did not answer within 10 s"))) {
            Ok(found) => {
                failures = 0;
                let found = Arc::new(found);
                facts.send_if_modified(|known| {
                    let news = known.as_ref() != Some(&found);
                    *known = Some(Arc::clone(&found));
                    news
                });
            }
            Err(error) => {
                if failures == 0 {
                    warn!(error = format!("{error:#}"), "EC2 does not answer; what is enforced stays");
                }
                failures += 1;
            }
        }
        let pause = if failures == 0 { every } else { backoff(failures).max(every) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = look.notified(), if failures == 0 => {}
        }
    }
}
