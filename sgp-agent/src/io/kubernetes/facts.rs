//! From Kubernetes' types to facts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use super::kinds::{CNINode, ENIConfig, SecurityGroupPolicy};
use crate::domain::annotation::{self, POD_ENI};
use crate::domain::groups::GroupSet;
use crate::domain::node_object::RESOURCE;
use crate::domain::observed;

pub(super) fn pod_facts(pod: &Pod) -> observed::Pod {
    let spec = pod.spec.as_ref();
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    observed::Pod {
        uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        labels: pod.labels().clone(),
        service_account: spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".into()),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        ended: matches!(phase, "Succeeded" | "Failed"),
        requested: spec.map_or(0, |spec| spec.containers.iter().map(requested).sum()),
        branch: pod.annotations().get(POD_ENI).map(|text| annotation::parse(text)),
    }
}

/// Branches a container requests; init containers do not count (facts 1.6).
fn requested(container: &Container) -> u64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.and_then(|requests| requests.get(RESOURCE)?.0.parse().ok()).unwrap_or_default()
}

pub(super) fn policy_facts(policy: &SecurityGroupPolicy) -> observed::SecurityGroupPolicy {
    let groups = policy.spec.security_groups.as_ref().and_then(|groups| groups.group_ids.clone());
    observed::SecurityGroupPolicy {
        namespace: policy.namespace().unwrap_or_default(),
        name: policy.name_any(),
        pod_selector: policy.spec.pod_selector.as_ref().map(selector_facts),
        service_account_selector: policy.spec.service_account_selector.as_ref().map(selector_facts),
        group_ids: groups.unwrap_or_default(),
    }
}

fn selector_facts(selector: &LabelSelector) -> observed::LabelSelector {
    let expressions = selector.match_expressions.clone().unwrap_or_default().into_iter();
    observed::LabelSelector {
        match_labels: selector.match_labels.clone().unwrap_or_default(),
        match_expressions: expressions
            .map(|expression| observed::Expression {
                key: expression.key,
                operator: expression.operator,
                values: expression.values.unwrap_or_default(),
            })
            .collect(),
    }
}

pub(super) fn account_facts(account: &ServiceAccount) -> ((String, String), BTreeMap<String, String>) {
    ((account.namespace().unwrap_or_default(), account.name_any()), account.labels().clone())
}

pub(super) fn node_facts(node: &Node) -> observed::NodeFacts {
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.clone()).unwrap_or_default().into_iter();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let capacity = status.and_then(|status| status.capacity.as_ref());
    observed::NodeFacts {
        name: node.name_any(),
        uid: node.uid().unwrap_or_default(),
        labels: node.labels().clone(),
        annotations: node.annotations().clone(),
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
        branch_capacity: capacity.and_then(|capacity| capacity.get(RESOURCE)).map(|quantity| quantity.0.clone()),
    }
}

pub(super) fn cni_node_facts(cni_node: &CNINode) -> observed::CniNode {
    let features = cni_node.spec.features.clone().unwrap_or_default().into_iter();
    observed::CniNode {
        features: features.filter_map(|feature| Some((feature.name?, feature.value.unwrap_or_default()))).collect(),
        tags: cni_node.spec.tags.clone().unwrap_or_default(),
    }
}

pub(super) fn eni_config_facts(config: &ENIConfig) -> (String, observed::EniConfig) {
    let groups = GroupSet::of(config.spec.security_groups.clone().unwrap_or_default());
    (config.name_any(), observed::EniConfig { subnet_id: config.spec.subnet.clone().unwrap_or_default(), groups })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    use super::*;

    fn container(count: Option<&str>) -> Container {
        let requests = count.map(|count| [(RESOURCE.to_owned(), Quantity(count.to_owned()))].into());
        let resources = Some(ResourceRequirements { requests, ..ResourceRequirements::default() });
        Container { resources, ..Container::default() }
    }

    #[test]
    fn branches_are_requested_by_any_container_and_by_no_init_container() {
        let spec = PodSpec {
            containers: vec![container(None), container(Some("1")), container(Some("2"))],
            init_containers: Some(vec![container(Some("4"))]),
            ..PodSpec::default()
        };
        assert_eq!(pod_facts(&Pod { spec: Some(spec), ..Pod::default() }).requested, 3);
        assert_eq!(pod_facts(&Pod::default()).requested, 0);
    }
}
