//! The world a case plays in, and the small things every case needs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::demo::hands::{Hands, until};
use crate::demo::tutorial::World;
use crate::place::Place;
use crate::process::within;

/// Namespace of all cases; deleted after each.
pub(super) const NAMESPACE: &str = "cases";
/// How long a pod may take to run.
pub(super) const START: Duration = Duration::from_secs(45);

/// As it stands in a URL.
pub(super) fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// A running cluster and the tools for it.
pub(crate) struct Stage {
    /// kubectl, aws and friends.
    pub(crate) hands: Hands,
    /// What the cluster is made of.
    pub(crate) world: World,
    /// Where it is, and what it is like.
    pub(crate) place: Place,
}

/// How a pod is wired, as the CNI plugin said.
#[derive(Clone, Debug)]
pub(super) struct Wired {
    pub(super) address: String,
    /// Name of its host veth.
    pub(super) host: String,
    /// Name of its branch interface.
    pub(super) branch: String,
    /// Path of its network namespace.
    pub(super) netns: String,
    pub(super) uid: String,
    /// The result of ADD.
    pub(super) result: Value,
}

/// A pod of a case.
pub(super) struct Role<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Value of its label `role`, which policies select by.
    pub(super) role: &'a str,
    /// Node it must run on, or empty.
    pub(super) node: &'a str,
    /// Image: `nginx` serves a page on port 80, `busybox` sleeps.
    pub(super) image: &'a str,
}

impl Stage {
    /// The namespace of the cases, made if it is missing.
    pub(super) fn namespace(&self) -> Result<()> {
        let made = self.hands.kubectl(&["create", "namespace", NAMESPACE])?;
        ensure!(made.status == 0 || made.words().contains("AlreadyExists"), "{}", made.words());
        Ok(())
    }

    /// Makes a group in the cluster's VPC; gives its id.
    pub(super) fn group(&self, name: &str) -> Result<String> {
        self.described_group(name, "made by sgp-dev test")
    }

    /// Likewise, with a description.
    pub(super) fn described_group(&self, name: &str, description: &str) -> Result<String> {
        let args = ["create-security-group", "--group-name", name, "--description", description, "--vpc-id"];
        self.hands.ec2(&[&args[..], &[&self.world.vpc, "--query", "GroupId"]].concat())
    }

    /// Opens TCP port 80 of `group` to members of `source`; gives the rule's id.
    pub(super) fn open_80(&self, group: &str, source: &str) -> Result<String> {
        let args = ["authorize-security-group-ingress", "--group-id", group, "--protocol", "tcp", "--port", "80"];
        let more = ["--source-group", source, "--query", "SecurityGroupRules[0].SecurityGroupRuleId"];
        self.hands.ec2(&[&args[..], &more[..]].concat())
    }

    /// Opens everything of `group` to members of these groups, and to the world outside the VPC.
    pub(super) fn open_all(&self, group: &str, sources: &[&str]) -> Result<()> {
        let outside = self.place.internet();
        let range = if outside.contains(':') {
            format!("Ipv6Ranges=[{{CidrIpv6={outside}/128}}]")
        } else {
            format!("IpRanges=[{{CidrIp={outside}/32}}]")
        };
        let pairs: Vec<String> = sources.iter().map(|source| format!("{{GroupId={source}}}")).collect();
        let permission = format!("IpProtocol=-1,{range},UserIdGroupPairs=[{}]", pairs.join(","));
        let args = ["authorize-security-group-ingress", "--group-id", group, "--ip-permissions", &permission];
        self.hands.ec2(&args).map(drop)
    }

    /// Gives the first node the address of NodeLocal DNS. Of scope host: the node itself never sends from it.
    pub(super) fn node_local(&self, address: &str) -> Result<()> {
        let node = self.world.nodes.first().context("the cluster has no node")?;
        let own = format!("addr replace {address}/32 dev lo scope host");
        self.hands.finish(within(&node.netns, "ip").args(own.split(' ')))?.ok().map(drop)
    }

    /// Pods with `role` get `group`.
    pub(super) fn policy(&self, role: &str, group: &str) -> Result<()> {
        let yaml = format!(
            "apiVersion: vpcresources.k8s.aws/v1beta1\nkind: SecurityGroupPolicy\n\
             metadata: {{name: {role}, namespace: {NAMESPACE}}}\n\
             spec: {{podSelector: {{matchLabels: {{role: {role}}}}}, securityGroups: {{groupIds: [{group}]}}}}\n"
        );
        self.hands.apply(&yaml)?.ok().map(drop)
    }

    /// Asks for a pod; does not wait for it.
    pub(super) fn ask_for(&self, pod: &Role<'_>, annotations: &str) -> Result<()> {
        let command = if pod.image == "busybox" { "command: [sleep, '3600']" } else { "args: []" };
        let node = if pod.node.is_empty() { String::new() } else { format!("nodeName: {}, ", pod.node) };
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\n\
             metadata: {{name: {}, namespace: {NAMESPACE}, labels: {{pod: {}, role: {}}}, annotations: {{{annotations}}}}}\n\
             spec: {{{node}terminationGracePeriodSeconds: 0, containers: [{{name: c, image: {}, {command}}}]}}\n",
            pod.name, pod.name, pod.role, pod.image
        );
        self.hands.apply(&yaml)?.ok().map(drop)
    }

    /// Asks for a pod and waits until it runs; gives its address.
    pub(super) fn start(&self, pod: &Role<'_>) -> Result<String> {
        self.ask_for(pod, "")?;
        self.running(pod.name)
    }

    /// Waits until a pod runs; gives its address.
    pub(super) fn running(&self, pod: &str) -> Result<String> {
        until(START, || {
            let path = "jsonpath={.status.phase} {.status.podIP}";
            let seen = self.hands.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", path])?.ok()?;
            let address = seen.strip_prefix("Running ").with_context(|| format!("pod {pod} is {seen:?}"))?;
            ensure!(!address.is_empty(), "pod {pod} runs without an address");
            Ok(address.to_owned())
        })
    }

    /// How a running pod with a branch is wired.
    pub(super) fn wired(&self, pod: &str) -> Result<Wired> {
        let path = "jsonpath={.metadata.uid} {.spec.nodeName} {.status.podIP}";
        let seen = self.hands.kubectl(&["get", "pod", pod, "-n", NAMESPACE, "-o", path])?.ok()?;
        let [uid, node, address] = seen.split(' ').collect::<Vec<_>>()[..] else { bail!("pod {pod} is {seen:?}") };
        let kept = self.place.node_dir(node).join("pods").join(uid).join("result.json");
        let text = fs::read_to_string(&kept).with_context(|| format!("reading {}", kept.display()))?;
        let result: Value = serde_json::from_str(&text).context("the result of ADD")?;
        let text = |interface: usize, key: &str| {
            let found = result["interfaces"][interface][key].as_str();
            found.map(str::to_owned).with_context(|| format!("the result of ADD has no {key}: {result}"))
        };
        Ok(Wired {
            address: address.to_owned(),
            host: text(0, "name")?,
            branch: format!("vlan.eth.{}", text(2, "mac")?),
            netns: text(1, "sandbox")?,
            uid: uid.to_owned(),
            result: result.clone(),
        })
    }

    /// What `kubectl describe` says of a pod.
    pub(super) fn describe(&self, pod: &str) -> Result<String> {
        self.hands.kubectl(&["describe", "pod", pod, "-n", NAMESPACE])?.ok()
    }

    /// Whether one pod gets a page from an address within a second.
    pub(super) fn reaches(&self, pod: &str, address: &str) -> Result<bool> {
        Ok(self.hands.exec(NAMESPACE, pod, &["curl", "-sS", "-o", "/dev/null", "-m", "1", &bracketed(address)])?.status
            == 0)
    }

    /// Makes a Service for one pod, of these further fields; gives its ClusterIP.
    pub(super) fn service(&self, name: &str, pod: &str, spec: &str) -> Result<String> {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{selector: {{pod: {pod}}}, {spec}}}\n"
        );
        self.hands.apply(&yaml)?.ok()?;
        let path = "jsonpath={.spec.clusterIP}";
        self.hands.kubectl(&["get", "service", name, "-n", NAMESPACE, "-o", path])?.ok()
    }

    /// Waits until one pod gets a page from an address. A node knows of a pod on another one once its agent has
    /// looked at EC2 again; a pod with a warm branch runs before that.
    pub(super) fn comes_to_reach(&self, pod: &str, address: &str) -> Result<()> {
        until(Duration::from_secs(10), || {
            ensure!(self.reaches(pod, address)?, "{pod} does not reach {address}");
            Ok(())
        })
    }

    /// Takes away whatever a case left; what cannot be taken away shows in the next case.
    pub(super) fn tidy(&self) {
        let gone = self.hands.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s"]);
        if let Ok(outcome) = gone
            && outcome.status != 0
        {
            println!("  the namespace {NAMESPACE} stayed: {}", outcome.words());
        }
    }
}
