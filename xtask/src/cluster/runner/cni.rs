//! Calls the CNI plugin through the real protocol, as a container runtime does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::Node;
use crate::place::Family;

/// A pod's sandbox: its namespace, and where the result of ADD is kept for DEL.
pub(super) struct Sandbox {
    pub(super) netns: String,
    pub(super) dir: PathBuf,
    namespace: String,
    name: String,
    uid: String,
}

impl Sandbox {
    pub(super) fn of(node: &Node, pod: &Pod) -> Self {
        let uid = pod.uid().unwrap_or_default();
        let short: String = uid.chars().filter(|c| *c != '-').take(12).collect();
        Self {
            netns: node.place.netns(&format!("p{short}")),
            dir: node.place.node_dir(&node.name).join("pods").join(&uid),
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid,
        }
    }

    fn cached(&self) -> PathBuf {
        self.dir.join("result.json")
    }

    /// ADD; gives the pod's address.
    pub(super) async fn add(&self, node: &Node) -> Result<String> {
        let text = self.call(node, "ADD", &configuration(node, None)).await?;
        fs::write(self.cached(), &text).context("keeping the plugin's result")?;
        let result: Value = serde_json::from_str(&text).context("the plugin's result is no JSON")?;
        let address = result["ips"][0]["address"].as_str().and_then(|address| address.split('/').next());
        address.map(str::to_owned).context("the plugin's result has no address")
    }

    /// DEL, with the result of ADD where there was one; safe to repeat.
    pub(super) async fn del(&self, node: &Node) -> Result<()> {
        let previous = fs::read_to_string(self.cached()).ok().and_then(|text| serde_json::from_str(&text).ok());
        self.call(node, "DEL", &configuration(node, previous)).await.map(drop)
    }

    async fn call(&self, node: &Node, verb: &str, configuration: &Value) -> Result<String> {
        let bin = node.place.node_dir(&node.name).join("bin");
        let netns = Path::new("/run/netns").join(&self.netns);
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            self.namespace, self.name, self.uid
        );
        let mut child = tokio::process::Command::new(bin.join("sgp-cni"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &self.uid)
            .env("CNI_NETNS", if netns.exists() { netns.as_os_str() } else { "".as_ref() })
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", args)
            .env("CNI_PATH", format!("{}:/usr/lib/cni:/opt/cni/bin", bin.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting sgp-cni")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(configuration.to_string().as_bytes()).await.context("writing to sgp-cni")?;
        }
        let output = child.wait_with_output().await.context("waiting for sgp-cni")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let error: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        bail!("plugin type=\"sgp-cni\" failed ({}): {}", verb.to_lowercase(), error["msg"].as_str().unwrap_or(&text))
    }
}

/// The cluster's network: ours for pods with a branch, ptp for all others.
fn configuration(node: &Node, previous: Option<Value>) -> Value {
    let number: u8 = node.name.trim_start_matches('n').parse().unwrap_or(1);
    let dir = node.place.node_dir(&node.name);
    let (subnet, everywhere) = match node.place.family {
        Family::V4 => (format!("{}/24", node.place.address(100 + number, 0)), "0.0.0.0/0"),
        Family::V6 => (format!("{}/64", node.place.address_v6(100 + number, 0)), "::/0"),
    };
    let mut all = json!({
        "cniVersion": "1.0.0",
        "name": "sgp-dev",
        "type": "sgp-cni",
        "agentSocket": dir.join("run/agent.sock"),
        "branchLink": "provided",
        "addTimeoutSeconds": 3,
        "delegate": {
            "type": "ptp",
            "mtu": 1500,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": dir.join("ipam"),
                "subnet": subnet,
                "routes": [{"dst": everywhere}],
            },
        },
    });
    if let Some(previous) = previous {
        all["prevResult"] = previous;
    }
    all
}
