//! What EC2 answered lately. Its descriptions lag behind its answers, and what it has just created may not be
//! described for a while; so for a time an answer stands above a description. Losing the answers (a crash)
//! costs time only: creation is idempotent, and the rest is planned again.

use std::collections::BTreeMap;

use super::cloud_steps::CloudStep;
use super::groups::GroupSet;
use super::observed::{Association, Attachment, CloudFacts, NetworkInterface};
use super::tags::Tags;

/// Seconds an answer stands above descriptions. EC2 promises none; it usually takes one or two.
pub const SETTLED_AFTER_S: u64 = 30;

/// What EC2 answers to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The interface that was created.
    Created(Box<NetworkInterface>),
    /// The attachment of the trunk.
    Attached(Attachment),
    /// The branch is on the trunk.
    Associated(Association),
    /// It is done.
    Done,
}

/// How an answer changes what is described.
#[derive(Clone, Debug)]
enum Change {
    Appeared(Box<NetworkInterface>),
    Vanished(String),
    Attached(String, Attachment),
    Tied(String),
    Tagged(String, Tags),
    Grouped(String, GroupSet),
    Associated(Association),
    Left(String),
    Permitted(String),
}

/// The answers of this agent's life that still matter.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// In the order they came: (when, in seconds; what).
    recent: Vec<(u64, Change)>,
    /// How often each client token's seed was answered with an interface.
    created: BTreeMap<String, u32>,
}

impl Answers {
    /// How many interfaces were made by this seed of a client token (`token`): the next needs another token.
    pub fn created(&self, seed: &str) -> u32 {
        self.created.get(seed).copied().unwrap_or_default()
    }

    /// Remembers what a step brought about.
    pub fn record(&mut self, step: &CloudStep, answer: Answer, now_s: u64) {
        if let CloudStep::CreateTrunk { interface } | CloudStep::CreateBranch { interface, .. } = step {
            *self.created.entry(seed_of(&interface.token).to_owned()).or_default() += 1;
        }
        if let Some(change) = change(step, answer) {
            self.recent.push((now_s, change));
        }
    }

    /// A description that was begun at `described_s`, with the answers on top that it may lag behind.
    pub fn on_top_of(&self, mut facts: CloudFacts, described_s: u64) -> CloudFacts {
        for (_, change) in self.recent.iter().filter(|(at, _)| described_s < at + SETTLED_AFTER_S) {
            apply(&mut facts, change);
        }
        facts
    }

    /// Forgets what is settled by a description that was begun at `described_s`.
    pub fn settle(&mut self, described_s: u64) {
        self.recent.retain(|(at, _)| described_s < at + SETTLED_AFTER_S);
    }
}

/// A client token: `<seed>.<digest>`. Everything that is asked for is in the digest, so one token never comes
/// with two wishes, which EC2 refuses.
pub fn token(seed: &str, wish: &[&str], created: u32) -> String {
    let text = format!("{seed}\n{created}\n{}", wish.join("\n"));
    let digest = GroupSet::of([text]).id().0;
    format!("{seed}.{digest:016x}")
}

fn seed_of(token: &str) -> &str {
    token.rsplit_once('.').map_or(token, |(seed, _)| seed)
}

fn change(step: &CloudStep, answer: Answer) -> Option<Change> {
    Some(match (step, answer) {
        (_, Answer::Created(eni)) => Change::Appeared(eni),
        (CloudStep::AttachTrunk { trunk, .. }, Answer::Attached(attachment)) => {
            Change::Attached(trunk.clone(), attachment)
        }
        (_, Answer::Associated(association)) => Change::Associated(association),
        (CloudStep::TieTrunk { trunk, .. }, _) => Change::Tied(trunk.clone()),
        (CloudStep::Tag { branch, tags, .. }, _) => Change::Tagged(branch.clone(), tags.clone()),
        (CloudStep::SetGroups { branch, groups, .. }, _) => Change::Grouped(branch.clone(), groups.clone()),
        (CloudStep::Disassociate { branch, .. }, _) => Change::Left(branch.clone()),
        (CloudStep::Delete { interface }, _) => Change::Vanished(interface.clone()),
        (CloudStep::Permit { interface, .. }, _) => Change::Permitted(interface.clone()),
        _ => return None,
    })
}

fn apply(facts: &mut CloudFacts, change: &Change) {
    match change {
        Change::Appeared(eni) => drop(facts.interfaces.entry(eni.id.clone()).or_insert_with(|| (**eni).clone())),
        Change::Vanished(id) => {
            facts.interfaces.remove(id);
            facts.associations.remove(id);
        }
        Change::Attached(id, attachment) => {
            facts.instance.device_indexes.insert(attachment.device_index);
            with(facts, id, |eni| {
                let described = eni.attachment.as_ref().is_some_and(|at| at.id == attachment.id);
                if !described {
                    eni.attachment = Some(attachment.clone());
                }
            });
        }
        Change::Tied(id) => with(facts, id, |eni| {
            if let Some(attachment) = &mut eni.attachment {
                attachment.delete_on_termination = true;
            }
        }),
        Change::Tagged(id, tags) => with(facts, id, |eni| eni.tags.extend(tags.clone())),
        Change::Grouped(id, groups) => with(facts, id, |eni| eni.groups = groups.clone()),
        Change::Associated(association) => {
            facts.associations.insert(association.branch_id.clone(), association.clone());
        }
        Change::Left(id) => drop(facts.associations.remove(id)),
        Change::Permitted(id) => drop(facts.permitted.insert(id.clone())),
    }
}

fn with(facts: &mut CloudFacts, id: &str, change: impl FnOnce(&mut NetworkInterface)) {
    if let Some(eni) = facts.interfaces.get_mut(id) {
        change(eni);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eni(id: &str) -> NetworkInterface {
        NetworkInterface { id: id.to_owned(), ..NetworkInterface::default() }
    }

    #[test]
    fn an_interface_just_created_is_there_although_not_described_and_for_a_time_only() {
        let mut answers = Answers::default();
        let step = CloudStep::Delete { interface: "eni-old".into() };
        answers.record(&step, Answer::Created(Box::new(eni("eni-1"))), 10);
        assert!(answers.on_top_of(CloudFacts::default(), 39).interfaces.contains_key("eni-1"));
        assert!(!answers.on_top_of(CloudFacts::default(), 40).interfaces.contains_key("eni-1"));
    }

    #[test]
    fn a_deleted_interface_that_is_still_described_is_gone() {
        let mut answers = Answers::default();
        answers.record(&CloudStep::Delete { interface: "eni-1".into() }, Answer::Done, 0);
        let mut described = CloudFacts::default();
        described.interfaces.insert("eni-1".into(), eni("eni-1"));
        assert!(answers.on_top_of(described, 1).interfaces.is_empty());
    }

    #[test]
    fn one_token_never_comes_with_two_wishes() {
        let first = token("u-1", &["subnet-1", "sg-1"], 0);
        assert_eq!(first, token("u-1", &["subnet-1", "sg-1"], 0));
        assert_ne!(first, token("u-1", &["subnet-1", "sg-2"], 0));
        assert_ne!(first, token("u-1", &["subnet-1", "sg-1"], 1));
        assert_eq!(seed_of(&first), "u-1");
    }
}
