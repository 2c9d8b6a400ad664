//! Which groups a pod gets (facts 1.2): the union of all matching policies of its namespace.

use std::collections::BTreeMap;

use super::groups::GroupSet;
use super::observed::{ClusterFacts, Expression, LabelSelector, Pod, SecurityGroupPolicy};

type Labels = BTreeMap<String, String>;

/// The groups of a pod; empty where no policy matches.
pub fn groups_of(pod: &Pod, cluster: &ClusterFacts) -> GroupSet {
    if pod.host_network {
        return GroupSet::default();
    }
    let account = cluster.service_accounts.get(&(pod.namespace.clone(), pod.service_account.clone()));
    let matching = cluster.policies.iter().filter(|policy| policy.namespace == pod.namespace);
    let matching = matching.filter(|policy| matches(policy, &pod.labels, account));
    GroupSet::of(matching.flat_map(|policy| policy.group_ids.iter().cloned()))
}

/// Whether some policy of the pod's namespace hangs on the labels of its ServiceAccount.
pub fn account_matters(pod: &Pod, policies: &[SecurityGroupPolicy]) -> bool {
    let selects_pod = |policy: &SecurityGroupPolicy| {
        policy.pod_selector.as_ref().is_none_or(|selector| selects(selector, &pod.labels))
    };
    let valid = policies.iter().filter(|policy| policy.namespace == pod.namespace && !policy.group_ids.is_empty());
    valid.filter(|policy| policy.service_account_selector.is_some()).any(selects_pod)
}

/// A policy without selectors or without groups is invalid and skipped. Both selectors must hold where both
/// are given. A ServiceAccount that is not there has no labels to select by.
fn matches(policy: &SecurityGroupPolicy, labels: &Labels, account: Option<&Labels>) -> bool {
    let (pods, accounts) = (&policy.pod_selector, &policy.service_account_selector);
    if policy.group_ids.is_empty() || pods.is_none() && accounts.is_none() {
        return false;
    }
    let by_pod = pods.as_ref().is_none_or(|selector| selects(selector, labels));
    let by_account = accounts.as_ref().is_none_or(|selector| account.is_some_and(|labels| selects(selector, labels)));
    by_pod && by_account
}

/// A selector of which one part does not compile (in Go: `metav1.LabelSelectorAsSelector`) selects nothing (facts 1.2).
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let alike = |(key, value): (&String, &String)| is_key(key) && is_value(value);
    selector.match_labels.iter().all(alike)
        && selector.match_expressions.iter().all(compiles)
        && selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|expression| holds(expression, labels))
}

fn compiles(expression: &Expression) -> bool {
    let wants_values = match expression.operator.as_str() {
        "In" | "NotIn" => true,
        "Exists" | "DoesNotExist" => false,
        _ => return false,
    };
    let values = &expression.values;
    wants_values != values.is_empty() && is_key(&expression.key) && values.iter().all(|value| is_value(value))
}

fn holds(expression: &Expression, labels: &Labels) -> bool {
    let value = labels.get(&expression.key);
    let listed = value.is_some_and(|value| expression.values.contains(value));
    match expression.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        _ => value.is_none(),
    }
}

/// A qualified name: `name`, or `prefix/name` with a DNS name for a prefix (Kubernetes, labels and selectors).
fn is_key(key: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        label.chars().all(inner) && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    match key.split_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('.').all(is_label) && is_name(name),
        None => is_name(key),
    }
}

fn is_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.len() <= 63 && name.chars().all(inner) && ends(name.chars().next()) && ends(name.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn policy(groups: &[&str], pods: Option<LabelSelector>, accounts: Option<LabelSelector>) -> SecurityGroupPolicy {
        SecurityGroupPolicy {
            namespace: "ns".into(),
            name: "p".into(),
            pod_selector: pods,
            service_account_selector: accounts,
            group_ids: groups.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn label(key: &str, value: &str) -> Option<LabelSelector> {
        Some(LabelSelector { match_labels: labels(&[(key, value)]), match_expressions: vec![] })
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> Option<LabelSelector> {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let expression = Expression { key: key.into(), operator: operator.into(), values };
        Some(LabelSelector { match_labels: Labels::new(), match_expressions: vec![expression] })
    }

    fn groups(policies: Vec<SecurityGroupPolicy>) -> String {
        let pod = Pod {
            namespace: "ns".into(),
            labels: labels(&[("role", "db")]),
            service_account: "sa".into(),
            ..Pod::default()
        };
        let account = (("ns".to_owned(), "sa".to_owned()), labels(&[("team", "a")]));
        let cluster = ClusterFacts { policies, service_accounts: [account].into(), ..ClusterFacts::default() };
        groups_of(&pod, &cluster).to_string()
    }

    #[test]
    fn all_matching_policies_are_united_without_repetition() {
        let both = vec![
            policy(&["sg-2", "sg-1"], label("role", "db"), None),
            policy(&["sg-1", "sg-3"], None, label("team", "a")),
        ];
        assert_eq!(groups(both), "sg-1,sg-2,sg-3");
    }

    #[test]
    fn an_empty_selector_matches_everything_and_a_missing_one_nothing() {
        assert_eq!(groups(vec![policy(&["sg-1"], Some(LabelSelector::default()), None)]), "sg-1");
        assert_eq!(groups(vec![policy(&["sg-1"], None, None)]), "");
        assert_eq!(groups(vec![policy(&[], label("role", "db"), None)]), "");
    }

    #[test]
    fn two_selectors_must_both_hold() {
        assert_eq!(groups(vec![policy(&["sg-1"], label("role", "db"), label("team", "a"))]), "sg-1");
        assert_eq!(groups(vec![policy(&["sg-1"], label("role", "db"), label("team", "b"))]), "");
        assert_eq!(groups(vec![policy(&["sg-1"], label("role", "web"), label("team", "a"))]), "");
    }

    #[test]
    fn expressions_follow_kubernetes_and_broken_ones_match_nothing() {
        for (operator, values, expected) in [
            ("In", &["db", "x"][..], "sg-1"),
            ("In", &["x"][..], ""),
            ("In", &[][..], ""),
            ("NotIn", &["x"][..], "sg-1"),
            ("Exists", &[][..], "sg-1"),
            ("DoesNotExist", &[][..], ""),
            ("Like", &["db"][..], ""),
        ] {
            let found = groups(vec![policy(&["sg-1"], expression("role", operator, values), None)]);
            assert_eq!(found, expected, "{operator} {values:?}");
        }
    }

    #[test]
    fn a_selector_with_an_illegal_key_or_value_selects_nothing_even_where_it_would_exclude() {
        let long = "a".repeat(64);
        for (key, values) in
            [("role", ["a b"]), ("role", [long.as_str()]), ("-role", ["x"]), ("a_b/role", ["x"]), ("/role", ["x"])]
        {
            assert_eq!(
                groups(vec![policy(&["sg-1"], expression(key, "NotIn", &values), None)]),
                "",
                "{key} {values:?}"
            );
        }
        assert_eq!(groups(vec![policy(&["sg-1"], expression("ro le", "DoesNotExist", &[]), None)]), "");
        let good = expression("app.kubernetes.io/name", "NotIn", &["A.b-c_9", ""]);
        assert_eq!(groups(vec![policy(&["sg-1"], good, None)]), "sg-1");
    }
}
