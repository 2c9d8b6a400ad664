//! Kinds of AWS's that this agent reads or writes; `tests/deploy.rs` prints them as CRDs.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Spec of a SecurityGroupPolicy, AWS's own kind (facts 1.1). Nothing in it is required, and nothing is
/// checked at admission, as on AWS.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "vpcresources.k8s.aws",
    version = "v1beta1",
    kind = "SecurityGroupPolicy",
    plural = "securitygrouppolicies",
    shortname = "sgp",
    namespaced,
    printcolumn = r#"{"name":"Security-Group-Ids","type":"string","jsonPath":".spec.securityGroups.groupIds"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupPolicySpec {
    /// Pods by label; missing matches nothing, empty matches everything.
    pub pod_selector: Option<LabelSelector>,
    /// Pods by the labels of their ServiceAccount.
    pub service_account_selector: Option<LabelSelector>,
    /// The groups that matching pods get.
    pub security_groups: Option<GroupIds>,
}

/// Security groups of a policy.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupIds {
    /// Ids of security groups.
    #[schemars(length(min = 1))]
    pub group_ids: Option<Vec<String>>,
}

/// Spec of a CNINode, AWS's own kind (facts 1.8): what a node's network offers.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[kube(group = "vpcresources.k8s.aws", version = "v1alpha1", kind = "CNINode", plural = "cninodes", shortname = "cnd")]
pub struct CniNodeSpec {
    /// Features by name.
    pub features: Option<Vec<Feature>>,
    /// Tags.
    pub tags: Option<BTreeMap<String, String>>,
}

/// A feature of a CNINode.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Feature {
    /// Its name.
    pub name: Option<String>,
    /// Its value.
    pub value: Option<String>,
}

/// Spec of an ENIConfig, AWS's own kind (facts 1.8): where custom networking puts interfaces.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[kube(group = "crd.k8s.amazonaws.com", version = "v1alpha1", kind = "ENIConfig", plural = "eniconfigs")]
#[serde(rename_all = "camelCase")]
pub struct EniConfigSpec {
    /// Security groups; none means those of the primary interface.
    pub security_groups: Option<Vec<String>>,
    /// Subnet.
    pub subnet: Option<String>,
}

/// Spec of a SecurityGroupMembership, our own kind: addresses that carry one set of groups. The controller writes them, agents
/// read them. The one named `members-index` has no groups; it says that the others are complete, and that somebody looks
/// after them.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "sgp.dev",
    version = "v1alpha1",
    kind = "SecurityGroupMembership",
    plural = "securitygroupmemberships",
    shortname = "sgm",
    printcolumn = r#"{"name":"Groups","type":"string","jsonPath":".spec.groups"}"#,
    printcolumn = r#"{"name":"Generation","type":"integer","jsonPath":".spec.generation"}"#
)]
pub struct SecurityGroupMembershipSpec {
    /// Form of this object; agents leave out what they do not know.
    pub form: u32,
    /// Ids of all groups that these addresses carry.
    pub groups: Vec<String>,
    /// Counts writes; of two objects that have an address, the one with the greater number is right.
    pub generation: u64,
    /// IPv4 and IPv6 addresses.
    #[schemars(length(max = 1000))]
    pub addresses: Vec<String>,
}
