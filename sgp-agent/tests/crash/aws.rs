//! AWS's resource controller as the facts describe it (1.6, 2.1, 2.4, 2.6), before the same modelled EC2.
//!
//! 30 workers take a pod each. Its calls wait for one of two clients, which have 12 calls a second and 18 at once:
//! CreateNetworkInterface and CreateNetworkInterfacePermission for the one, AssociateTrunkInterface for the other.
//! The SDK asks three times; a pod that fails comes back at once, five times at most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::burst::{Buckets, Outcome, latency};

const WORKERS: usize = 30;
const STAGES: [Option<&str>; 4] =
    [Some("CreateNetworkInterface"), Some("CreateNetworkInterfacePermission"), Some("AssociateTrunkInterface"), None];
const SDK_TRIES: u32 = 3;

/// One client's limiter: who comes waits for its token.
struct Limiter {
    tokens: f64,
    since: Duration,
}

impl Limiter {
    const PER_SECOND: f64 = 12.0;
    const BURST: f64 = 18.0;

    fn new() -> Self {
        Self { tokens: Self::BURST, since: Duration::ZERO }
    }

    /// When a call that comes now may go. Calls come in the order of their times.
    fn go(&mut self, now: Duration) -> Duration {
        let refilled = (now.saturating_sub(self.since)).as_secs_f64() * Self::PER_SECOND;
        self.tokens = (self.tokens + refilled).min(Self::BURST) - 1.0;
        self.since = self.since.max(now);
        let wait = if self.tokens < 0.0 { -self.tokens / Self::PER_SECOND } else { 0.0 };
        now + Duration::from_secs_f64(wait)
    }
}

/// A worker with its pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Job {
    at: Duration,
    pod: u32,
    stage: usize,
    tries: u32,
}

/// Controller and EC2.
struct World {
    user: Limiter,
    instance: Limiter,
    ec2: Buckets,
    calls: usize,
    throttled: usize,
}

impl World {
    fn new() -> Self {
        Self { user: Limiter::new(), instance: Limiter::new(), ec2: Buckets::default(), calls: 0, throttled: 0 }
    }

    /// Makes a job's next call; gives when it is over and whether it worked.
    fn call(&mut self, job: Job) -> (Duration, bool) {
        let Some(action) = STAGES[job.stage] else { return (job.at + latency(None, self.calls), true) };
        let client = if action == "AssociateTrunkInterface" { &mut self.instance } else { &mut self.user };
        let goes = client.go(job.at);
        self.calls += 1;
        let works = self.ec2.take(action, goes.max(job.at));
        self.throttled += usize::from(!works);
        (goes + latency(Some(action), self.calls), works)
    }

    /// Branches for `pods` pods that all come at `from`; gives when the last has its annotation.
    fn create(&mut self, pods: u32, from: Duration) -> Duration {
        let mut waiting = 0..pods;
        let mut running: BinaryHeap<Reverse<Job>> = BinaryHeap::new();
        let first = |pod, at| Reverse(Job { at, pod, stage: 0, tries: 0 });
        running.extend(waiting.by_ref().take(WORKERS).map(|pod| first(pod, from)));
        let mut last = from;
        while let Some(Reverse(job)) = running.pop() {
            let (at, works) = self.call(job);
            let next = match (works, job.tries + 1 < SDK_TRIES) {
                (true, _) => Job { at, stage: job.stage + 1, tries: 0, ..job },
                (false, true) => Job { at: at + Duration::from_secs(1 << job.tries), tries: job.tries + 1, ..job },
                // What was made goes to the delete queue, and the pod begins anew.
                (false, false) => Job { at, stage: 0, tries: 0, ..job },
            };
            if next.stage < STAGES.len() {
                running.push(Reverse(next));
                continue;
            }
            last = last.max(at);
            running.extend(waiting.next().map(|pod| first(pod, at)));
        }
        last
    }
}

/// Pods at once on a node without branches.
pub(crate) fn burst(pods: u32) -> Outcome {
    let mut world = World::new();
    let last = world.create(pods, Duration::ZERO);
    Outcome { last, calls: world.calls, throttled: world.throttled }
}

/// Nine pods of a full node are replaced at once. Their branches are deleted by the pass of the queue (every 30 s,
/// here 15 s after the pods' deletion) that first finds them cool; the new pods find the node full, and each sleeps
/// for a cool-down before it looks again.
pub(crate) fn replaced() -> Outcome {
    const COOLDOWN_S: u64 = 60;
    let mut world = World::new();
    let pass_s = (0..).map(|n| 15 + n * 30).find(|at| *at > COOLDOWN_S).expect("a pass");
    // Disassociate and delete, nine times, by one client each.
    let gone_s = pass_s + 1;
    let looks_s = (0..).map(|n| 1 + n * COOLDOWN_S).find(|at| *at > gone_s).expect("a look");
    let last = world.create(9, Duration::from_secs(looks_s));
    Outcome { last, calls: world.calls + 18, throttled: world.throttled }
}
