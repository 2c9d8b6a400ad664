//! Branches without a pod.

use std::collections::BTreeSet;

use sgp_agent::domain::branches::{
    BranchSettings, CloudPlan, CloudStep, Memory, OWNER_TAG, POD_UID_TAG, Purpose, VLAN_TAG, cloud_plan,
};
use sgp_agent::domain::groups::{EndpointId, GroupSet};
use sgp_agent::domain::observed::{LinkFacts, Subnet};
use sgp_agent::domain::wiring::Alias;

use crate::world::*;

#[test]
fn a_branch_whose_pod_is_gone_rests_and_is_then_deleted() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    observed.cluster.as_mut().expect("a cluster").pods.clear();
    let deletes = |plan: CloudPlan| plan.steps.into_iter().any(|step| matches!(step, CloudStep::Delete { .. }));
    assert!(!deletes(plan(&observed)));
    assert!(deletes(after_cooldown(&observed, "eni-2")));
}

/// `kubectl delete --force` takes the object while the container goes on.
#[test]
fn a_branch_whose_wiring_still_stands_is_kept_although_its_pod_is_gone() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    let alias = Alias { interface_id: "eni-2".into(), uid: "u-gone".into(), mac: [2; 6] }.write();
    observed.links = Some(vec![LinkFacts {
        name: "eni0".into(),
        index: 9,
        mac: [2; 6],
        alias: Some(alias),
        ..LinkFacts::default()
    }]);
    let planned = after_cooldown(&observed, "eni-2");
    assert!(planned.resting.is_empty(), "resting {:?}", planned.resting);
    assert!(!planned.steps.iter().any(|step| matches!(step, CloudStep::Delete { .. })));
}

#[test]
fn a_branch_whose_endpoint_the_kernel_still_holds_is_kept_too() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    let held = BTreeSet::from([EndpointId::of("eni-2")]);
    let planned = cloud_plan(&observed, &held, &settings(), &Memory::default(), 60);
    assert!(planned.resting.is_empty(), "resting {:?}", planned.resting);
}

#[test]
fn a_branch_that_is_on_the_trunk_free_and_rested_is_claimed_and_given_the_pods_groups() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "", 7));
    on_trunk(&mut observed, "eni-2", 7);
    let steps = plan(&observed).steps;
    let [CloudStep::Tag { tags, .. }, CloudStep::SetGroups { groups, .. }] = &steps[..] else {
        panic!("planned {steps:?}")
    };
    assert_eq!(tags.get(POD_UID_TAG).map(String::as_str), Some("u-1"));
    assert_eq!(groups, &GroupSet::of(["sg-1"]));
}

#[test]
fn the_next_pod_gets_the_branch_of_one_that_ended_once_it_is_cool() {
    let mut observed = world();
    cloud(&mut observed).instance.branch_limit = 1;
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    on_trunk(&mut observed, "eni-2", 7);
    let waiting = plan(&observed);
    assert_eq!(waiting.steps, []);
    assert!(waiting.refused[0].reason.contains("it waits for one to be free again"), "{:?}", waiting.refused);
    let steps = after_cooldown(&observed, "eni-2").steps;
    assert!(matches!(&steps[..], [CloudStep::Tag { .. }, CloudStep::SetGroups { .. }]), "planned {steps:?}");
}

#[test]
fn the_pool_is_filled_after_the_pods_and_only_where_there_is_a_policy() {
    let warm = BranchSettings { warm: 2, ..settings() };
    let mut observed = world();
    let purposes: Vec<Purpose> = plan_with(&observed, &warm).steps.iter().map(CloudStep::purpose).collect();
    assert!(matches!(&purposes[..], [Purpose::Pod { .. }, Purpose::Pool, Purpose::Pool]), "{purposes:?}");
    let cluster = observed.cluster.as_mut().expect("a cluster");
    cluster.policies.clear();
    assert_eq!(plan_with(&observed, &warm).steps, []);
}

#[test]
fn the_pool_leaves_the_last_addresses_of_a_subnet() {
    let warm = BranchSettings { warm: 2, ..settings() };
    let mut observed = world();
    let subnet = Subnet { free_addresses: Some(9), ..Subnet::default() };
    cloud(&mut observed).subnets.insert(String::new(), subnet);
    let purposes: Vec<Purpose> = plan_with(&observed, &warm).steps.iter().map(CloudStep::purpose).collect();
    assert!(matches!(&purposes[..], [Purpose::Pod { .. }]), "{purposes:?}");
}

#[test]
fn two_branches_that_claim_one_vlan_id_get_two() {
    let mut observed = world();
    for id in ["eni-2", "eni-3"] {
        cloud(&mut observed).interfaces.insert(id.into(), branch(id, "", 1));
    }
    on_trunk(&mut observed, "eni-3", 1);
    let warm = BranchSettings { warm: 3, ..settings() };
    let steps = plan_with(&observed, &warm).steps;
    let retagged = steps.iter().find_map(|step| match step {
        CloudStep::Tag { branch, tags, .. } if branch == "eni-2" => tags.get(VLAN_TAG).cloned(),
        _ => None,
    });
    assert_eq!(retagged.as_deref(), Some("2"), "planned {steps:?}");
}

#[test]
fn an_interface_without_our_tags_is_never_touched() {
    let mut observed = world();
    let mut foreign = branch("eni-3", "u-gone", 7);
    foreign.tags.remove(OWNER_TAG);
    cloud(&mut observed).interfaces.insert("eni-3".into(), foreign);
    assert!(after_cooldown(&observed, "eni-3").resting.is_empty());
}
