//! Writing to the API server: annotations, what the Node says, events.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tracing::warn;

use super::Kubernetes;
use super::kinds::{CNINode, CniNodeSpec, Feature};
use super::watched::chain;
use crate::domain::answers::Answer;
use crate::domain::branches::{CloudStep, Notice, Purpose, Severity, annotation_of};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::node_object::RESOURCE;
use crate::domain::observed::{BranchAnnotation, CniNode};

/// The longest text of an event that API servers take, in characters.
const NOTE_MAX: usize = 1000;

impl Kubernetes {
    /// Takes one step that is for the API server.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn apply(&self, step: &CloudStep) -> Result<Answer, Failure> {
        let done = match step {
            CloudStep::Annotate { uid, namespace, name, branch } => self.annotate(namespace, name, uid, branch).await,
            CloudStep::LabelNode { key, value } => {
                self.patch_node(&json!({"metadata": {"labels": {key: value}}})).await
            }
            CloudStep::Advertise { branches } => self.advertise(*branches).await,
            CloudStep::WriteCniNode { wanted } => self.write_cni_node(wanted).await,
            other => return Err(Failure::unanswered(&format!("`{}` is for EC2, not for the API server", other.key()))),
        };
        done.map(|()| Answer::Done).map_err(|error| failed(&error))
    }

    /// Unless the pod is another one by now: the UID in a merge patch must be the object's.
    async fn annotate(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        branch: &BranchAnnotation,
    ) -> Result<(), kube::Error> {
        let annotations = BTreeMap::from([annotation_of(branch)]);
        let patch = json!({"metadata": {"uid": uid, "annotations": annotations}});
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    async fn patch_node(&self, patch: &Value) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.client.clone());
        api.patch(&self.node_name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// kubelet mirrors the capacity to what is allocatable (facts 1.8).
    async fn advertise(&self, branches: u32) -> Result<(), kube::Error> {
        let patch = json!({"status": {"capacity": {RESOURCE: branches.to_string()}}});
        let api = Api::<Node>::all(self.client.clone());
        api.patch_status(&self.node_name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    /// Adds to what others wrote; the resource version keeps two writers from losing each other's features.
    async fn write_cni_node(&self, wanted: &CniNode) -> Result<(), kube::Error> {
        let api = Api::<CNINode>::all(self.client.clone());
        let Some(mut there) = api.get_opt(&self.node_name).await? else {
            return api.create(&PostParams::default(), &self.new_cni_node(wanted)).await.map(drop);
        };
        merge(&mut there.spec, wanted);
        api.replace(&self.node_name, &PostParams::default(), &there).await.map(drop)
    }

    /// It goes with its Node. AWS's controller puts a finalizer on it to clean up interfaces; here the sweep of
    /// orphans does that, and a node can be deleted without it.
    fn new_cni_node(&self, wanted: &CniNode) -> CNINode {
        let mut spec = CniNodeSpec::default();
        merge(&mut spec, wanted);
        let mut object = CNINode::new(&self.node_name, spec);
        let node = self.node.store.state().into_iter().next();
        object.metadata = ObjectMeta {
            name: Some(self.node_name.clone()),
            labels: Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into()),
            owner_references: node.map(|node| {
                vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: node.name_any(),
                    uid: node.uid().unwrap_or_default(),
                    controller: Some(true),
                    ..OwnerReference::default()
                }]
            }),
            ..ObjectMeta::default()
        };
        object
    }

    /// Tells an event on the node or on a pod of it.
    pub async fn tell(&self, notice: &Notice) {
        let Some(reference) = self.reference(&notice.about) else { return };
        let event = Event {
            type_: match notice.severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: notice.reason.into(),
            note: Some(notice.message.chars().take(NOTE_MAX).collect()),
            action: "Provision".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            warn!(about = ?notice.about, error = %chain(&error), "an event could not be told");
        }
    }

    fn reference(&self, about: &Purpose) -> Option<ObjectReference> {
        match about {
            Purpose::Pod { uid, .. } => {
                let pod = self.pods.store.find(|pod| pod.metadata.uid.as_deref() == Some(uid))?;
                Some(ObjectRef::from_obj(pod.as_ref()).into())
            }
            // `kubectl describe node` looks for events whose UID is the node's name, as kubelet writes them.
            Purpose::Node | Purpose::Pool => Some(ObjectReference {
                kind: Some("Node".into()),
                api_version: Some("v1".into()),
                name: Some(self.node_name.clone()),
                uid: Some(self.node_name.clone()),
                ..ObjectReference::default()
            }),
        }
    }
}

fn merge(spec: &mut CniNodeSpec, wanted: &CniNode) {
    let features = spec.features.get_or_insert_default();
    for (name, value) in &wanted.features {
        if !features.iter().any(|feature| feature.name.as_ref() == Some(name)) {
            features.push(Feature { name: Some(name.clone()), value: Some(value.clone()) });
        }
    }
    spec.tags.get_or_insert_default().extend(wanted.tags.clone());
}

/// What a call that failed means.
fn failed(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else { return Failure::unanswered(&chain(error)) };
    let kind = match status.code {
        401 | 403 => FailureKind::Unauthorized,
        409 => FailureKind::NotYet,
        429 => FailureKind::Throttled,
        500.. => FailureKind::Unavailable,
        _ => FailureKind::Refused,
    };
    Failure { kind, code: status.reason.clone(), message: status.message.clone() }
}
