//! Kubernetes: watch what matters on this node, write the pod annotation, tell events.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, CustomResource, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::domain::annotation::{self, POD_ENI};
use crate::domain::observed::{self, BranchAnnotation, ClusterFacts};

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

/// The API server, as one node sees it.
pub struct Kubernetes {
    client: Client,
    recorder: Recorder,
    pods: Watched<Pod>,
    policies: Watched<SecurityGroupPolicy>,
    service_accounts: Watched<ServiceAccount>,
}

/// A cache that a watch keeps, and whether its first snapshot is complete.
struct Watched<K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static> {
    store: Store<K>,
    synced: Arc<std::sync::atomic::AtomicBool>,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + DeserializeOwned + std::fmt::Debug + 'static,
{
    /// Watches in the background; every change and the first complete snapshot notify.
    fn start(api: Api<K>, config: watcher::Config, changed: Arc<Notify>) -> Self {
        let (store, writer) = reflector::store();
        let synced = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stream = watcher(api, config).default_backoff().reflect(writer);
        tokio::spawn(follow(stream, changed, Arc::clone(&synced)));
        Self { store, synced }
    }

    fn snapshot(&self) -> Option<Vec<Arc<K>>> {
        self.synced.load(std::sync::atomic::Ordering::Acquire).then(|| self.store.state())
    }
}

async fn follow<K: Resource<DynamicType = ()>>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    changed: Arc<Notify>,
    synced: Arc<std::sync::atomic::AtomicBool>,
) {
    let kind = K::kind(&()).into_owned();
    let mut told = false;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                // Begun is not done: a list that fails says `Init` each time.
                told &= matches!(event, watcher::Event::Init);
                if matches!(event, watcher::Event::InitDone) {
                    synced.store(true, std::sync::atomic::Ordering::Release);
                }
                changed.notify_one();
            }
            // Once per outage: the watch itself retries with backoff, and the last snapshot stays.
            Err(error) if !told => {
                told = true;
                warn!(kind, error = %chain(&error), "the watch on the API server failed; retrying");
            }
            Err(_) => {}
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Kubernetes {
    /// Starts watching. Works while the API server is away: what is not there yet is `None` in the facts.
    ///
    /// # Errors
    /// Where no kubeconfig and no in-cluster configuration is found.
    pub async fn connect(node: &str, changed: &Arc<Notify>) -> Result<Self> {
        let client = Client::try_default()
            .await
            .context("finding the API server: set KUBECONFIG, or run in a pod with a ServiceAccount")?;
        let here = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let all = watcher::Config::default;
        let reporter = Reporter { controller: "sgp-agent".into(), instance: Some(node.into()) };
        Ok(Self {
            recorder: Recorder::new(client.clone(), reporter),
            pods: Watched::start(Api::all(client.clone()), here, Arc::clone(changed)),
            policies: Watched::start(Api::all(client.clone()), all(), Arc::clone(changed)),
            service_accounts: Watched::start(Api::all(client.clone()), all(), Arc::clone(changed)),
            client,
        })
    }

    /// The instance id in the node's provider id (`aws:///<zone>/i-…`).
    ///
    /// # Errors
    /// Where the Node is not there, or is no EC2 instance.
    pub async fn instance_id(&self, node: &str) -> Result<String> {
        let object = Api::<Node>::all(self.client.clone()).get(node).await;
        let object = object.with_context(|| format!("reading node {node}"))?;
        let provider = object.spec.and_then(|spec| spec.provider_id).unwrap_or_default();
        let id = provider.rsplit('/').next().unwrap_or_default();
        anyhow::ensure!(id.starts_with("i-"), "node {node} has provider id {provider:?}, which names no EC2 instance");
        Ok(id.to_owned())
    }

    /// Says on the node's status how many branches it can carry (facts 1.8).
    ///
    /// # Errors
    /// Where the API server refuses.
    pub async fn advertise(&self, node: &str, branches: u32) -> Result<()> {
        let patch = serde_json::json!({"status": {"capacity": {POD_ENI: branches.to_string()}}});
        let api = Api::<Node>::all(self.client.clone());
        let patched = api.patch_status(node, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map(drop).with_context(|| format!("writing the capacity of node {node}"))
    }

    /// What Kubernetes says now; `None` until every watch has delivered its first snapshot.
    pub fn facts(&self) -> Option<ClusterFacts> {
        Some(ClusterFacts {
            pods: self.pods.snapshot()?.iter().map(|pod| (pod.uid().unwrap_or_default(), pod_facts(pod))).collect(),
            policies: self.policies.snapshot()?.iter().map(|policy| policy_facts(policy)).collect(),
            service_accounts: self.service_accounts.snapshot()?.iter().map(|account| account_facts(account)).collect(),
        })
    }

    /// Writes the branch into the pod's annotation, unless the pod is another one by now (the UID in a merge
    /// patch must be the object's).
    ///
    /// # Errors
    /// Where the API server refuses.
    pub async fn annotate(&self, namespace: &str, name: &str, uid: &str, branch: &BranchAnnotation) -> Result<()> {
        let annotations = BTreeMap::from([(POD_ENI, annotation::write(branch))]);
        let patch = serde_json::json!({"metadata": {"uid": uid, "annotations": annotations}});
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.map(drop).with_context(|| format!("annotating pod {namespace}/{name}"))
    }

    /// Tells an event on a pod of this node.
    pub async fn tell(&self, uid: &str, kind: EventType, reason: &str, message: &str) {
        let found = self.pods.store.find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        let Some(pod) = found else { return };
        let event = Event {
            type_: kind,
            reason: reason.into(),
            note: Some(message.chars().take(1000).collect()),
            action: "Provision".into(),
            secondary: None,
        };
        let reference = ObjectRef::from_obj(pod.as_ref()).into();
        match self.recorder.publish(&event, &reference).await {
            Ok(()) => info!(pod = %pod.name_any(), reason, message, "told an event"),
            Err(error) => warn!(pod = %pod.name_any(), error = %chain(&error), "an event could not be told"),
        }
    }
}

fn pod_facts(pod: &Pod) -> observed::Pod {
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
        branch: pod.annotations().get(POD_ENI).map(|text| annotation::parse(text)),
    }
}

fn policy_facts(policy: &SecurityGroupPolicy) -> observed::SecurityGroupPolicy {
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

fn account_facts(account: &ServiceAccount) -> ((String, String), BTreeMap<String, String>) {
    ((account.namespace().unwrap_or_default(), account.name_any()), account.labels().clone())
}
