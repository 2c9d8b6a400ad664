//! Ten things that break, as a new operator meets them, and the one command that names each cause. What it prints is
//! `docs/breakages.md`.

mod nodes;
mod said;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use said::{curled, dropped, since_when, typed, unnumbered};

use super::agents::{cripple, restart_with};
use super::stage::{NAMESPACE, Role, Stage};
use super::transcript::Transcript;
use crate::demo::hands::{Outcome, until};
use crate::demo::tutorial::Node;
use crate::process::within;

const PAGE: &str = "docs/breakages.md";
const HEAD: &str = include_str!("head.md");
/// How long a command may take to see what was done.
const SEEN: Duration = Duration::from_secs(20);
/// The cluster, two pods that want to talk, and the page.
struct Scene<'a> {
    stage: &'a Stage,
    page: Transcript,
    /// Where the server and most others are.
    node: &'a Node,
    server: String,
    group: String,
}

pub(super) fn breakages(stage: &Stage) -> Result<()> {
    let mut scene = scene(stage)?;
    for breakage in [
        Scene::rule_missing,
        Scene::wrong_group,
        Scene::no_dns,
        Scene::excluded,
        Scene::capacity,
        Scene::spoofing,
        Scene::flows,
        Scene::stale_annotation,
        Scene::deleted_interface,
        Scene::agent_down,
    ] {
        breakage(&mut scene)?;
    }
    scene.page.end(PAGE)
}

fn scene(stage: &Stage) -> Result<Scene<'_>> {
    stage.namespace()?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    let (group, other) = (stage.group("server")?, stage.group("client")?);
    for (role, group) in [("server", &group), ("client", &other)] {
        stage.policy(role, group)?;
    }
    for (name, image) in [("server", "nginx"), ("client", "busybox")] {
        stage.ask_for(&Role { name, role: name, node: &node.name, image }, "")?;
    }
    let (server, client) = (stage.running("server")?, stage.running("client")?);
    let mut page = Transcript::begin(HEAD);
    for (this, name) in [
        (server.as_str(), "SERVER"),
        (client.as_str(), "CLIENT"),
        (group.as_str(), "sg-server"),
        (other.as_str(), "sg-client"),
        (stage.place.internal_ip(1).as_str(), "NODE"),
        (stage.world.cluster_group.as_str(), "sg-cluster"),
        // Another cluster beside may have taken the first network.
        (format!("{}/16", stage.place.address(0, 0)).as_str(), "10.64.0.0/16"),
    ] {
        page.call(this, name);
    }
    Ok(Scene { stage, page, node, server, group })
}

impl Scene<'_> {
    fn rule_missing(&mut self) -> Result<()> {
        self.page.part("1. The rule is missing", "The server's group has no inbound rule. A connection times out:");
        let client = self.stage.running("client")?;
        self.curl("client", &self.server.clone(), "timed out")?;
        let words = ["explain", "cases/server", "in", "tcp", &client, "80"];
        self.ask(&words, &["dropped: NoMatchingRule: no rule allows the service"])
    }

    /// The rule is there, for members of another group than the client's.
    fn wrong_group(&mut self) -> Result<()> {
        self.page
            .part("2. The wrong group", "Now there is a rule, for members of a group that the client does not have:");
        let partner = self.stage.group("partner")?;
        self.page.call(&partner, "sg-partner");
        self.stage.policy("partner", &partner)?;
        self.stage.start(&Role { name: "partner", role: "partner", node: &self.node.name, image: "busybox" })?;
        self.stage.open_80(&self.group, &partner)?;
        let address = self.stage.running("partner")?;
        self.page.call(&address, "PARTNER");
        self.stage.comes_to_reach("partner", &self.server)?;
        self.curl("client", &self.server.clone(), "timed out")?;
        let client = self.stage.running("client")?;
        let words = ["explain", "cases/server", "in", "tcp", &client, "80"];
        self.ask(&words, &["rules allow the service", "is for sg-partner", "CLIENT is cases/client of sg-client"])
    }

    fn no_dns(&mut self) -> Result<()> {
        self.page.part("3. DNS is not allowed out", "The pod's group has no outbound rule. Every name fails:");
        let mute = self.stage.group("mute")?;
        self.page.call(&mute, "sg-mute");
        self.stage.hands.ec2(&[
            "revoke-security-group-egress",
            "--group-id",
            &mute,
            "--protocol",
            "-1",
            "--cidr",
            "0.0.0.0/0",
        ])?;
        self.stage.policy("mute", &mute)?;
        let address =
            self.stage.start(&Role { name: "mute", role: "mute", node: &self.node.name, image: "busybox" })?;
        self.page.call(&address, "MUTE");
        self.curl("mute", "server", "Could not resolve host")?;
        let words = ["drops", "-f", "-n", "1", "--pod", "cases/mute"];
        let listening = self.start(&words)?;
        std::thread::sleep(Duration::from_millis(500));
        drop(self.stage.hands.exec(NAMESPACE, "mute", &["curl", "-m", "3", "server"])?);
        let told = listening.wait_with_output().context("waiting for a drop")?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let steady = dropped(&told).with_context(|| format!("drops -f says {told:?}"))?;
        self.page.command(&typed(&words), &steady, &["outbound udp MUTE:PORT -> DNS:53", "NoMatchingRule"])
    }

    /// A network that is not the VPC's is excluded: what answers there answers an address that leads nowhere.
    fn excluded(&mut self) -> Result<()> {
        let settings = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=203.0.113.0/24";
        let words =
            format!("The agent has `{settings}`, and outside nobody knows the way back to a pod's own address:");
        self.page.part("4. A network is excluded from SNAT by mistake", &words);
        let (inet, client) = (self.stage.place.netns("inet"), self.stage.running("client")?);
        let route = |verb: &str| {
            let words = ["route", verb, "blackhole", &client];
            self.stage.hands.finish(within(&inet, "ip").args(words))?.ok()
        };
        route("add")?;
        let result = self.while_excluded(settings);
        route("del")?;
        restart_with(self.stage, self.node, "")?;
        result
    }

    fn while_excluded(&mut self, settings: &str) -> Result<()> {
        restart_with(self.stage, self.node, settings)?;
        let outside = self.stage.place.internet();
        let words = ["explain", "cases/client", "out", "tcp", outside, "80"];
        until(SEEN, || {
            let said = self.agent(&words)?.ok()?;
            ensure!(said.contains("is not translated"), "{said}");
            Ok(())
        })?;
        self.curl("client", outside, "timed out")?;
        self.ask(&words, &["203.0.113.0/24 is not translated", "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"])
    }

    fn agent_down(&mut self) -> Result<()> {
        self.page.part(
            "10. The agent is down",
            "A setting is wrong and the agent ends as soon as it starts. What is enforced stays; a new pod waits:",
        );
        let back = cripple(self.stage, self.node, "POD_SECURITY_GROUP_ENFORCING_MODE=bogus")?;
        let words = ["status"];
        let result = until(SEEN, || {
            let said = self.agent(&words)?.words();
            ensure!(said.contains("NOT running"), "{said}");
            Ok(said)
        });
        back()?;
        let said = result?.lines().find(|line| line.starts_with("agent")).map(unnumbered).unwrap_or_default();
        let causes = ["NOT running; what is enforced stays, new pods wait"];
        self.page.command("sgp-agent status | grep agent", &said, &causes)
    }

    /// What a pod sees.
    fn curl(&mut self, pod: &str, to: &str, expected: &str) -> Result<()> {
        let said = until(SEEN, || {
            let said = self.stage.hands.exec(NAMESPACE, pod, &["curl", "-sS", "-m", "3", to])?;
            ensure!(curled(&said).contains(expected), "{pod} -> {to}: {}", said.words());
            Ok(curled(&said))
        })?;
        self.page.command(&format!("kubectl exec {pod} -n cases -- curl -sS -m 3 {to}"), &said, &[expected])
    }

    /// One command of the agent, which names the cause.
    fn ask(&mut self, words: &[&str], causes: &[&str]) -> Result<()> {
        let said = self.agent(words)?.words();
        self.page.command(&typed(words), &since_when(&said), causes)
    }

    fn agent(&self, words: &[&str]) -> Result<Outcome> {
        self.stage.hands.finish(&mut self.prepared(words))
    }

    fn start(&self, words: &[&str]) -> Result<std::process::Child> {
        let mut command = self.prepared(words);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        command.spawn().context("starting sgp-agent")
    }

    fn prepared(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["20", "nsenter", &format!("--net=/run/netns/{}", self.node.netns)]).arg(&self.stage.hands.agent);
        command.args(words).args(["--bpf-dir", &self.node.bpf_dir]);
        if words.first() != Some(&"endpoints") {
            command.args(["--runtime-dir", &self.node.run_dir]);
        }
        command
    }
}
