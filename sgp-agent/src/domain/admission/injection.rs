//! Writes the resource into a pod that a policy matches, so that the scheduler counts branches (facts 1.3).

use serde_json::{Value, json};

use super::{Answer, FARGATE_GROUPS, Operation, Question, annotation};
use crate::domain::annotation::POD_ENI;
use crate::domain::groups::GroupSet;
use crate::domain::observed::Pod;

/// Label of pods that Fargate runs.
const FARGATE: &str = "eks.amazonaws.com/fargate-profile";
/// Keys of a pod's nodeSelector that say which system it is for.
const OS_KEYS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// What the policies of the pod's namespace come to, or why that cannot be said.
pub type Matched = Result<GroupSet, String>;

/// What matching needs of a pod that is being created.
pub fn pod_of(question: &Question) -> Pod {
    let (metadata, spec) = (&question.object["metadata"], &question.object["spec"]);
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let labels = metadata["labels"].as_object().into_iter().flatten();
    Pod {
        namespace: text(&metadata["namespace"]).unwrap_or_else(|| question.namespace.clone()),
        name: text(&metadata["name"]).or_else(|| text(&metadata["generateName"])).unwrap_or_default(),
        labels: labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
        service_account: text(&spec["serviceAccountName"]).unwrap_or_else(|| "default".to_owned()),
        host_network: spec["hostNetwork"].as_bool().unwrap_or_default(),
        ..Pod::default()
    }
}

/// Whether the policies decide anything; where they do not, nobody need look for them.
pub fn policies_matter(question: &Question) -> bool {
    question.operation == Operation::Create
        && !on_host_network(question)
        && (is_fargate(question) || !is_windows(question))
}

/// Judges a pod that is created.
pub fn resource_injection(question: &Question, matched: &Matched) -> Answer {
    if question.operation != Operation::Create {
        return Answer::allowed("");
    }
    if on_host_network(question) {
        return Answer::allowed("SGP not supported on Pod running on HostNetwork");
    }
    let fargate = is_fargate(question);
    if !fargate && is_windows(question) {
        return Answer::allowed("Security groups for pods are for Linux pods");
    }
    match matched {
        Err(error) => Answer::denied(&format!("Failed to get Matching SGP for Pods, rejecting event, error {error}")),
        Ok(groups) if fargate => for_fargate(&question.object, groups),
        Ok(groups) if groups.0.is_empty() => Answer::allowed("Pod didn't match any SGP"),
        Ok(_) => Answer { patch: resource(&question.object), ..Answer::allowed("") },
    }
}

fn on_host_network(question: &Question) -> bool {
    question.object["spec"]["hostNetwork"].as_bool().unwrap_or_default()
}

fn is_fargate(question: &Question) -> bool {
    !question.object["metadata"]["labels"][FARGATE].is_null()
}

fn is_windows(question: &Question) -> bool {
    let selector = &question.object["spec"]["nodeSelector"];
    OS_KEYS.iter().any(|key| selector[*key] == "windows")
}

/// One branch, whatever was asked for, of the first container and of no other.
fn resource(pod: &Value) -> Vec<Value> {
    let resources = &pod["spec"]["containers"][0]["resources"];
    let mut patch = Vec::new();
    if !resources.is_object() {
        patch.push(json!({"op": "add", "path": "/spec/containers/0/resources", "value": {}}));
    }
    for kind in ["limits", "requests"] {
        let path = format!("/spec/containers/0/resources/{kind}");
        patch.push(set(&resources[kind], &path, POD_ENI, "1"));
    }
    patch
}

/// Sets a key of a map that may not be there yet.
fn set(map: &Value, path: &str, key: &str, value: &str) -> Value {
    if map.is_object() {
        json!({"op": "add", "path": format!("{path}/{}", escaped(key)), "value": value})
    } else {
        json!({"op": "add", "path": path, "value": {key: value}})
    }
}

/// A key within a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Fargate reads the groups from an annotation, which nobody may write himself.
fn for_fargate(pod: &Value, groups: &GroupSet) -> Answer {
    let path = "/metadata/annotations";
    if !groups.0.is_empty() {
        let patch = set(&pod["metadata"]["annotations"], path, FARGATE_GROUPS, &groups.to_string());
        return Answer { patch: vec![patch], ..Answer::allowed("") };
    }
    let mut answer = Answer::allowed("Pod didn't match any SGP");
    if annotation(pod, FARGATE_GROUPS).is_some() {
        answer.patch.push(json!({"op": "remove", "path": format!("{path}/{}", escaped(FARGATE_GROUPS))}));
    }
    answer
}
