//! AWS's own cases of matching (facts 7.1, helper_test.go), put to us: case, expected, seen.

use std::collections::BTreeMap;

use sgp_agent::domain::branches::groups_wanted;
use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::matching::{account_matters, groups_of};
use sgp_agent::domain::node_object::RESOURCE;
use sgp_agent::domain::observed::{ClusterFacts, Expression, LabelSelector, Pod, SecurityGroupPolicy};

type Selector = Option<LabelSelector>;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn label(key: &str, value: &str) -> Selector {
    Some(LabelSelector { match_labels: labels(&[(key, value)]), match_expressions: Vec::new() })
}

fn within(key: &str, value: &str) -> Selector {
    let expression = Expression { key: key.into(), operator: "In".into(), values: vec![value.into()] };
    Some(LabelSelector { match_labels: BTreeMap::new(), match_expressions: vec![expression] })
}

fn empty() -> Selector {
    Some(LabelSelector::default())
}

fn policy(pod_selector: Selector, service_account_selector: Selector, groups: &[&str]) -> SecurityGroupPolicy {
    let group_ids = groups.iter().map(|id| (*id).to_owned()).collect();
    SecurityGroupPolicy { namespace: "ns".into(), name: "p".into(), pod_selector, service_account_selector, group_ids }
}

fn pod(namespace: &str) -> Pod {
    let labels = labels(&[("role", "db"), ("environment", "qa")]);
    Pod { namespace: namespace.into(), name: "pod".into(), labels, service_account: "sa".into(), ..Pod::default() }
}

fn cluster(policies: Vec<SecurityGroupPolicy>) -> ClusterFacts {
    let account = (("ns".to_owned(), "sa".to_owned()), labels(&[("team", "a")]));
    ClusterFacts { policies, service_accounts: [account].into(), ..ClusterFacts::default() }
}

#[test]
fn pods_are_matched_as_aws_matches_them() {
    let (right, account) = (|| label("role", "db"), || label("team", "a"));
    let rows: Vec<(&str, Vec<SecurityGroupPolicy>, &str)> = vec![
        ("RemoveDuplicatedSg", vec![policy(right(), None, &["sg-1", "sg-2", "sg-1"])], "sg-1,sg-2"),
        ("CombinedSelectors", vec![policy(right(), account(), &["sg-1"])], "sg-1"),
        ("PodSelectors", vec![policy(right(), None, &["sg-1"])], "sg-1"),
        ("SASelectors", vec![policy(None, account(), &["sg-1"])], "sg-1"),
        ("Multi_SGPs", vec![policy(None, account(), &["sg-1"]), policy(right(), None, &["sg-2"])], "sg-1,sg-2"),
        ("EmptyPodSelector", vec![policy(empty(), None, &["sg-1"])], "sg-1"),
        ("EmptySASelector", vec![policy(None, empty(), &["sg-1"])], "sg-1"),
        ("MatchLabel of the pod", vec![policy(label("environment", "qa"), None, &["sg-1"])], "sg-1"),
        ("MatchExpressions of the pod", vec![policy(within("role", "db"), None, &["sg-1"])], "sg-1"),
        ("MatchExpressions of the account", vec![policy(None, within("team", "a"), &["sg-1"])], "sg-1"),
        ("MismatchedSASelector", vec![policy(right(), label("team", "b"), &["sg-1"])], ""),
        ("EmptySecurityGroupInSGP", vec![policy(right(), None, &[])], ""),
        ("no selector at all", vec![policy(None, None, &["sg-1"])], ""),
    ];
    println!("{:<34} {:<12} seen", "case", "expected");
    let mut wrong = Vec::new();
    for (case, policies, expected) in rows {
        let seen = groups_of(&pod("ns"), &cluster(policies)).to_string();
        println!("{case:<34} {expected:<12} {seen}");
        if seen != expected {
            wrong.push(case);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_service_account_is_looked_up_only_where_a_policy_selects_by_one() {
    let account = || label("team", "a");
    for (case, policies, expected) in [
        ("no policy", vec![], false),
        ("by pods alone", vec![policy(label("role", "db"), None, &["sg-1"])], false),
        ("by account alone", vec![policy(None, account(), &["sg-1"])], true),
        ("by both, the pod's matches", vec![policy(label("role", "db"), account(), &["sg-1"])], true),
        ("by both, the pod's does not", vec![policy(label("role", "web"), account(), &["sg-1"])], false),
        ("by account, without groups", vec![policy(None, account(), &[])], false),
    ] {
        assert_eq!(account_matters(&pod("ns"), &policies), expected, "{case}");
        assert!(!account_matters(&pod("other"), &policies), "{case}, in another namespace");
    }
}

#[test]
fn a_request_of_any_container_counts_without_a_policy() {
    let asking = Pod { requested: 1, ..pod("ns") };
    let node = GroupSet::of(["sg-node"]);
    assert_eq!(groups_wanted(&asking, &cluster(vec![]), &node), Some(node.clone()), "{RESOURCE}");
    assert_eq!(groups_wanted(&pod("ns"), &cluster(vec![]), &node), None);
}
