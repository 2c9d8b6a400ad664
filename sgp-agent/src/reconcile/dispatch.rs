//! When a planned step is taken: by urgency, within EC2's rates, each object backing off by itself.
//!
//! Nothing here decides what is done. Time comes from outside, so that a test can run a day in a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::domain::cloud_steps::{CloudStep, Purpose};
use crate::domain::failure::{Failure, FailureKind};

/// The first rest of an object whose step failed, and the longest, before jitter of up to as much again.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Likewise where EC2 refuses the thing itself: nothing changes that soon.
const REST_REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Likewise for all calls of a kind, once EC2 throttles it.
const PAUSE_THROTTLED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// Likewise for all calls of a kind that the role may not make: one asks whether it may by now.
const PAUSE_UNAUTHORIZED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(300));
/// So many at once of a kind that was throttled, and it is throttled no more.
const WINDOW_OPEN: usize = 16;
/// How soon a bucket that was empty is looked into again.
const REFILL: Duration = Duration::from_millis(200);
/// A step done stays away this long, until facts that no longer ask for it arrive.
const SETTLE: Duration = Duration::from_secs(2);

/// Calls of one kind that this node makes: EC2 gives each account 50 at once and 5 a second for each action
/// that changes something (EC2 API throttling, mutating actions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// A second.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            per_second: const { NonZeroU32::new(5).expect("not zero") },
            burst: const { NonZeroU32::new(50).expect("not zero") },
        }
    }
}

/// The pool's share of them: a tenth of the burst, so that it never stands before a pod.
fn pool_share(rates: Rates) -> Rates {
    let burst = NonZeroU32::new(rates.burst.get() / 10).unwrap_or(NonZeroU32::MIN);
    Rates { per_second: NonZeroU32::new(rates.per_second.get() / 2).unwrap_or(NonZeroU32::MIN), burst }
}

/// The time we were told last.
#[derive(Clone, Debug, Default)]
struct Told(Arc<AtomicU64>);

impl Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

type Buckets = RateLimiter<&'static str, HashMapStateStore<&'static str>, Told, NoOpMiddleware<Nanos>>;

/// What became of a step so far.
#[derive(Clone, Debug)]
enum Try {
    Running { step: CloudStep, failures: u32 },
    Resting { failures: u32, until: Duration, failed: Option<(CloudStep, Failure)> },
}

/// All calls of a kind stand still, and then find out step by step how many may go: several nodes that share a rate would
/// otherwise all come back at once.
#[derive(Clone, Debug)]
struct Brake {
    failures: u32,
    until: Duration,
    failure: Failure,
    /// Keys of the steps that find it out, and how many there may be.
    probes: BTreeSet<String>,
    window: usize,
}

impl Brake {
    fn lets_through(&self, now: Duration) -> bool {
        now >= self.until && self.probes.len() < self.window
    }

    /// Takes note of a step that got through; whether it is over. A permission is there or not.
    fn is_over_after(&mut self, key: &str) -> bool {
        if !self.probes.remove(key) {
            // It was under way before, and shows nothing.
            return false;
        }
        self.failures = self.failures.saturating_sub(1);
        self.window *= 2;
        self.window > WINDOW_OPEN || self.failure.kind != FailureKind::Throttled
    }
}

/// Steps under way, those that failed lately, and the buckets.
pub struct Dispatch {
    tries: BTreeMap<String, Try>,
    brakes: BTreeMap<&'static str, Brake>,
    /// Steps planned last that a brake holds back: by key.
    held: BTreeMap<String, (CloudStep, Failure)>,
    clock: Told,
    buckets: Buckets,
    pool_buckets: Buckets,
    /// Whether a bucket was empty in the last round.
    thirsty: bool,
    seed: u64,
}

impl Dispatch {
    /// `seed`: of the jitter, so that nodes do not come back in step.
    pub fn new(rates: Rates, seed: u64) -> Self {
        let clock = Told::default();
        let buckets = |rates: Rates| {
            RateLimiter::hashmap_with_clock(Quota::per_second(rates.per_second).allow_burst(rates.burst), clock.clone())
        };
        Self {
            tries: BTreeMap::new(),
            brakes: BTreeMap::new(),
            held: BTreeMap::new(),
            buckets: buckets(rates),
            pool_buckets: buckets(pool_share(rates)),
            clock,
            thirsty: false,
            seed,
        }
    }

    /// Steps that run now.
    pub fn underway(&self) -> Vec<CloudStep> {
        let running = |state: &Try| if let Try::Running { step, .. } = state { Some(step.clone()) } else { None };
        self.tries.values().filter_map(running).collect()
    }

    /// Which of the planned steps begin now; they run until `finished` is told.
    pub fn choose(&mut self, planned: &[CloudStep], now: Duration) -> Vec<CloudStep> {
        self.clock.0.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.thirsty = false;
        self.held.clear();
        let wanted: BTreeSet<String> = planned.iter().map(CloudStep::key).collect();
        self.tries.retain(|key, state| matches!(state, Try::Running { .. }) || wanted.contains(key));
        let mut chosen = Vec::new();
        for step in planned {
            let key = step.key();
            if self.is_free(&key, now) && self.may(step, &key, now) {
                self.begin(step, key);
                chosen.push(step.clone());
            }
        }
        chosen
    }

    fn is_free(&self, key: &str, now: Duration) -> bool {
        match self.tries.get(key) {
            Some(Try::Running { .. }) => false,
            Some(Try::Resting { until, .. }) => *until <= now,
            None => true,
        }
    }

    /// Whether this kind of call may be made now.
    fn may(&mut self, step: &CloudStep, key: &str, now: Duration) -> bool {
        let Some(action) = step.action() else { return true };
        if let Some(brake) = self.brakes.get(action)
            && !brake.lets_through(now)
        {
            self.held.insert(key.to_owned(), (step.clone(), brake.failure.clone()));
            return false;
        }
        let pool = step.purpose() == Purpose::Pool;
        // In this order: what the pool may not do must not cost a pod its turn.
        let granted =
            (!pool || self.pool_buckets.check_key(&action).is_ok()) && self.buckets.check_key(&action).is_ok();
        self.thirsty |= !granted;
        if granted && let Some(brake) = self.brakes.get_mut(action) {
            brake.probes.insert(key.to_owned());
        }
        granted
    }

    fn begin(&mut self, step: &CloudStep, key: String) {
        let failures = self.failures(&key);
        self.tries.insert(key, Try::Running { step: step.clone(), failures });
    }

    /// Takes note of how a step ended.
    pub fn finished(&mut self, step: &CloudStep, failure: Option<&Failure>, now: Duration) {
        let key = step.key();
        let before = self.failures(&key);
        if let Some(action) = step.action() {
            self.brake(action, &key, failure, now);
        }
        let state = match failure {
            None => Try::Resting { failures: 0, until: now + SETTLE, failed: None },
            Some(failure) => Try::Resting {
                failures: before + 1,
                until: now + self.rest(failure, before, &key),
                failed: Some((step.clone(), failure.clone())),
            },
        };
        self.tries.insert(key, state);
    }

    fn brake(&mut self, action: &'static str, key: &str, failure: Option<&Failure>, now: Duration) {
        let pauses = failure.and_then(|failure| match failure.kind {
            FailureKind::Throttled => Some((failure, PAUSE_THROTTLED)),
            FailureKind::Unauthorized => Some((failure, PAUSE_UNAUTHORIZED)),
            FailureKind::Unavailable | FailureKind::NotYet | FailureKind::Refused => None,
        });
        let Some((failure, pause)) = pauses else {
            if self.brakes.get_mut(action).is_some_and(|brake| brake.is_over_after(key)) {
                self.brakes.remove(action);
            }
            return;
        };
        // Those that were under way together fail together: that is one failure.
        let failures = match self.brakes.get(action) {
            Some(brake) if !brake.probes.contains(key) => return,
            Some(brake) => brake.failures + 1,
            None => 0,
        };
        let until = now + delay(pause, failures, self.seed);
        let (failure, probes) = (failure.clone(), BTreeSet::new());
        self.brakes.insert(action, Brake { failures, until, failure, probes, window: 1 });
    }

    fn rest(&self, failure: &Failure, failures: u32, key: &str) -> Duration {
        let bounds = if failure.kind == FailureKind::Refused { REST_REFUSED } else { REST };
        // That there are too many calls is not this object's doing: the brake decides when its turn comes.
        let failures = if failure.kind == FailureKind::Throttled { 0 } else { failures };
        let seed = key.bytes().fold(self.seed, |seed, byte| seed.rotate_left(5) ^ u64::from(byte));
        delay(bounds, failures, seed)
    }

    /// How often a step has failed in a row.
    fn failures(&self, key: &str) -> u32 {
        match self.tries.get(key) {
            Some(Try::Resting { failures, .. } | Try::Running { failures, .. }) => *failures,
            None => 0,
        }
    }

    /// Steps that failed and are still wanted, and those held back because their kind fails.
    pub fn failing(&self) -> impl Iterator<Item = (&CloudStep, &Failure)> {
        let failed = self.tries.values().filter_map(|state| match state {
            Try::Resting { failed: Some((step, failure)), .. } => Some((step, failure)),
            Try::Resting { .. } | Try::Running { .. } => None,
        });
        let held = self.held.values().filter(|(_, failure)| failure.kind == FailureKind::Unauthorized);
        failed.chain(held.map(|(step, failure)| (step, failure)))
    }

    /// How soon time alone lets more steps begin.
    pub fn look_in(&self, now: Duration) -> Option<Duration> {
        let resting = self.tries.values().filter_map(|state| match state {
            Try::Resting { until, failed, .. } => self.wakes(*until, failed.as_ref().map(|(step, _)| step)),
            Try::Running { .. } => None,
        });
        let braked = self.brakes.values().filter(|brake| brake.probes.is_empty()).map(|brake| brake.until);
        let thirst = self.thirsty.then_some(now + REFILL);
        resting.chain(braked).chain(thirst).map(|until| until.saturating_sub(now)).min()
    }

    /// When a step that has rested `until` may begin, as far as time decides it: the end of a probe is news anyway.
    fn wakes(&self, until: Duration, failed: Option<&CloudStep>) -> Option<Duration> {
        match failed.and_then(CloudStep::action).and_then(|action| self.brakes.get(action)) {
            Some(brake) if brake.probes.len() >= brake.window => None,
            Some(brake) => Some(until.max(brake.until)),
            None => Some(until),
        }
    }
}

fn delay((first, longest): (Duration, Duration), failures: u32, seed: u64) -> Duration {
    let builder = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).with_factor(2.0);
    let builder = builder.without_max_times().with_jitter().with_jitter_seed(seed.wrapping_add(u64::from(failures)));
    builder.build().nth(failures as usize).unwrap_or(longest)
}
