//! Ten things that break, as a new operator meets them, and the one command that names each cause. What it prints is
//! `docs/breakages.md`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::agents::{cripple, restart_with};
use super::stage::{NAMESPACE, Role, START, Stage};
use super::transcript::Transcript;
use crate::demo::hands::{Outcome, until};
use crate::demo::tutorial::Node;
use crate::process::within;

const PAGE: &str = "docs/breakages.md";
const HEAD: &str = include_str!("breakages.md");
/// How long a command may take to see what was done.
const SEEN: Duration = Duration::from_secs(20);
/// More flows than one pod may hold.
const FLOOD: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for host in (201, 202, 203):
    for port in range(1, 34000):
        s.sendto(b'x', (sys.argv[1] + str(host), port))
";

/// Off the trunk and gone, before the agent has put it back onto the trunk.
const DELETE: &str = "import boto3, botocore, sys
ec2, branch = boto3.client('ec2'), sys.argv[1]
for attempt in range(50):
    for it in ec2.describe_trunk_interface_associations()['InterfaceAssociations']:
        if it['BranchInterfaceId'] == branch:
            ec2.disassociate_trunk_interface(AssociationId=it['AssociationId'])
    try:
        ec2.delete_network_interface(NetworkInterfaceId=branch)
        sys.exit(0)
    except botocore.exceptions.ClientError as error:
        last = error
sys.exit(str(last))
";

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

    /// The scheduler counts branches; two pods that want them all leave none.
    fn capacity(&mut self) -> Result<()> {
        self.page.part("5. The nodes carry no more branches", "A pod stays Pending:");
        let all = crate::place::BRANCHES;
        for node in &self.stage.world.nodes {
            self.greedy(&format!("greedy-{}", node.name), all)?;
        }
        self.greedy("late", 1)?;
        let said = until(SEEN, || {
            let said = events_of(&self.stage.describe("late")?);
            ensure!(said.contains("Insufficient"), "{said}");
            Ok(said)
        })?;
        let causes = ["FailedScheduling", "Insufficient vpc.amazonaws.com/pod-eni"];
        self.page.command("kubectl describe pod late -n cases | grep Warning", &said, &causes)?;
        let names =
            self.stage.world.nodes.iter().map(|node| format!("greedy-{}", node.name)).chain(["late".to_owned()]);
        for name in names {
            self.stage.hands.kubectl(&["delete", "pod", &name, "-n", NAMESPACE, "--wait=false"])?.ok()?;
        }
        Ok(())
    }

    /// A pod of no policy that asks for so many branches.
    fn greedy(&self, name: &str, branches: u16) -> Result<()> {
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: busybox, command: [sleep, '3600'],\n\
             resources: {{limits: {{vpc.amazonaws.com/pod-eni: '{branches}'}}}}}}]}}\n"
        );
        self.stage.hands.apply(&yaml)?.ok()?;
        let path = "jsonpath={.spec.nodeName}{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
        until(SEEN, || {
            let seen = self.stage.hands.kubectl(&["get", "pod", name, "-n", NAMESPACE, "-o", path])?.ok()?;
            ensure!(!seen.is_empty(), "the scheduler has not seen {name}");
            Ok(())
        })
    }

    fn spoofing(&mut self) -> Result<()> {
        self.page.part("6. A pod sends under an address that is not its own", "What it sends gets no answer:");
        for words in [&["ip", "address", "add", "192.0.2.1/32", "dev", "eth0"][..]] {
            self.stage.hands.exec(NAMESPACE, "partner", words)?.ok()?;
        }
        let curl = ["curl", "-sS", "-m", "1", "--interface", "192.0.2.1", &self.server];
        let said = self.stage.hands.exec(NAMESPACE, "partner", &curl)?;
        self.page.command(
            &format!("kubectl exec partner -n cases -- {}", curl.join(" ")),
            &curled(&said),
            &["timed out"],
        )?;
        let words = ["drops", "--pod", "cases/partner"];
        let said = uncounted(&self.agent(&words)?.ok()?);
        let causes = ["outbound SpoofedSource", "The pod sent with a MAC or source address that is not its own"];
        self.page.command(&typed(&words), &said, &causes)
    }

    fn flows(&mut self) -> Result<()> {
        self.page.part(
            "7. A pod's share of the flow table is full",
            "The pod has talked to very many peers at once; its old connections go on, new ones do not:",
        );
        let python = self.stage.hands.venv.join("bin/python").display().to_string();
        let net = format!("{}.", self.stage.place.address(1, 0).trim_end_matches(".0"));
        self.stage.hands.exec(NAMESPACE, "partner", &[&python, "-c", FLOOD, &net])?.ok()?;
        self.curl("partner", &self.server.clone(), "timed out")?;
        let words = ["explain", "cases/partner", "out", "tcp", &self.server.clone(), "80"];
        self.ask(&words, &["dropped: EndpointFlowLimit: rules allow it, but the pod holds"])
    }

    fn stale_annotation(&mut self) -> Result<()> {
        self.page.part(
            "8. A stale annotation",
            "A pod comes with the annotation of an interface that is no more. It does not start:",
        );
        let stale = "[{\"eniId\":\"eni-0000000000000dead\",\"ifAddress\":\"02:00:00:00:de:ad\",\"privateIp\":\"10.64.0.250\",\"vlanId\":7,\"subnetCidr\":\"10.64.0.0/24\"}]";
        let pod = Role { name: "stale", role: "client", node: &self.node.name, image: "busybox" };
        self.stage.ask_for(&pod, &format!("vpc.amazonaws.com/pod-eni: '{stale}'"))?;
        let said = until(START, || {
            let said = events_of(&self.stage.describe("stale")?);
            ensure!(said.contains("BranchAllocationFailed"), "{said}");
            Ok(said)
        })?;
        self.page.command(
            "kubectl describe pod stale -n cases | grep Warning",
            &said,
            &["cases/stale", "annotation", "which EC2 does not know"],
        )?;
        self.stage.hands.kubectl(&["delete", "pod", "stale", "-n", NAMESPACE, "--wait=false"])?.ok().map(drop)
    }

    fn deleted_interface(&mut self) -> Result<()> {
        self.page.part(
            "9. Somebody deleted a pod's interface in EC2",
            "Its node goes on enforcing what it knows, but the VPC delivers nothing any more:",
        );
        let filter = "Name=tag:sgp.dev/pod,Values=cases/client";
        let query = "NetworkInterfaces[0].NetworkInterfaceId";
        let id = self.stage.hands.ec2(&["describe-network-interfaces", "--filters", filter, "--query", query])?;
        let python = self.stage.hands.venv.join("bin/python");
        self.stage.hands.finish(Command::new(python).args(["-c", DELETE, &id]))?.ok()?;
        let words = ["doctor"];
        let said = until(SEEN, || {
            let said = self.agent(&words)?.words();
            ensure!(said.contains("its annotation names") && said.contains("its branch"), "{said}");
            Ok(wrong(&said))
        })?;
        self.page.command("sgp-agent doctor | grep '!!'", &said, &["cases/client", "which EC2 does not know"])
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

fn typed(words: &[&str]) -> String {
    format!("sgp-agent {}", words.join(" "))
}

/// What curl says of itself; how long it waited differs.
fn curled(said: &Outcome) -> String {
    let words = said.words();
    let known = ["timed out", "Could not resolve host"].into_iter().find(|known| words.contains(known));
    match (known, words.lines().find(|line| line.starts_with("curl:"))) {
        (Some("timed out"), _) => "curl: (28) Connection timed out".to_owned(),
        (_, Some(line)) => line.to_owned(),
        (_, None) => words,
    }
}

/// How long a flow has been idle differs.
fn since_when(said: &str) -> String {
    match said.split_once(" for ").and_then(|(head, rest)| Some((head, rest.split_once(" s idle")?.1))) {
        Some((head, rest)) => format!("{head} for N s idle{rest}"),
        None => said.to_owned(),
    }
}

/// Time, port and resolver differ.
fn dropped(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, pod, way, protocol, from, "->", to, ..] = words[..] else { bail!("it is no drop") };
    let (from, port) = (from.rsplit_once(':').context("no port")?.0, to.rsplit_once(':').context("no port")?.1);
    let (_, reason) = line.split_once("dropped:").context("no reason")?;
    Ok(format!("12:00:00 {pod} {way} {protocol} {from}:PORT -> DNS:{port} (kube-system/dns) dropped:{reason}"))
}

/// Packets and bytes differ: retransmissions.
fn uncounted(table: &str) -> String {
    let is_number = |word: &&str| word.chars().all(|c| c.is_ascii_digit());
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            [pod, way, reason, packets, bytes] if is_number(packets) && is_number(bytes) => {
                format!("{pod} {way} {reason} N N")
            }
            ["POD", ..] => words.join(" "),
            _ => line.to_owned(),
        }
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn unnumbered(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for index in 1..words.len() {
        if words[index - 1] == "(pid" {
            words[index] = "PID,".to_owned();
        }
    }
    words.join(" ")
}

/// The findings of a doctor that is not content.
fn wrong(table: &str) -> String {
    table.lines().filter(|line| line.starts_with("!!")).collect::<Vec<_>>().join("\n")
}

/// Warnings among the events that `kubectl describe` shows, without their ages.
fn events_of(described: &str) -> String {
    let events = described.split_once("\nEvents:").map_or("", |(_, events)| events);
    let warning = |line: &str| {
        let columns: Vec<&str> = line.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let ["Warning", reason, _, from, message] = columns[..] else { return None };
        Some(format!("  Warning  {reason}  {from}  {message}"))
    };
    events.lines().find_map(warning).unwrap_or_default()
}
