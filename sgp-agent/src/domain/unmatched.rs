//! The net below the webhook: a pod that a policy matches, but that was admitted without the resource (the webhook
//! was away, or the policy came later), must not be wired with the node's groups unnoticed.

use super::branches::{Notice, Purpose, Severity, groups_wanted, pod_name};
use super::groups::GroupSet;
use super::node_object::RESOURCE;
use super::observed::{ClusterFacts, Pod};

/// What becomes of such a pod where it can get no branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Unmatched {
    /// It is not wired, and an event says why.
    #[default]
    Refuse,
    /// It is wired with the node's groups, and an event says so.
    Warn,
}

/// Whether a branch comes to a pod that does not ask the scheduler for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coming<'a> {
    /// This agent makes branches, and makes one.
    Yes,
    /// This agent makes branches, but not this one.
    Refused(&'a str),
    /// Somebody else makes branches, and only for pods that have the resource.
    Never,
}

/// What to answer the plugin about a pod without a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// No policy matches it, and it asks for nothing: it is the delegate's.
    Delegate,
    /// Its branch comes.
    Wait,
    /// It is not wired. The notice's message says why.
    Refuse(Notice),
    /// It is wired as if no policy matched.
    WireAnyway(Notice),
}

/// Judges a pod that arrives without a branch.
pub fn arrival(pod: &Pod, cluster: &ClusterFacts, coming: Coming<'_>, unmatched: Unmatched) -> Arrival {
    // Whose groups they would be does not matter to whether there is a branch to wait for.
    let Some(groups) = groups_wanted(pod, cluster, &GroupSet::default()) else { return Arrival::Delegate };
    let why = match coming {
        _ if pod.requested > 0 => return Arrival::Wait,
        Coming::Yes => return Arrival::Wait,
        // What is refused may come to be: the plugin asks again.
        Coming::Refused(_) if unmatched == Unmatched::Refuse => return Arrival::Wait,
        Coming::Refused(reason) => format!("it gets no branch: {reason}"),
        Coming::Never => "whoever makes branches here makes none without it".to_owned(),
    };
    let missing = format!(
        "pod {}: policies give it {groups}, but it was admitted without the resource {RESOURCE}, and {why}",
        pod_name(pod)
    );
    let notice = |outcome| Notice {
        about: Purpose::Pod { uid: pod.uid.clone(), name: pod_name(pod) },
        severity: Severity::Warning,
        reason: "AdmittedWithoutBranch",
        message: format!("{missing}; {outcome}"),
    };
    match unmatched {
        Unmatched::Refuse => Arrival::Refuse(notice("it is not started: delete it, so that it is admitted anew")),
        Unmatched::Warn => Arrival::WireAnyway(notice("it is started with the node's groups (--unmatched=warn)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::observed::{LabelSelector, SecurityGroupPolicy};

    fn judged(policies: usize, requested: u64, coming: Coming<'_>, unmatched: Unmatched) -> Arrival {
        let policy = SecurityGroupPolicy {
            namespace: "ns".into(),
            pod_selector: Some(LabelSelector::default()),
            group_ids: vec!["sg-1".into()],
            ..SecurityGroupPolicy::default()
        };
        let cluster = ClusterFacts { policies: vec![policy; policies], ..ClusterFacts::default() };
        let pod = Pod { namespace: "ns".into(), name: "p".into(), requested, ..Pod::default() };
        arrival(&pod, &cluster, coming, unmatched)
    }

    #[test]
    fn a_matched_pod_without_the_resource_is_refused_where_nobody_makes_it_a_branch() {
        let Arrival::Refuse(notice) = judged(1, 0, Coming::Never, Unmatched::Refuse) else { panic!("not refused") };
        assert!(notice.message.contains("ns/p") && notice.message.contains("sg-1"), "{}", notice.message);
        assert!(matches!(judged(1, 0, Coming::Never, Unmatched::Warn), Arrival::WireAnyway(_)));
        assert!(matches!(judged(1, 0, Coming::Refused("full"), Unmatched::Warn), Arrival::WireAnyway(_)));
    }

    #[test]
    fn a_pod_whose_branch_comes_waits_and_one_that_no_policy_matches_is_the_delegates() {
        for unmatched in [Unmatched::Refuse, Unmatched::Warn] {
            assert_eq!(judged(1, 0, Coming::Yes, unmatched), Arrival::Wait);
            assert_eq!(judged(1, 1, Coming::Never, unmatched), Arrival::Wait);
            assert_eq!(judged(0, 1, Coming::Refused("full"), unmatched), Arrival::Wait);
            assert_eq!(judged(0, 0, Coming::Never, unmatched), Arrival::Delegate);
        }
        assert_eq!(judged(1, 0, Coming::Refused("full"), Unmatched::Refuse), Arrival::Wait);
    }
}
