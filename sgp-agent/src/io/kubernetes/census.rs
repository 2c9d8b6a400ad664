//! What of the whole cluster is alive: for the sweep of orphans.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::client;
use crate::domain::node_object::instance_of;

/// Instances of all Nodes, and UIDs of all pods that have not ended.
///
/// # Errors
/// Where the API server cannot be found or refuses: then nothing can be called lost.
pub async fn census() -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let client = client().await?;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("listing nodes")?;
    let instance = |node: Node| {
        let provider = node.spec.and_then(|spec| spec.provider_id)?;
        instance_of(&provider).ok().map(str::to_owned)
    };
    let pods = Api::<Pod>::all(client).list(&ListParams::default()).await.context("listing pods")?;
    let ended = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        matches!(phase, "Succeeded" | "Failed")
    };
    let lives = pods.into_iter().filter(|pod| !ended(pod)).filter_map(|pod| pod.uid());
    Ok((nodes.into_iter().filter_map(instance).collect(), lives.collect()))
}
