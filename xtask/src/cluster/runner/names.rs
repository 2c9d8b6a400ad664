//! The names that cluster DNS answers: one hosts file of all Services, which dnsmasq watches.

use std::fmt::Write;
use std::fs;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use tracing::warn;

use super::Node;

/// Keeps the file in step for as long as the process lives.
pub(super) async fn keep(node: Node) {
    let (store, writer) = reflector::store();
    let api = Api::<Service>::all(node.client.clone());
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().reflect(writer));
    let dir = node.place.node_dir(&node.name).join("hosts");
    let mut known = String::new();
    while stream.next().await.is_some() {
        let mut lines: Vec<String> = store.state().iter().filter_map(|service| line(service)).collect();
        lines.sort();
        let text = lines.concat();
        if text == known && dir.exists() {
            continue;
        }
        // Written in place: dnsmasq's inotify reads a file that was closed after writing.
        if let Err(error) = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("services"), &text)) {
            warn!(%error, "the names of Services cannot be written");
        }
        known = text;
    }
}

fn line(service: &Service) -> Option<String> {
    let spec = service.spec.as_ref()?;
    let address = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
    let mut line = String::new();
    writeln!(line, "{address} {}.{}.svc.cluster.local", service.name_any(), service.namespace()?).ok()?;
    Some(line)
}
