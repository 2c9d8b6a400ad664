//! Provisioning without the doing: which steps begin now, and what their ends mean. The loop performs them
//! beside itself; a test performs them against a model of EC2, stops at each, and begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::dispatch::{Dispatch, Rates};
use crate::domain::answers::Answer;
use crate::domain::branches::{
    BranchSettings, CloudPlan, CloudStep, Memory, Notice, Purpose, Severity, TRUNK_FAILED, annotation_of, cloud_plan,
};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::groups::EndpointId;
use crate::domain::observed::{CloudFacts, Observed};

/// Reason of an event about what the agent's role may not do; AWS's controller has none.
pub(super) const MISSING_PERMISSION: &str = "MissingPermission";

/// Trunk and branches of one node.
pub struct Provisioner {
    settings: BranchSettings,
    memory: Memory,
    dispatch: Dispatch,
}

/// What one look at the world comes to.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Steps that begin now. Each must be `finished`.
    pub start: Vec<CloudStep>,
    /// What cannot be had, and why, by object.
    pub refused: BTreeMap<String, String>,
    /// What to say, once for as long as it is among these.
    pub notices: Vec<Notice>,
    /// How soon time alone brings more.
    pub look_in: Option<Duration>,
    /// Nothing is planned, nothing runs and nothing is due.
    pub at_rest: bool,
}

impl Provisioner {
    /// With nothing known but how it shall be. `seed`: of jitter.
    pub fn new(settings: BranchSettings, rates: Rates, seed: u64) -> Self {
        Self { settings, memory: Memory::default(), dispatch: Dispatch::new(rates, seed) }
    }

    /// What EC2 described when asked at `described`, with what it answered since on top.
    ///
    /// What is under way is looked at in the same moment: a call that ends between this look and the round is in
    /// neither the facts nor, otherwise, under way, and would be made twice.
    pub fn facts(&mut self, facts: CloudFacts, described: Duration) -> CloudFacts {
        self.memory.underway = self.dispatch.underway();
        self.memory.answers.settle(described.as_secs());
        self.memory.answers.on_top_of(facts, described.as_secs())
    }

    /// Looks at the world (its cloud as `facts` gave it) and says what begins now. `enforced`: endpoints in the
    /// kernel.
    pub fn round(&mut self, observed: &Observed, enforced: &BTreeSet<EndpointId>, now: Duration) -> Round {
        let now_s = now.as_secs();
        let plan = cloud_plan(observed, enforced, &self.settings, &self.memory, now_s);
        if observed.cloud.is_some() && observed.cluster.is_some() {
            self.memory.ended_s.retain(|id, _| plan.resting.contains(id));
        }
        for id in &plan.resting {
            self.memory.ended_s.entry(id.clone()).or_insert(now_s);
        }
        let start = self.dispatch.choose(&plan.steps, now);
        self.told(plan, start, now)
    }

    fn told(&self, plan: CloudPlan, start: Vec<CloudStep>, now: Duration) -> Round {
        let due = plan.look_in_s.map(Duration::from_secs);
        let mut round = Round {
            look_in: due.into_iter().chain(self.dispatch.look_in(now)).min(),
            at_rest: plan.steps.is_empty() && due.is_none() && self.dispatch.underway().is_empty(),
            start,
            notices: plan.notices,
            ..Round::default()
        };
        for refusal in plan.refused {
            round.refused.insert(refusal.object, refusal.reason);
        }
        for (step, failure) in self.dispatch.failing() {
            if let Purpose::Pod { name, .. } = step.purpose() {
                round.refused.insert(name, told_of(step, failure));
            }
            round.notices.extend(notice(step, failure));
        }
        round.notices.sort();
        round.notices.dedup();
        round
    }

    /// Takes note of how a step ended; gives what to say of it.
    pub fn finished(&mut self, step: &CloudStep, outcome: Result<Answer, Failure>, now: Duration) -> Option<Notice> {
        // A permission to attach is needed only where another account does it: without it the trunk call tells.
        let tolerated = matches!((step, &outcome), (CloudStep::Permit { .. }, Err(failure)) if settled(failure));
        self.dispatch.finished(step, outcome.as_ref().err().filter(|_| !tolerated), now);
        match outcome {
            Ok(answer) => {
                self.memory.answers.record(step, answer, now.as_secs());
                success(step)
            }
            Err(failure) if tolerated => {
                self.memory.answers.record(step, Answer::Done, now.as_secs());
                Some(not_permitted(&failure))
            }
            Err(_) => None,
        }
    }
}

/// Whether asking again would bring another answer.
fn settled(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Refused | FailureKind::Unauthorized)
}

fn not_permitted(failure: &Failure) -> Notice {
    Notice {
        about: Purpose::Node,
        severity: Severity::Warning,
        reason: "TrunkAccountNotPermitted",
        message: format!("the account of --trunk-account was not permitted to attach interfaces: {failure}"),
    }
}

/// Events of what went well (facts 1.7).
fn success(step: &CloudStep) -> Option<Notice> {
    let (reason, message) = match step {
        CloudStep::Annotate { branch, .. } => {
            ("ResourceAllocated", format!("Allocated {} to the pod", annotation_of(branch).1))
        }
        CloudStep::Advertise { .. } => {
            ("NodeTrunkInitiated", "The node has trunk interface initialized successfully".to_owned())
        }
        _ => return None,
    };
    Some(Notice { about: step.purpose(), severity: Severity::Normal, reason, message })
}

/// What failed and why, with the way out where there is one.
fn told_of(step: &CloudStep, failure: &Failure) -> String {
    let text = format!("{}, {failure}", step.doing());
    match (failure.kind, step.action()) {
        (FailureKind::Unauthorized, Some(action)) => format!("{text}; {}", failure.permission(action)),
        _ => text,
    }
}

/// What a failure is worth saying on the node: of its trunk, and of permissions, once for each that lacks. A
/// pod's own failures are said on the pod.
fn notice(step: &CloudStep, failure: &Failure) -> Option<Notice> {
    let (about, severity) = (Purpose::Node, Severity::Warning);
    match (step, failure.kind, step.action()) {
        (CloudStep::CreateTrunk { .. }, kind, _) => {
            let code = if failure.code.is_empty() { &failure.message } else { &failure.code };
            let hint = if kind == FailureKind::Unauthorized {
                ": Please verify the cluster IAM role has AmazonEKSVPCResourceController policy"
            } else {
                ""
            };
            let message = format!("Failed to create trunk interface: Error Code: {code}{hint}");
            Some(Notice { about, severity, reason: "TrunkENICreationFailed", message })
        }
        (_, FailureKind::Unauthorized, Some(action)) => {
            // Without EC2's own words, which differ from call to call: once per cause.
            let message = format!("{} was refused ({}): {}", step.doing(), failure.code, failure.permission(action));
            Some(Notice { about, severity, reason: MISSING_PERMISSION, message })
        }
        (CloudStep::AttachTrunk { .. } | CloudStep::TieTrunk { .. }, _, _) => {
            let message = format!("{TRUNK_FAILED}: {}", told_of(step, failure));
            Some(Notice { about, severity, reason: "NodeTrunkFailedInit", message })
        }
        _ => None,
    }
}
