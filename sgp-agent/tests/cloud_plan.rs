//! What is planned for EC2: nothing is lost, nothing in use is touched.

use std::collections::BTreeMap;

use sgp_agent::domain::branches::{
    BranchSettings, CloudPlan, CloudStep, INSTANCE_TAG, OWNER, OWNER_TAG, POD_UID_TAG, VLAN_TAG, cloud_plan,
};
use sgp_agent::domain::groups::{GroupSet, SecurityGroup};
use sgp_agent::domain::observed::{
    Association, Attachment, CloudFacts, ClusterFacts, Instance, LabelSelector, LinkFacts, NetworkInterface, Observed,
    Pod, SecurityGroupPolicy,
};
use sgp_agent::domain::wiring::Alias;

const SETTINGS: BranchSettings = BranchSettings { cluster_name: String::new(), cooldown_s: 60 };

fn trunk() -> NetworkInterface {
    let attachment = Attachment { instance_id: "i-1".into(), status: "attached".into(), ..Attachment::default() };
    let (id, interface_type) = ("eni-trunk".into(), "trunk".into());
    NetworkInterface { id, interface_type, attachment: Some(attachment), ..NetworkInterface::default() }
}

/// A branch of this node, made for the pod with this UID.
fn branch(id: &str, uid: &str, vlan_id: u16) -> NetworkInterface {
    let tags = [
        (OWNER_TAG, OWNER.to_owned()),
        (INSTANCE_TAG, "i-1".to_owned()),
        (POD_UID_TAG, uid.to_owned()),
        (VLAN_TAG, vlan_id.to_string()),
    ];
    let tags = tags.map(|(key, value)| (key.to_owned(), value));
    NetworkInterface { id: id.into(), tags: tags.into(), ..NetworkInterface::default() }
}

/// A node with a trunk, and one pod that a policy gives the group `sg-1`.
fn world() -> Observed {
    let pod = Pod { uid: "u-1".into(), namespace: "shop".into(), name: "cart".into(), ..Pod::default() };
    let policy = SecurityGroupPolicy {
        namespace: "shop".into(),
        name: "all".into(),
        pod_selector: Some(LabelSelector::default()),
        service_account_selector: None,
        group_ids: vec!["sg-1".into()],
    };
    let cluster =
        ClusterFacts { pods: BTreeMap::from([("u-1".into(), pod)]), policies: vec![policy], ..ClusterFacts::default() };
    let instance = Instance { id: "i-1".into(), branch_limit: 18, interface_limit: 4, ..Instance::default() };
    let group = SecurityGroup { id: "sg-1".into(), vpc_id: "vpc-1".into(), rules: Vec::new() };
    let cloud = CloudFacts {
        instance,
        groups: BTreeMap::from([("sg-1".into(), group)]),
        interfaces: BTreeMap::from([("eni-trunk".into(), trunk())]),
        ..CloudFacts::default()
    };
    Observed { cluster: Some(cluster), cloud: Some(cloud), links: Some(Vec::new()), ..Observed::default() }
}

fn cloud(observed: &mut Observed) -> &mut CloudFacts {
    observed.cloud.as_mut().expect("the world has a cloud")
}

fn plan(observed: &Observed) -> CloudPlan {
    cloud_plan(observed, &SETTINGS, &BTreeMap::new(), 0)
}

fn after_cooldown(observed: &Observed, branch: &str) -> CloudPlan {
    cloud_plan(observed, &SETTINGS, &BTreeMap::from([(branch.to_owned(), 0)]), 60)
}

#[test]
fn a_pod_that_a_policy_matches_gets_a_branch_with_the_lowest_free_vlan_id() {
    let steps = plan(&world()).steps;
    let [CloudStep::CreateBranch { uid, groups, tags, .. }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!((uid.as_str(), groups), ("u-1", &GroupSet::of(["sg-1"])));
    assert_eq!(tags.get(VLAN_TAG).map(String::as_str), Some("1"));
}

#[test]
fn vlan_ids_of_other_trunks_are_free_on_this_one() {
    let mut observed = world();
    let other = Association { id: "a".into(), trunk_id: "eni-other".into(), branch_id: "eni-9".into(), vlan_id: 1 };
    cloud(&mut observed).associations.insert("eni-9".into(), other);
    let steps = plan(&observed).steps;
    let [CloudStep::CreateBranch { tags, .. }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!(tags.get(VLAN_TAG).map(String::as_str), Some("1"));
}

#[test]
fn an_unknown_group_is_refused_by_id_and_nothing_is_made() {
    let mut observed = world();
    cloud(&mut observed).groups.clear();
    let planned = plan(&observed);
    assert_eq!(planned.steps, []);
    let reasons: Vec<&String> = planned.refused.iter().map(|refusal| &refusal.reason).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("InvalidSecurityGroupID.NotFound") && reason.contains("sg-1")),
        "{reasons:?}"
    );
}

#[test]
fn a_branch_that_an_earlier_agent_made_is_taken_up_and_not_made_again() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-1", 7));
    let steps = plan(&observed).steps;
    assert!(matches!(&steps[..], [CloudStep::Associate { vlan_id: 7, .. }]), "planned {steps:?}");
}

#[test]
fn a_branch_whose_pod_is_gone_rests_and_is_then_deleted() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
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
    observed.links = Some(vec![LinkFacts { name: "eni0".into(), index: 9, mac: [2; 6], alias: Some(alias) }]);
    let planned = after_cooldown(&observed, "eni-2");
    assert!(planned.resting.is_empty(), "resting {:?}", planned.resting);
    assert!(!planned.steps.iter().any(|step| matches!(step, CloudStep::Delete { .. })));
}

#[test]
fn an_interface_without_our_tags_is_never_touched() {
    let mut observed = world();
    let mut foreign = branch("eni-3", "u-gone", 7);
    foreign.tags.remove(OWNER_TAG);
    cloud(&mut observed).interfaces.insert("eni-3".into(), foreign);
    assert!(after_cooldown(&observed, "eni-3").resting.is_empty());
}
