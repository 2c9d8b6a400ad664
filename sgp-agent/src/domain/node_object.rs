//! What the Node and its CNINode say of a trunk (facts 1.8).

use super::annotation::POD_ENI;
use super::branches::{CloudStep, Planner};
use super::observed::{CniNode, CniNodeFacts};
use super::tags::INSTANCE_TAG;

/// Label that says a node has its trunk.
pub const TRUNK_LABEL: &str = "vpc.amazonaws.com/has-trunk-attached";
/// CNINode feature that says a node has branches.
pub const FEATURE: &str = "SecurityGroupsForPods";
/// CNINode tag: name of the cluster.
const CLUSTER_NAME_TAG: &str = "cluster.k8s.amazonaws.com/name";

impl Planner<'_> {
    /// Writes what the Node and its CNINode lack, once the trunk stands.
    pub(super) fn node_object(&mut self) {
        let Some(node) = &self.cluster.node else { return };
        let (key, value) = (TRUNK_LABEL.to_owned(), "true".to_owned());
        if node.labels.get(&key) != Some(&value) {
            self.plan.steps.push(CloudStep::LabelNode { key, value });
        }
        let branches = self.cloud.instance.branch_limit;
        if node.branch_capacity.as_deref() != Some(&branches.to_string()) {
            self.plan.steps.push(CloudStep::Advertise { branches });
        }
        self.cni_node();
    }

    fn cni_node(&mut self) {
        let wanted = CniNode {
            features: [(FEATURE.to_owned(), String::new())].into(),
            tags: [
                (CLUSTER_NAME_TAG.to_owned(), self.settings.cluster_name.clone()),
                (INSTANCE_TAG.to_owned(), self.cloud.instance.id.clone()),
            ]
            .into(),
        };
        let there = match &self.cluster.cni_node {
            CniNodeFacts::NoSuchKind => return,
            CniNodeFacts::Missing => CniNode::default(),
            CniNodeFacts::There(there) => there.clone(),
        };
        let features = wanted.features.keys().all(|name| there.features.contains_key(name));
        if !features || !wanted.tags.iter().all(|(key, value)| there.tags.get(key) == Some(value)) {
            self.plan.steps.push(CloudStep::WriteCniNode { wanted });
        }
    }
}

/// The extended resource that pods request and nodes advertise; the annotation has the same name.
pub const RESOURCE: &str = POD_ENI;

/// The instance in a node's provider id (`aws:///<zone>/i-…`): 8 or 17 hexadecimal digits.
///
/// # Errors
/// A sentence that names the provider id.
pub fn instance_of(provider_id: &str) -> Result<&str, String> {
    let id = provider_id.rsplit('/').next().unwrap_or_default();
    let digits = id.strip_prefix("i-").unwrap_or_default();
    let hex = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if hex && matches!(digits.len(), 8 | 17) {
        return Ok(id);
    }
    Err(format!("the provider id {provider_id:?} names no EC2 instance"))
}
