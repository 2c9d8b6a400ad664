//! The API server as the controller sees it: admission, its Lease, its certificate.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::{ByteString, jiff};
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::watched::chain;
use super::{SecurityGroupPolicy, Slices, client, facts};
use crate::domain::admission::{MUTATING, VALIDATING};
use crate::domain::lease::Held;
use crate::domain::observed;

/// Name of the controller's Lease, of its Secret and of both webhook configurations.
pub const NAME: &str = "sgp-controller";

/// Calls of the controller.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// A Lease, and what `hold` needs to write it back.
pub struct Found {
    /// What the decision is made of.
    pub held: Held,
    lease: Lease,
}

impl Cluster {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// Where no kubeconfig and no in-cluster configuration is found.
    pub async fn connect(namespace: &str) -> anyhow::Result<Self> {
        Ok(Self { client: client().await?, namespace: namespace.to_owned() })
    }

    /// The policies of a namespace, asked for anew: one that was made a moment before its pod must count. A cluster
    /// without the kind has none.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn policies(&self, namespace: &str) -> Result<Vec<observed::SecurityGroupPolicy>, String> {
        let api = Api::<SecurityGroupPolicy>::namespaced(self.client.clone(), namespace);
        match api.list(&ListParams::default()).await {
            Ok(list) => Ok(list.items.iter().map(facts::policy_facts).collect()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(format!("listing the SecurityGroupPolicies of {namespace}: {}", chain(&error))),
        }
    }

    /// Labels of a ServiceAccount.
    ///
    /// # Errors
    /// What the API server says; that there is none, too.
    pub async fn account(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, String> {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let account = api.get(name).await;
        let account = account.map_err(|error| format!("reading ServiceAccount {namespace}/{name}: {}", chain(&error)));
        Ok(account?.labels().clone())
    }

    /// The controllers' Lease; made where there is none, for nobody.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn lease(&self) -> Result<Found, kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let lease = match api.get_opt(NAME).await? {
            Some(lease) => lease,
            None => api.create(&PostParams::default(), &Lease { metadata: self.named(), spec: None }).await?,
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let held = Held {
            holder: spec.holder_identity.unwrap_or_default(),
            version: lease.resource_version().unwrap_or_default(),
            duration_s: spec.lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or_default(),
        };
        Ok(Found { held, lease })
    }

    /// Writes a Lease that was read: `holder` has it for `duration_s` from now on; an empty one gives it back. Fails
    /// where somebody else wrote it since.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn hold(&self, found: Found, holder: &str, duration_s: u64) -> Result<(), kube::Error> {
        let (before, now) = (found.lease.spec.clone().unwrap_or_default(), Some(MicroTime(jiff::Timestamp::now())));
        let taken = found.held.holder != holder;
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(duration_s).ok(),
            acquire_time: if taken { now.clone() } else { before.acquire_time.clone() },
            renew_time: now,
            lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(taken)),
            ..before
        };
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        api.replace(NAME, &PostParams::default(), &Lease { spec: Some(spec), ..found.lease }).await.map(drop)
    }

    /// What is in the controller's Secret; `None` where there is none.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn secret(&self) -> Result<Option<BTreeMap<String, String>>, kube::Error> {
        let secret = self.secrets().get_opt(NAME).await?;
        let text = |(key, value): (String, ByteString)| (key, String::from_utf8_lossy(&value.0).into_owned());
        Ok(secret.map(|secret| secret.data.unwrap_or_default().into_iter().map(text).collect()))
    }

    /// Writes it.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn write_secret(&self, data: BTreeMap<String, String>) -> Result<(), kube::Error> {
        let data = data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        let secret = Secret { metadata: self.named(), data: Some(data), ..Secret::default() };
        match self.secrets().get_opt(NAME).await? {
            None => self.secrets().create(&PostParams::default(), &secret).await.map(drop),
            Some(there) => {
                let secret = Secret { metadata: there.metadata, ..secret };
                self.secrets().replace(NAME, &PostParams::default(), &secret).await.map(drop)
            }
        }
    }

    /// Lets API servers believe these authorities (PEM), where they do not yet.
    ///
    /// # Errors
    /// What the API server says; that the configurations are not there, too.
    pub async fn trust(&self, authorities: &str) -> Result<(), kube::Error> {
        let bundle = ByteString(authorities.as_bytes().to_vec());
        self.trust_in::<MutatingWebhookConfiguration>(MUTATING, &bundle).await?;
        self.trust_in::<ValidatingWebhookConfiguration>(VALIDATING, &bundle).await
    }

    async fn trust_in<K>(&self, webhook: &str, bundle: &ByteString) -> Result<(), kube::Error>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        // A patch that changes nothing is not written.
        let patch = json!({"webhooks": [{"name": webhook, "clientConfig": {"caBundle": bundle}}]});
        let api = Api::<K>::all(self.client.clone());
        api.patch(NAME, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }

    /// The published memberships; asks nothing yet.
    pub fn slices(&self) -> Slices {
        Slices::new(self.client.clone())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn named(&self) -> ObjectMeta {
        ObjectMeta { name: Some(NAME.to_owned()), namespace: Some(self.namespace.clone()), ..ObjectMeta::default() }
    }
}

/// Standard base64 with padding, as Kubernetes has it in JSON.
pub fn base64(bytes: &[u8]) -> String {
    json!(ByteString(bytes.to_vec())).as_str().unwrap_or_default().to_owned()
}
