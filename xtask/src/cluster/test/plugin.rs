//! The CNI plugin's other verbs, asked as a container runtime asks, on a node with a running pod.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::stage::{NAMESPACE, Role, Stage, Wired};
use crate::demo::hands::Outcome;
use crate::demo::tutorial::Node;

/// A pod as the runtime knows it.
struct Sandbox<'a> {
    node: &'a Node,
    name: &'a str,
    uid: String,
    netns: String,
    result: Value,
}

impl Sandbox<'_> {
    /// Calls the plugin; `uid` may be another pod's.
    fn call(&self, stage: &Stage, verb: &str, uid: &str, result: &Value) -> Result<Outcome> {
        let mut configuration = json!({
            "cniVersion": "1.0.0", "name": "sgp-dev", "type": "sgp-cni", "branchLink": "provided",
            "agentSocket": format!("{}/agent.sock", self.node.run_dir),
        });
        if !result.is_null() {
            configuration["prevResult"] = result.clone();
        }
        let mut run = Command::new("nsenter");
        run.arg(format!("--net=/run/netns/{}", self.node.netns)).arg(&stage.hands.agent).arg("cni");
        run.env("CNI_COMMAND", verb).env("CNI_IFNAME", "eth0").env("CNI_NETNS", &self.netns);
        run.env("CNI_ARGS", format!("K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={};K8S_POD_UID={uid}", self.name));
        run.env("CNI_CONTAINERID", uid).env("CNI_PATH", "/usr/lib/cni").stdin(Stdio::piped());
        stage.hands.finish_with(&mut run, &configuration.to_string())
    }
}

/// VERSION, STATUS and CHECK tell the truth; DEL for a predecessor of the same name leaves the pod alone.
pub(super) fn verbs(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("verbs")?;
    stage.open_80(&group, &group)?;
    stage.policy("verbs", &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let address = stage.start(&Role { name: "server", role: "verbs", node: &node.name, image: "nginx" })?;
    stage.start(&Role { name: "client", role: "verbs", node: "", image: "busybox" })?;
    let Wired { uid, netns, result, .. } = stage.wired("server")?;
    let sandbox = Sandbox { node, name: "server", uid, netns, result };
    let version = sandbox.call(stage, "VERSION", &sandbox.uid, &Value::Null)?.ok()?;
    ensure!(version.contains("\"1.1.0\""), "VERSION says {version}");
    sandbox.call(stage, "STATUS", &sandbox.uid, &Value::Null)?.ok()?;
    sandbox.call(stage, "CHECK", &sandbox.uid, &sandbox.result)?.ok()?;
    stage.comes_to_reach("client", &address)?;
    sandbox.call(stage, "DEL", "00000000-aaaa-bbbb-cccc-000000000000", &Value::Null)?.ok()?;
    ensure!(stage.reaches("client", &address)?, "DEL of a predecessor took the wiring of its successor");
    removed(stage, &sandbox, &address)
}

/// DEL takes everything, CHECK then says so, and DEL again is no error.
fn removed(stage: &Stage, sandbox: &Sandbox<'_>, address: &str) -> Result<()> {
    sandbox.call(stage, "DEL", &sandbox.uid, &sandbox.result)?.ok()?;
    ensure!(!stage.reaches("client", address)?, "the pod still answers after DEL");
    let check = sandbox.call(stage, "CHECK", &sandbox.uid, &sandbox.result)?;
    ensure!(check.status != 0, "CHECK finds nothing wrong after DEL: {}", check.words());
    let mut rules = Command::new("nsenter");
    rules.arg(format!("--net=/run/netns/{}", sandbox.node.netns)).args(["ip", stage.place.family.flag(), "rule"]);
    let left = stage.hands.finish(&mut rules)?.ok()?;
    let host = sandbox.result["interfaces"][0]["name"].as_str().unwrap_or("no host veth");
    ensure!(!left.contains(&format!("{address} ")) && !left.contains(host), "rules are left:\n{left}");
    sandbox.call(stage, "DEL", &sandbox.uid, &sandbox.result)?.ok().map(drop)
}
