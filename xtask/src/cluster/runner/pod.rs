//! The life of one pod: sandbox, container, status, probes, end.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::cni::Sandbox;
use super::{Node, container, probe};
use crate::process::finish;

/// What a pod's task holds on to.
struct Life {
    node: Node,
    pod: Arc<Pod>,
    store: Store<Pod>,
    changed: Arc<Notify>,
    sandbox: Sandbox,
    recorder: Recorder,
    told: String,
    started: String,
    last: Value,
}

/// Runs a pod until it is gone.
pub(super) async fn live(node: Node, pod: Arc<Pod>, store: Store<Pod>, changed: Arc<Notify>) {
    let reporter = Reporter { controller: "kubelet".into(), instance: Some(node.name.clone()) };
    let mut life = Life {
        sandbox: Sandbox::of(&node, &pod),
        recorder: Recorder::new(node.client.clone(), reporter),
        node,
        pod,
        store,
        changed,
        told: String::new(),
        started: Timestamp::now().to_string(),
        last: Value::Null,
    };
    let phase = life.pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let over = matches!(phase.as_str(), "Succeeded" | "Failed");
    if !over && let Some(address) = life.set_up().await {
        life.run(&address).await;
    }
    life.tear_down().await;
    life.wait_for_deletion().await;
    life.forget().await;
}

impl Life {
    /// The pod as it is now; `None` once it is deleted or replaced.
    fn now(&self) -> Option<Arc<Pod>> {
        let found = self.store.get(&ObjectRef::from_obj(self.pod.as_ref()));
        found.filter(|pod| pod.uid() == self.pod.uid())
    }

    fn leaving(&self) -> bool {
        self.now().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// Tries until the pod has a sandbox, as kubelet does; `None` if it is deleted meanwhile.
    async fn set_up(&mut self) -> Option<String> {
        let mut pause = Duration::from_millis(500);
        while !self.leaving() {
            match self.sandbox().await {
                Ok(address) => return Some(address),
                Err(error) => self.tell_failure(&format!("Failed to create pod sandbox: {error:#}")).await,
            }
            self.clean().await;
            pause = (pause * 2).min(Duration::from_secs(4));
            // News of the pod, its annotation for example, is a reason to try at once.
            drop(tokio::time::timeout(pause, self.changed.notified()).await);
        }
        None
    }

    async fn sandbox(&self) -> Result<String> {
        fs::create_dir_all(&self.sandbox.dir).context("making the pod's directory")?;
        fs::create_dir_all(self.node.place.dir().join("containers")).context("making a directory")?;
        finish(Command::new("ip").args(["netns", "add", &self.sandbox.netns]))?;
        self.sandbox.add(&self.node).await
    }

    async fn clean(&self) {
        if let Err(error) = self.sandbox.del(&self.node).await {
            warn!(pod = %self.pod.name_any(), error = format!("{error:#}"), "DEL failed");
        }
        // It is not there where making it failed.
        drop(finish(Command::new("ip").args(["netns", "del", &self.sandbox.netns])));
    }

    /// Once for each text: kubelet's own events are aggregated by the API machinery.
    async fn tell_failure(&mut self, note: &str) {
        if self.told == note {
            return;
        }
        note.clone_into(&mut self.told);
        let event = Event {
            type_: EventType::Warning,
            reason: "FailedCreatePodSandBox".into(),
            note: Some(note.chars().take(1000).collect()),
            action: "CreatePodSandBox".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &self.pod.object_ref(&())).await {
            warn!(%error, "an event could not be told");
        }
    }

    /// Runs the container, again and again if the pod's policy says so, until the pod is deleted or done.
    async fn run(&mut self, address: &str) {
        let policy = self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.clone()).unwrap_or_default();
        let mut restarts = 0;
        while !self.leaving() {
            let mut child = match container::start(&self.node, &self.pod, &self.sandbox) {
                Ok(child) => child,
                Err(error) => {
                    self.report(address, "Pending", false, restarts, Some(&format!("{error:#}"))).await;
                    drop(tokio::time::timeout(Duration::from_secs(5), self.changed.notified()).await);
                    continue;
                }
            };
            info!(pod = %self.pod.name_any(), address, "started");
            let Some(status) = self.watch(&mut child, address, restarts).await else { return };
            restarts += 1;
            let again = policy == "Always" || policy == "OnFailure" && !status.success();
            if !again {
                let phase = if status.success() { "Succeeded" } else { "Failed" };
                self.report(address, phase, false, restarts, None).await;
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Until the container ends (its status) or the pod is to go (`None`).
    async fn watch(
        &mut self,
        child: &mut tokio::process::Child,
        address: &str,
        restarts: u32,
    ) -> Option<std::process::ExitStatus> {
        let first = self.pod.spec.as_ref().and_then(|spec| spec.containers.first()).cloned().unwrap_or_default();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                status = child.wait() => return status.ok(),
                () = self.changed.notified() => {}
                _ = tick.tick() => {}
            }
            if self.leaving() {
                let grace = self.now().and_then(|pod| pod.metadata.deletion_grace_period_seconds).unwrap_or(0);
                container::stop(child, Duration::from_secs(grace.unsigned_abs())).await;
                return None;
            }
            let ready = probe::ready(first.readiness_probe.as_ref(), address).await;
            self.report(address, "Running", ready, restarts, None).await;
        }
    }

    /// Writes the pod's status, if it is news.
    async fn report(&mut self, address: &str, phase: &str, ready: bool, restarts: u32, waiting: Option<&str>) {
        let truth = |value: bool| if value { "True" } else { "False" };
        let conditions: Vec<Value> =
            [("Initialized", true), ("PodScheduled", true), ("ContainersReady", ready), ("Ready", ready)]
                .into_iter()
                .map(|(kind, value)| json!({"type": kind, "status": truth(value), "lastTransitionTime": self.started}))
                .collect();
        let state = match (phase, waiting) {
            (_, Some(message)) => json!({"waiting": {"reason": "CreateContainerError", "message": message}}),
            ("Running", _) => json!({"running": {"startedAt": self.started}}),
            (phase, _) => json!({"terminated": {"exitCode": i32::from(phase == "Failed"), "reason": phase}}),
        };
        let number: u8 = self.node.name.trim_start_matches('n').parse().unwrap_or(1);
        let container = self.pod.spec.as_ref().and_then(|spec| spec.containers.first()).cloned().unwrap_or_default();
        let image = container.image.unwrap_or_default();
        let status = json!({"status": {
            "phase": phase,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": self.node.place.internal_ip(number),
            "startTime": self.started,
            "conditions": conditions,
            "containerStatuses": [{"name": container.name, "image": image, "imageID": "", "ready": ready, "started": ready, "restartCount": restarts, "state": state}],
        }});
        if self.last == status {
            return;
        }
        match self.api().patch_status(&self.pod.name_any(), &PatchParams::default(), &Patch::Strategic(&status)).await {
            Ok(_) => self.last = status,
            Err(error) => warn!(pod = %self.pod.name_any(), %error, "the status could not be written"),
        }
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.node.client.clone(), &self.pod.namespace().unwrap_or_default())
    }

    async fn tear_down(&self) {
        let named = format!("{}_{}.pid", self.pod.namespace().unwrap_or_default(), self.pod.name_any());
        drop(fs::remove_file(self.node.place.dir().join("containers").join(named)));
        self.clean().await;
    }

    /// A pod that has ended stays until somebody deletes it.
    async fn wait_for_deletion(&self) {
        while !self.leaving() {
            self.changed.notified().await;
        }
    }

    /// The last word: nothing of the pod is on this node any more.
    async fn forget(&self) {
        let uid = self.pod.uid();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        if self.now().is_some()
            && let Err(error) = self.api().delete(&self.pod.name_any(), &params).await
        {
            warn!(pod = %self.pod.name_any(), %error, "the pod could not be deleted");
        }
        drop(fs::remove_dir_all(&self.sandbox.dir));
        // The task must not be started anew before the watch has seen the deletion.
        for _ in 0..50 {
            if self.now().is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
