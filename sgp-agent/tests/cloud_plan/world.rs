//! A node with a trunk and one pod, to be changed by each test.

use std::collections::{BTreeMap, BTreeSet};

use sgp_agent::domain::branches::{
    BranchSettings, CloudPlan, INSTANCE_TAG, Memory, OWNER, OWNER_TAG, POD_TAG, POD_UID_TAG, TRUNK_TAG, VLAN_TAG,
    cloud_plan,
};
use sgp_agent::domain::groups::SecurityGroup;
use sgp_agent::domain::observed::{
    Association, Attachment, CloudFacts, ClusterFacts, Instance, LabelSelector, NetworkInterface, Observed, Pod,
    SecurityGroupPolicy,
};

pub(crate) fn settings() -> BranchSettings {
    BranchSettings { cooldown_s: 60, ..BranchSettings::default() }
}

pub(crate) fn trunk() -> NetworkInterface {
    let (instance_id, status) = ("i-1".into(), "attached".into());
    let attachment = Attachment { instance_id, status, delete_on_termination: true, ..Attachment::default() };
    let (id, interface_type) = ("eni-trunk".into(), "trunk".into());
    NetworkInterface { id, interface_type, attachment: Some(attachment), ..NetworkInterface::default() }
}

/// A branch of this node, made for the pod with this UID.
pub(crate) fn branch(id: &str, uid: &str, vlan_id: u16) -> NetworkInterface {
    let tags = [
        (OWNER_TAG, OWNER.to_owned()),
        (INSTANCE_TAG, "i-1".to_owned()),
        (POD_UID_TAG, uid.to_owned()),
        (POD_TAG, if uid == "u-1" { "shop/cart".to_owned() } else { String::new() }),
        (VLAN_TAG, vlan_id.to_string()),
        (TRUNK_TAG, "eni-trunk".to_owned()),
    ];
    let tags = tags.map(|(key, value)| (key.to_owned(), value));
    NetworkInterface { id: id.into(), tags: tags.into(), ..NetworkInterface::default() }
}

/// A node with a trunk, and one pod that a policy gives the group `sg-1`.
pub(crate) fn world() -> Observed {
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

pub(crate) fn cloud(observed: &mut Observed) -> &mut CloudFacts {
    observed.cloud.as_mut().expect("the world has a cloud")
}

pub(crate) fn plan(observed: &Observed) -> CloudPlan {
    plan_with(observed, &settings())
}

pub(crate) fn plan_with(observed: &Observed, settings: &BranchSettings) -> CloudPlan {
    cloud_plan(observed, &BTreeSet::new(), settings, &Memory::default(), 0)
}

pub(crate) fn after_cooldown(observed: &Observed, branch: &str) -> CloudPlan {
    let memory = Memory { ended_s: BTreeMap::from([(branch.to_owned(), 0)]), ..Memory::default() };
    cloud_plan(observed, &BTreeSet::new(), &settings(), &memory, 60)
}

/// Puts a branch on the trunk.
pub(crate) fn on_trunk(observed: &mut Observed, branch: &str, vlan_id: u16) {
    let at = Association {
        id: format!("trunk-assoc-{branch}"),
        trunk_id: "eni-trunk".into(),
        branch_id: branch.into(),
        vlan_id,
    };
    cloud(observed).associations.insert(branch.into(), at);
}
