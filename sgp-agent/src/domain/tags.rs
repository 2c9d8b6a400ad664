//! What the tags of an interface say: whose it is, and what it is for (facts 2.5, and our own two).
//!
//! Tags are the only memory of provisioning: whatever agent reads them goes on from there.

use std::collections::BTreeMap;

use super::observed::{CloudFacts, NetworkInterface, Pod};

/// Tag: VLAN id of a branch, decimal.
pub const VLAN_TAG: &str = "vpcresources.k8s.aws/vlan-id";
/// Tag: the trunk of a branch.
pub const TRUNK_TAG: &str = "vpcresources.k8s.aws/trunk-eni-id";
/// Tag: who looks after an interface.
pub const OWNER_TAG: &str = "eks:eni:owner";
/// Value of the owner tag on interfaces that are ours; AWS's own controller uses another.
pub const OWNER: &str = "sgp-agent";
/// Tag: the node's instance.
pub const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
/// Tag of our own, on branches only: UID of the pod that has the branch; empty while it is free for the next.
pub const POD_UID_TAG: &str = "sgp.dev/pod-uid";
/// Tag of our own: `namespace/name` of that pod; empty likewise.
pub const POD_TAG: &str = "sgp.dev/pod";
/// VLAN ids of a trunk (facts 2.6).
pub const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=120;

/// Tags by key.
pub type Tags = BTreeMap<String, String>;

/// Key of the tag that says which cluster owns an interface; its value is `owned`.
pub fn cluster_tag(cluster_name: &str) -> String {
    format!("kubernetes.io/cluster/{cluster_name}")
}

/// What every interface of ours carries.
pub fn common(cluster_name: &str, instance_id: &str) -> Tags {
    let tags = [
        (OWNER_TAG.to_owned(), OWNER.to_owned()),
        (cluster_tag(cluster_name), "owned".to_owned()),
        (INSTANCE_TAG.to_owned(), instance_id.to_owned()),
    ];
    tags.into()
}

/// What says whose a branch is; without a pod it is nobody's.
pub fn of_pod(pod: Option<&Pod>) -> Tags {
    let uid = pod.map(|pod| pod.uid.clone()).unwrap_or_default();
    [(POD_UID_TAG.to_owned(), uid), (POD_TAG.to_owned(), pod.map(pod_name).unwrap_or_default())].into()
}

/// `namespace/name`.
pub fn pod_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Whether an interface was made here, for this instance. Nothing else is ever touched.
pub fn is_ours(eni: &NetworkInterface, instance_id: &str) -> bool {
    eni.tags.get(OWNER_TAG).is_some_and(|owner| owner == OWNER)
        && eni.tags.get(INSTANCE_TAG).is_some_and(|id| id == instance_id)
}

/// Branches made here, by id.
pub fn our_branches(cloud: &CloudFacts) -> impl Iterator<Item = &NetworkInterface> {
    let ours = |eni: &&NetworkInterface| is_ours(eni, &cloud.instance.id) && eni.tags.contains_key(POD_UID_TAG);
    cloud.interfaces.values().filter(ours)
}

/// UID of the pod that has a branch, if one has it.
pub fn holder(eni: &NetworkInterface) -> Option<&str> {
    eni.tags.get(POD_UID_TAG).map(String::as_str).filter(|uid| !uid.is_empty())
}

/// The VLAN id a branch says it has.
pub fn vlan_of(eni: &NetworkInterface) -> Option<u16> {
    eni.tags.get(VLAN_TAG)?.parse().ok().filter(|id| VLAN_IDS.contains(id))
}
