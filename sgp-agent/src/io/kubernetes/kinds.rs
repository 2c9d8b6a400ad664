//! Kinds of AWS's that this agent reads or writes; `tests/deploy.rs` prints them as CRDs.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// AWS's kinds require no spec (facts 1.1), and the objects of a kind are listed together: one without would keep all the
/// others from being read. What serde makes of a field that is missing is `None`, for who asks for an option. `remote` has
/// serde derive what is called here and is no implementation yet.
macro_rules! read_even_if_missing {
    ($($spec:ident),*) => {$(
        impl<'de> Deserialize<'de> for $spec {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Written($spec);
                impl<'de> Deserialize<'de> for Written {
                    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                        $spec::deserialize(deserializer).map(Self)
                    }
                }
                Ok(Option::<Written>::deserialize(deserializer)?.map(|written| written.0).unwrap_or_default())
            }
        }

        impl Serialize for $spec {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $spec::serialize(self, serializer)
            }
        }
    )*};
}

read_even_if_missing!(SecurityGroupPolicySpec, CniNodeSpec, EniConfigSpec);

/// All kinds as the API server is told of them.
pub fn crds() -> [CustomResourceDefinition; 4] {
    let awss = [SecurityGroupPolicy::crd(), CNINode::crd(), ENIConfig::crd()].map(without_required_spec);
    let [policies, nodes, configs] = awss;
    [policies, nodes, configs, SecurityGroupMembership::crd()]
}

fn without_required_spec(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let schemas =
        crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(|schema| schema.required = None);
    crd
}

/// Spec of a SecurityGroupPolicy, AWS's own kind (facts 1.1). Nothing in it is required, not even itself, and nothing is
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
#[serde(rename_all = "camelCase", remote = "Self")]
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
#[serde(remote = "Self")]
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
#[serde(rename_all = "camelCase", remote = "Self")]
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

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;

    use super::*;

    #[test]
    fn one_object_without_a_spec_does_not_keep_the_others_from_being_read() {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [
            {"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy", "metadata": {"name": "bare"}},
            {"apiVersion": "vpcresources.k8s.aws/v1beta1", "kind": "SecurityGroupPolicy", "metadata": {"name": "whole"},
             "spec": {"podSelector": {}, "securityGroups": {"groupIds": ["sg-1"]}}},
        ]});
        let list: ObjectList<SecurityGroupPolicy> = serde_json::from_value(list).expect("both are read");
        assert!(list.items[0].spec.pod_selector.is_none() && list.items[0].spec.security_groups.is_none());
        let groups = list.items[1].spec.security_groups.clone().and_then(|groups| groups.group_ids);
        assert_eq!(groups.as_deref(), Some(&["sg-1".to_owned()][..]));
        let written = serde_json::to_value(&list.items[1]).expect("it is written");
        assert_eq!(written["spec"]["securityGroups"]["groupIds"][0], "sg-1");
        for kind in ["CNINode", "ENIConfig"] {
            let bare = serde_json::json!({"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "bare"}});
            assert!(serde_json::from_value::<CNINode>(bare.clone()).is_ok());
            assert!(serde_json::from_value::<ENIConfig>(bare).is_ok());
        }
    }
}
