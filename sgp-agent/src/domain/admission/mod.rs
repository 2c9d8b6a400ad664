//! Admission of pods (facts 1.3, 1.4): what the API server asks, and what it is answered.
//!
//! Pure: whoever asks brings the policies that apply. A ServiceAccount is needed only where a policy selects by
//! one (`matching::account_matters`), unlike on AWS, where a pod of a missing one is refused whether or not there
//! is any policy.

mod guard;
mod injection;
mod review;

use serde_json::Value;

pub use guard::{AWS_WRITERS, guard, our_writer};
pub use injection::{Matched, pod_of, policies_matter, resource_injection};
pub use review::{answer, question};

/// Name of the webhook that injects, AWS's own.
pub const MUTATING: &str = "mpod.vpc.k8s.aws";
/// Name of the webhook that guards the annotation, AWS's own.
pub const VALIDATING: &str = "vpod.vpc.k8s.aws";
/// Where the first is called.
pub const MUTATING_PATH: &str = "/mutate-v1-pod";
/// Where the second is called.
pub const VALIDATING_PATH: &str = "/validate-v1-pod";

/// Key of the annotation that Fargate's pods get their groups by.
const FARGATE_GROUPS: &str = "fargate.amazonaws.com/pod-sg";

/// What is being done to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// Anything else: never ours to judge.
    Other,
}

/// A question of the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What the answer must name.
    pub uid: String,
    /// What is being done.
    pub operation: Operation,
    /// By whom: a user name as authenticators give it.
    pub user: String,
    /// Namespace of the request; the object itself need not say it.
    pub namespace: String,
    /// The pod as it shall be; null where it is deleted.
    pub object: Value,
    /// The pod as it was; null where it is created.
    pub old_object: Value,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Whether it may be.
    pub verdict: Verdict,
    /// Why, for people; empty where there is nothing to say.
    pub message: String,
    /// JSON patch (RFC 6902), empty where nothing changes.
    pub patch: Vec<Value>,
}

/// Whether what was asked for may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Allowed,
    /// It may not.
    Denied,
}

impl Answer {
    /// As it is.
    pub fn allowed(message: &str) -> Self {
        Self { verdict: Verdict::Allowed, message: message.to_owned(), patch: Vec::new() }
    }

    /// Not at all.
    pub fn denied(message: &str) -> Self {
        Self { verdict: Verdict::Denied, message: message.to_owned(), patch: Vec::new() }
    }
}

/// An annotation of a pod.
fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod.get("metadata")?.get("annotations")?.get(key)?.as_str()
}
