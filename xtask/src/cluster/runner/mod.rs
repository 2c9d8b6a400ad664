//! What kubelet does, for one node: starts the agent and kube-proxy, and runs the pods bound to the node.

mod cni;
mod container;
mod images;
mod names;
mod node;
mod pod;
mod probe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;

pub(crate) use container::exec;
pub(crate) use node::SETTINGS;

use crate::place::Place;
use crate::tools::Tools;

/// The node and what its parts need.
#[derive(Clone)]
pub(crate) struct Node {
    /// The cluster.
    pub(crate) place: Place,
    /// Its name.
    pub(crate) name: String,
    /// Programs.
    pub(crate) tools: Tools,
    /// The API server.
    pub(crate) client: Client,
}

/// Runs until the process is ended.
pub(crate) fn run(cluster: &str, name: &str) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init();
    let (place, tools) = (Place::load(cluster)?, Tools::found()?);
    let runtime = tokio::runtime::Runtime::new().context("starting the async runtime")?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("finding the API server")?;
        work(Node { place, name: name.to_owned(), tools, client }).await
    })
}

async fn work(node: Node) -> Result<()> {
    node::prepare(&node)?;
    tokio::spawn(node::keep_agent(node.clone()));
    tokio::spawn(node::keep_proxy(node.clone()));
    tokio::spawn(node::heartbeat(node.clone()));
    tokio::spawn(names::keep(node.clone()));
    pods(node).await
}

/// One task a pod, told of every change of its object; level-triggered, so that a missed one does not matter.
async fn pods(node: Node) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name));
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<Pod>::all(node.client.clone()), config).default_backoff().reflect(writer);
    let mut stream = std::pin::pin!(stream);
    let mut running: BTreeMap<String, (Arc<Notify>, tokio::task::JoinHandle<()>)> = BTreeMap::new();
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            _ = stream.next() => {}
            _ = tick.tick() => {}
        }
        running.retain(|_, (_, task)| !task.is_finished());
        for found in store.state() {
            let uid = found.uid().unwrap_or_default();
            if let Some((changed, _)) = running.get(&uid) {
                changed.notify_one();
                continue;
            }
            let changed = Arc::new(Notify::new());
            let task = pod::live(node.clone(), Arc::clone(&found), store.clone(), Arc::clone(&changed));
            running.insert(uid, (changed, tokio::spawn(task)));
        }
    }
}
