//! AWS's tutorial "Security groups for pods", from "Deploy an example application" to the clean-up.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::hands::{Hands, until};
use super::narrator::{Narrator, Step};

pub(super) const NAMESPACE: &str = "my-namespace";
const POLICY: &str = include_str!("../../../../deploy/tutorial/security-group-policy.yaml");
const APPLICATION: &str = include_str!("../../../../deploy/tutorial/sample-application.yaml");

/// How long pods may take to be Ready on two busy cores.
pub(super) const PODS: Duration = Duration::from_secs(60);

/// A place in the world of the demo.
pub(crate) struct World {
    /// The VPC that `dev up` made.
    pub(crate) vpc: String,
    /// The cluster's own security group, which the DNS pods carry.
    pub(crate) cluster_group: String,
    /// The nodes.
    pub(crate) nodes: Vec<Node>,
    /// Process of the EC2 emulator.
    pub(crate) ec2_pid: u32,
}

/// A node, as commands on this machine reach it.
pub(crate) struct Node {
    /// Its name.
    pub(crate) name: String,
    /// Its network namespace.
    pub(crate) netns: String,
    /// Where its agent pins.
    pub(crate) bpf_dir: String,
    /// Its agent's runtime directory.
    pub(crate) run_dir: String,
    /// Its agent's log.
    pub(crate) agent_log: String,
    /// File with its agent's process id.
    pub(crate) agent_pid_file: String,
}

/// The tutorial as it goes on: what later steps need of earlier ones.
pub(crate) struct Tutorial<'a> {
    pub(super) hands: &'a Hands,
    pub(super) world: &'a World,
    pub(super) narrator: &'a mut Narrator,
    pub(super) group: String,
    pub(super) dns_rules: Vec<String>,
    pub(super) pods: Vec<Pod>,
}

/// A replica of the sample application.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) node: String,
}

/// Runs every step; the first that differs ends it.
///
/// # Errors
/// Where something happens that the tutorial does not promise.
pub(crate) fn run(hands: &Hands, world: &World, narrator: &mut Narrator) -> Result<()> {
    let mut tutorial =
        Tutorial { hands, world, narrator, group: String::new(), dns_rules: Vec::new(), pods: Vec::new() };
    tutorial.deploy()?;
    tutorial.look()?;
    tutorial.talk()?;
    tutorial.inspect()?;
    tutorial.revoke_dns()?;
    tutorial.outsider()?;
    tutorial.clean_up()
}

impl Tutorial<'_> {
    fn deploy(&mut self) -> Result<()> {
        let hands = self.hands;
        let command = format!("kubectl create namespace {NAMESPACE}");
        self.narrator
            .step(&Step { title: "A namespace", command: &command, expected: "the namespace is created" }, || {
                hands.kubectl(&["create", "namespace", NAMESPACE])?.ok()
            })?;
        self.make_group()?;
        self.open_dns()?;
        self.apply_policy()?;
        self.apply_application()
    }

    fn make_group(&mut self) -> Result<()> {
        let (hands, world) = (self.hands, self.world);
        let command = format!(
            "aws ec2 create-security-group --group-name my-pod-security-group --vpc-id {}\n\
             aws ec2 authorize-security-group-ingress --group-id $my_pod_sg --protocol -1 --source-group {}\n\
             aws ec2 authorize-security-group-ingress --group-id $my_pod_sg --protocol tcp --port 80 --source-group $my_pod_sg",
            world.vpc, world.cluster_group
        );
        let mut group = String::new();
        self.narrator.step(
            &Step {
                title: "A security group for the pods: open to the cluster's group (probes) and, on port 80, to itself",
                command: &command,
                expected: "a group id",
            },
            || {
                group = hands.ec2(&[
                    "create-security-group",
                    "--group-name",
                    "my-pod-security-group",
                    "--description",
                    "pods of the tutorial",
                    "--vpc-id",
                    &world.vpc,
                    "--query",
                    "GroupId",
                ])?;
                ingress(hands, &group, &["--protocol", "-1", "--source-group", &world.cluster_group])?;
                ingress(hands, &group, &["--protocol", "tcp", "--port", "80", "--source-group", &group])?;
                ensure!(group.starts_with("sg-"), "EC2 answered {group:?}");
                Ok(group.clone())
            },
        )?;
        self.group = group;
        Ok(())
    }

    fn open_dns(&mut self) -> Result<()> {
        let (hands, cluster_group, group) = (self.hands, &self.world.cluster_group, &self.group);
        let command = format!(
            "aws ec2 authorize-security-group-ingress --group-id {cluster_group} --protocol tcp --port 53 --source-group {group}\n\
             aws ec2 authorize-security-group-ingress --group-id {cluster_group} --protocol udp --port 53 --source-group {group}"
        );
        let mut rules = Vec::new();
        self.narrator.step(
            &Step {
                title: "Two rules that let the pods ask the cluster's DNS",
                command: &command,
                expected: "two rule ids",
            },
            || {
                for protocol in ["tcp", "udp"] {
                    let with = ["--protocol", protocol, "--port", "53", "--source-group", group];
                    rules.push(ingress(hands, cluster_group, &with)?);
                }
                Ok(rules.join("\n"))
            },
        )?;
        self.dns_rules = rules;
        Ok(())
    }

    fn apply_policy(&mut self) -> Result<()> {
        let yaml = POLICY.replace("my_pod_security_group_id", &self.group);
        let hands = self.hands;
        self.narrator.step(
            &Step {
                title: "A SecurityGroupPolicy: pods with role=my-role get the group",
                command: "kubectl apply -f deploy/tutorial/security-group-policy.yaml",
                expected: "the policy is created",
            },
            || hands.apply(&yaml)?.ok(),
        )
    }

    fn apply_application(&mut self) -> Result<()> {
        let hands = self.hands;
        let mut pods = Vec::new();
        self.narrator.step(
            &Step {
                title: "Four replicas of nginx behind the Service my-app",
                command: "kubectl apply -f deploy/tutorial/sample-application.yaml",
                expected: "four pods Ready, spread over both nodes",
            },
            || {
                hands.apply(APPLICATION)?.ok()?;
                pods = until(PODS, || ready_pods(hands, 4))?;
                let nodes: BTreeSet<&String> = pods.iter().map(|pod| &pod.node).collect();
                ensure!(nodes.len() == 2, "all pods are on {nodes:?}");
                hands.kubectl(&["get", "pods", "-n", NAMESPACE, "-o", "wide"])?.ok()
            },
        )?;
        self.pods = pods;
        Ok(())
    }

    pub(super) fn bpf_dir(&self, node: &str) -> Result<String> {
        let found = self.world.nodes.iter().find(|known| known.name == node);
        found.map(|known| known.bpf_dir.clone()).with_context(|| format!("no node {node} in this cluster"))
    }
}

/// Adds an ingress rule; gives its id.
fn ingress(hands: &Hands, group: &str, with: &[&str]) -> Result<String> {
    let base = ["authorize-security-group-ingress", "--group-id", group];
    let query = ["--query", "SecurityGroupRules[0].SecurityGroupRuleId"];
    hands.ec2(&[&base[..], with, &query[..]].concat())
}

/// The sample application's pods, if `count` of them are Ready.
fn ready_pods(hands: &Hands, count: usize) -> Result<Vec<Pod>> {
    let template = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.spec.nodeName} \
                    {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    let text = hands.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app=my-app", "-o", template])?.ok()?;
    let pods: Vec<Pod> = text.lines().filter_map(ready_pod).collect();
    ensure!(pods.len() == count, "{} of {count} pods are Ready:\n{text}", pods.len());
    Ok(pods)
}

fn ready_pod(line: &str) -> Option<Pod> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, address, node, "True"] = fields[..] else { return None };
    Some(Pod { name: name.to_owned(), address: address.to_owned(), node: node.to_owned() })
}
