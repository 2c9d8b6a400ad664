//! Kubernetes: watch what matters on this node, write annotations and what the Node says, tell events.

mod census;
mod cluster;
mod facts;
mod kinds;
mod members;
mod pulse;
mod services;
mod watched;
mod writes;

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Error, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ServiceAccount};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;

pub use census::census;
pub use cluster::{Cluster, NAME as CONTROLLER_NAME, base64};
pub use kinds::{
    CNINode, CniNodeSpec, ENIConfig, EniConfigSpec, Feature, GroupIds, SecurityGroupMembership,
    SecurityGroupMembershipSpec, SecurityGroupPolicy, SecurityGroupPolicySpec, crds,
};
pub use members::{Heard, INDEX, Slices, Unwritten};
use pulse::Pulse;
use services::Services;
use watched::{Need, Watched};

use crate::domain::enforcement::Shortcuts;
use crate::domain::node_object::instance_of;
use crate::domain::observed::{ClusterFacts, CniNodeFacts};

/// Namespace and name of VPC CNI's ConfigMap, and its key for the cool-down (facts 1.8).
const CNI_CONFIG: (&str, &str, &str) = ("kube-system", "amazon-vpc-cni", "branch-eni-cooldown");

/// The API server, as one node sees it.
pub struct Kubernetes {
    client: Client,
    recorder: Recorder,
    node_name: String,
    pods: Watched<Pod>,
    policies: Watched<SecurityGroupPolicy>,
    service_accounts: Watched<ServiceAccount>,
    node: Watched<Node>,
    cni_node: Watched<CNINode>,
    eni_configs: Watched<ENIConfig>,
    cni_config: Watched<ConfigMap>,
    /// Where first packets may go past the host stack.
    services: Option<Services>,
    pulse: Pulse,
}

impl Kubernetes {
    /// Starts watching. Works while the API server is away: what is not there yet is `None` in the facts.
    ///
    /// # Errors
    /// Where no kubeconfig and no in-cluster configuration is found.
    pub async fn connect(node: &str, shortcuts: Shortcuts, changed: &Arc<Notify>) -> Result<Self> {
        let client = client().await?;
        let here = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let (all, news) = (watcher::Config::default, || Arc::clone(changed));
        let reporter = Reporter { controller: "sgp-agent".into(), instance: Some(node.into()) };
        let config = Api::namespaced(client.clone(), CNI_CONFIG.0);
        let every = || client.clone();
        Ok(Self {
            recorder: Recorder::new(every(), reporter),
            node_name: node.to_owned(),
            pods: Watched::start(Api::all(every()), here, Need::Always, news()),
            policies: Watched::start(Api::all(every()), all(), Need::IfInstalled, news()),
            service_accounts: Watched::start(Api::all(every()), all(), Need::Always, news()),
            node: Watched::start(Api::all(every()), named(node), Need::IfThere, news()),
            cni_node: Watched::start(Api::all(every()), named(node), Need::IfThere, news()),
            eni_configs: Watched::start(Api::all(every()), all(), Need::IfThere, news()),
            services: (shortcuts == Shortcuts::All).then(|| Services::start(&client, changed)),
            pulse: Pulse::start(every()),
            cni_config: Watched::start(config, named(CNI_CONFIG.1), Need::IfThere, news()),
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
        let id = instance_of(&provider).map_err(Error::msg).with_context(|| format!("node {node}"))?;
        Ok(id.to_owned())
    }

    /// What the controller publishes of memberships, from the first slice on.
    pub fn memberships(&self) -> impl futures::Stream<Item = Heard> + use<> {
        members::follow(self.client.clone())
    }

    /// When the API server answered last. A watch is silent where nothing happens, so it is asked.
    pub fn answered(&self) -> Option<Instant> {
        self.pulse.last()
    }

    /// What Kubernetes says now; `None` until every watch has delivered its first snapshot.
    pub fn facts(&self) -> Option<ClusterFacts> {
        let (pods, policies, accounts) =
            (self.pods.snapshot()?, self.policies.snapshot()?, self.service_accounts.snapshot()?);
        let cni_node = self.cni_node.snapshot()?.first().map(|cni_node| facts::cni_node_facts(cni_node));
        let config = self.cni_config.snapshot()?.first().and_then(|config| config.data.clone()).unwrap_or_default();
        Some(ClusterFacts {
            pods: pods.iter().map(|pod| (pod.uid().unwrap_or_default(), facts::pod_facts(pod))).collect(),
            policies: policies.iter().map(|policy| facts::policy_facts(policy)).collect(),
            service_accounts: accounts.iter().map(|account| facts::account_facts(account)).collect(),
            node: self.node.snapshot()?.first().map(|node| facts::node_facts(node)),
            cni_node: match cni_node {
                Some(there) => CniNodeFacts::There(there),
                None if self.cni_node.is_denied() => CniNodeFacts::NoSuchKind,
                None => CniNodeFacts::Missing,
            },
            eni_configs: self.eni_configs.snapshot()?.iter().map(|config| facts::eni_config_facts(config)).collect(),
            services: match &self.services {
                Some(services) => services.known()?,
                None => None,
            },
            cooldown: config.get(CNI_CONFIG.2).cloned(),
        })
    }
}

async fn client() -> Result<Client> {
    Client::try_default().await.context("finding the API server: set KUBECONFIG, or run in a pod with a ServiceAccount")
}
