//! Which groups a pod gets.

use std::collections::BTreeMap;

use sgp_agent::domain::branches::groups_wanted;
use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::node_object::instance_of;
use sgp_agent::domain::observed::{ClusterFacts, Expression, LabelSelector, Pod, SecurityGroupPolicy};

use super::{Case, case};

const HELPER: &str = "utils/helper_test";
const PERPODSG: &str = "perpodsg_test";

pub(super) const CASES: [Case; 20] = [
    case(HELPER, "RemoveDuplicatedSg: one group twice", "sg-1,sg-2", || {
        both(policy(&["sg-2", "sg-1"], pods("db"), None), policy(&["sg-1"], pods("db"), None))
    }),
    case(HELPER, "CombinedSelectors: pod and account match", "sg-1", || {
        one(policy(&["sg-1"], pods("db"), accounts("a")))
    }),
    case(PERPODSG, "label and expression: the account does not match", "", || {
        one(policy(&["sg-1"], pods("db"), accounts("b")))
    }),
    case(HELPER, "PodSelectors", "sg-1", || one(policy(&["sg-1"], pods("db"), None))),
    case(HELPER, "SASelectors", "sg-1", || one(policy(&["sg-1"], None, accounts("a")))),
    case(HELPER, "Multi_SGPs: account policy and pod policy", "sg-1,sg-2", || {
        both(policy(&["sg-1"], None, accounts("a")), policy(&["sg-2"], pods("db"), None))
    }),
    case(HELPER, "EmptyPodSelector", "sg-1", || one(policy(&["sg-1"], Some(LabelSelector::default()), None))),
    case(HELPER, "EmptySASelector", "sg-1", || one(policy(&["sg-1"], None, Some(LabelSelector::default())))),
    case(HELPER, "MatchLabel of the pod differs", "", || one(policy(&["sg-1"], pods("web"), None))),
    case(HELPER, "MatchExpressions of the pod: In", "sg-1", || {
        one(policy(&["sg-1"], expression("role", "In", &["db"]), None))
    }),
    case(HELPER, "MatchExpressions of the account: NotIn", "", || {
        one(policy(&["sg-1"], None, expression("team", "NotIn", &["a"])))
    }),
    case(HELPER, "MismatchedSASelector", "", || one(policy(&["sg-1"], None, accounts("b")))),
    case(HELPER, "EmptySecurityGroupInSGP", "", || one(policy(&[], pods("db"), None))),
    case("CRD", "a policy without selectors", "", || one(policy(&["sg-1"], None, None))),
    case(HELPER, "another namespace's policy", "", || {
        one(SecurityGroupPolicy { namespace: "other".into(), ..policy(&["sg-1"], pods("db"), None) })
    }),
    case(HELPER, "the account is missing (ours: no error where no policy selects by one)", "sg-1", || {
        wanted(vec![policy(&["sg-1"], pods("db"), None)], Pod { service_account: "missing".into(), ..pod() })
    }),
    case(HELPER, "PodHasENIRequest without a policy: the node's groups", "sg-node", || {
        wanted(vec![], Pod { requested: 1, ..pod() })
    }),
    case("pod_webhook_test", "hostNetwork", "no branch", || {
        wanted(vec![policy(&["sg-1"], pods("db"), None)], Pod { host_network: true, ..pod() })
    }),
    case(HELPER, "GetNodeID: 8 and 17 digits", "i-01234567 i-0123456789abcdef0", || {
        let of = |text: &'static str| instance_of(text).unwrap_or("none");
        format!("{} {}", of("aws:///us-west-2a/i-01234567"), of("aws:///us-west-2a/i-0123456789abcdef0"))
    }),
    case(HELPER, "GetNodeID: missing and malformed", "refused refused refused", || {
        let of = |text: &str| instance_of(text).map_or("refused", |_| "taken");
        format!("{} {} {}", of(""), of("aws:///us-west-2a/i-0123"), of("fargate:///i-0123456g"))
    }),
];

fn pod() -> Pod {
    Pod { namespace: "ns".into(), service_account: "sa".into(), labels: labels("role", "db"), ..Pod::default() }
}

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    [(key.to_owned(), value.to_owned())].into()
}

fn pods(role: &str) -> Option<LabelSelector> {
    Some(LabelSelector { match_labels: labels("role", role), match_expressions: vec![] })
}

fn accounts(team: &str) -> Option<LabelSelector> {
    Some(LabelSelector { match_labels: labels("team", team), match_expressions: vec![] })
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Option<LabelSelector> {
    let values = values.iter().map(|value| (*value).to_owned()).collect();
    let expression = Expression { key: key.into(), operator: operator.into(), values };
    Some(LabelSelector { match_labels: BTreeMap::new(), match_expressions: vec![expression] })
}

fn policy(groups: &[&str], pods: Option<LabelSelector>, accounts: Option<LabelSelector>) -> SecurityGroupPolicy {
    SecurityGroupPolicy {
        namespace: "ns".into(),
        name: "policy".into(),
        pod_selector: pods,
        service_account_selector: accounts,
        group_ids: groups.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn wanted(policies: Vec<SecurityGroupPolicy>, pod: Pod) -> String {
    let accounts = [(("ns".to_owned(), "sa".to_owned()), labels("team", "a"))].into();
    let cluster = ClusterFacts { policies, service_accounts: accounts, ..ClusterFacts::default() };
    match groups_wanted(&pod, &cluster, &GroupSet::of(["sg-node"])) {
        Some(groups) => groups.to_string(),
        None if pod.host_network => "no branch".into(),
        None => String::new(),
    }
}

fn one(policy: SecurityGroupPolicy) -> String {
    wanted(vec![policy], pod())
}

fn both(first: SecurityGroupPolicy, second: SecurityGroupPolicy) -> String {
    wanted(vec![first, second], pod())
}
