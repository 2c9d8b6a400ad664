//! What a change of policies means for pods that run.

use sgp_agent::domain::branches::{BranchSettings, CloudStep, RunningPods};
use sgp_agent::domain::groups::{GroupSet, SecurityGroup};
use sgp_agent::domain::observed::{BranchAnnotation, Observed};

use super::world::*;

/// The pod of the world runs with a branch of the group `sg-old`, and a policy now says `sg-1`.
fn running() -> Observed {
    let mut observed = world();
    let mut eni = branch("eni-2", "u-1", 7);
    eni.groups = GroupSet::of(["sg-old"]);
    cloud(&mut observed).interfaces.insert("eni-2".into(), eni);
    on_trunk(&mut observed, "eni-2", 7);
    let annotated = BranchAnnotation {
        interface_id: "eni-2".into(),
        mac: String::new(),
        private_ip: None,
        ipv6_addr: None,
        vlan_id: 7,
        subnet_cidr: None,
        subnet_v6_cidr: None,
        association_id: None,
    };
    observed.cluster.as_mut().expect("a cluster").pods.get_mut("u-1").expect("the pod").branch = Some(Ok(annotated));
    observed
}

fn live() -> BranchSettings {
    BranchSettings { running: RunningPods::FollowPolicies, ..settings() }
}

#[test]
fn a_running_pod_keeps_its_groups_as_on_aws() {
    let steps = plan(&running()).steps;
    assert!(!steps.iter().any(|step| matches!(step, CloudStep::SetGroups { .. })), "{steps:?}");
}

#[test]
fn with_live_groups_a_running_pod_gets_what_a_new_one_would_in_one_call() {
    let steps = plan_with(&running(), &live()).steps;
    let [CloudStep::SetGroups { branch, groups, .. }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!((branch.as_str(), groups), ("eni-2", &GroupSet::of(["sg-1"])));
    let mut done = running();
    cloud(&mut done).interfaces.get_mut("eni-2").expect("the branch").groups = GroupSet::of(["sg-1"]);
    assert_eq!(plan_with(&done, &live()).steps, []);
}

#[test]
fn with_live_groups_a_pod_that_no_policy_matches_any_more_and_one_of_unknown_groups_keep_theirs() {
    let mut unmatched = running();
    let cluster = unmatched.cluster.as_mut().expect("a cluster");
    cluster.policies.clear();
    cluster.pods.get_mut("u-1").expect("the pod").requested = 1;
    assert_eq!(plan_with(&unmatched, &live()).steps, []);
    let mut unknown = running();
    cloud(&mut unknown).groups.clear();
    let planned = plan_with(&unknown, &live());
    assert_eq!(planned.steps, []);
    assert!(planned.refused[0].reason.contains("it keeps its groups sg-old"), "{:?}", planned.refused);
}

#[test]
fn with_live_groups_branches_of_somebody_else_are_left_alone() {
    let mut observed = running();
    cloud(&mut observed).interfaces.get_mut("eni-2").expect("the branch").tags.clear();
    let group = SecurityGroup { id: "sg-old".into(), vpc_id: "vpc-1".into(), rules: Vec::new() };
    cloud(&mut observed).groups.insert("sg-old".into(), group);
    assert_eq!(plan_with(&observed, &live()).steps, []);
}
