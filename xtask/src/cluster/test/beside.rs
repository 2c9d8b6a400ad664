//! Beside others on the node: aws-node that translates by itself, and a network policy engine on the pods' host veths.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::aws_node::AWS_NODE;
use super::cast::{Cast, space};
use super::stage::{Role, Stage, Wired};
use super::talk::{Protocol, Question, Server};
use super::wire::Turn;
use crate::demo::hands::until;
use crate::demo::tutorial::Node;
use crate::process::within;

const NODE_PORT: u16 = 30_080;
/// Priorities of the rules that keep a pod to its branch.
const KEPT: [u32; 2] = [1022, 1023];

/// What [`AWS_NODE`] is in its other form, for an iptables that is backed by nftables: the mark is written as a whole.
const AWS_NODE_NFT: &str = "table ip aws-cni {
  chain snat-mark { ip daddr VPC return; ct mark set ct mark | 0x80; }
  chain nat-prerouting { type nat hook prerouting priority -90; fib daddr type local return;
    iifname \"eni*\" jump snat-mark; ct mark & 0x80 == 0x80 meta mark set ct mark; }
}";

/// Pod P on the first node, and somebody outside.
struct Scene<'a> {
    stage: &'a Stage,
    node: &'a Node,
    cast: Cast,
    p: Wired,
}

/// Whatever aws-node does beside us, a standard pod's packets take our ways, and their answers come back.
pub(super) fn aws_node(stage: &Stage) -> Result<()> {
    let scene = scene(stage, "aws-node")?;
    let outside = SocketAddr::new(stage.place.internet().parse()?, 80);
    let _server = Server::start(&space(&stage.place.netns("inet")), outside)?;
    scene.takes_our_ways().context("alone")?;
    let (vpc, node) = (format!("{}/16", stage.place.address(0, 0)), stage.place.internal_ip(1));
    for rule in AWS_NODE {
        scene.iptables(&rule.replace("VPC", &vpc).replace("NODE", &node))?;
    }
    scene.takes_our_ways().context("beside the chains of aws-node")?;
    scene.lose_own_way()?;
    scene.takes_our_ways().context("wired as by aws-node")?;
    let mut nft = within(&scene.node.netns, "nft");
    stage.hands.finish_with(nft.args(["-f", "-"]), &AWS_NODE_NFT.replace("VPC", &vpc))?.ok()?;
    scene.takes_our_ways().context("beside its nftables too")?;
    stage.hands.finish(within(&scene.node.netns, "nft").args(["delete", "table", "ip", "aws-cni"]))?.ok()?;
    for rule in AWS_NODE.iter().rev().filter(|rule| rule.contains(" -A ")) {
        scene.iptables(&rule.replace(" -A ", " -D ").replace("VPC", &vpc).replace("NODE", &node))?;
    }
    ["-t nat -X AWS-CONNMARK-CHAIN-0", "-t nat -X AWS-SNAT-CHAIN-0"].iter().try_for_each(|rule| scene.iptables(rule))
}

/// Rules of iptables on `eni+`, as network policy engines write them, are asked about what our programs let pass.
pub(super) fn policy_engine(stage: &Stage) -> Result<()> {
    let scene = scene(stage, "policy-engine")?;
    let outside = SocketAddr::new(stage.place.internet().parse()?, 80);
    let _server = Server::start(&space(&stage.place.netns("inet")), outside)?;
    scene.takes_our_ways()?;
    let address = outside.ip();
    for (rule, question) in [
        (format!("FORWARD -i eni+ -d {address} -p tcp --dport 80 -j DROP"), scene.pod_asks(outside)),
        (format!("FORWARD -o eni+ -s {address} -p tcp --dport 80 -j DROP"), scene.outside_asks(80)?),
    ] {
        scene.iptables(&format!("-I {rule}"))?;
        let answered = question.is_answered(Duration::from_secs(1));
        scene.iptables(&format!("-D {rule}"))?;
        ensure!(!answered?, "{question:?} is answered, though \"{rule}\" stands");
    }
    scene.takes_our_ways()
}

impl Scene<'_> {
    /// Out under the node's address, and in by a NodePort; each there and back.
    fn takes_our_ways(&self) -> Result<()> {
        let outside = SocketAddr::new(self.stage.place.internet().parse()?, 80);
        let out = "in veth-P, out eth0 as node marked 0x80, in eth0, out veth-P as outside, answered";
        self.sees(&self.pod_asks(outside), &[80], out)?;
        let by_port = "in eth0, out veth-P as outside, in veth-P, out eth0 as node marked 0x80, answered";
        self.sees(&self.outside_asks(NODE_PORT)?, &[80, NODE_PORT], by_port)
    }

    /// As if aws-node had wired the pod, which knows nothing of our rules; the agent adds them.
    fn lose_own_way(&self) -> Result<()> {
        let own = |priority: u32| format!("{priority}:\tfrom {} ", self.p.address);
        let rules = || self.stage.hands.finish(within(&self.node.netns, "ip").args(["-4", "rule"]))?.ok();
        for priority in KEPT {
            let gone = ["rule", "delete", "from", &self.p.address, "priority", &priority.to_string()];
            self.stage.hands.finish(within(&self.node.netns, "ip").args(gone))?.ok()?;
        }
        until(Duration::from_secs(20), || {
            let rules = rules()?;
            let are_back = KEPT.into_iter().all(|priority| rules.contains(&own(priority)));
            ensure!(are_back, "the pod is not kept to its branch:\n{rules}");
            Ok(())
        })
    }

    fn sees(&self, question: &Question, served: &[u16], expected: &str) -> Result<()> {
        until(Duration::from_secs(5), || {
            let seen = self.cast.ask(question, &[Turn::Asks, Turn::Answers], served)?;
            ensure!(seen == expected, "{question:?}: seen {seen} instead of {expected}");
            Ok(())
        })
    }

    fn pod_asks(&self, to: SocketAddr) -> Question {
        Question { space: PathBuf::from(&self.p.netns), protocol: Protocol::Tcp, to, from_port: 0 }
    }

    /// To P itself, or to its NodePort.
    fn outside_asks(&self, port: u16) -> Result<Question> {
        let place = &self.stage.place;
        let address = if port == NODE_PORT { place.internal_ip(1) } else { self.p.address.clone() };
        let to = SocketAddr::new(address.parse()?, port);
        Ok(Question { space: space(&place.netns("inet")), protocol: Protocol::Tcp, to, from_port: 0 })
    }

    fn iptables(&self, words: &str) -> Result<()> {
        let mut command = within(&self.node.netns, "iptables");
        self.stage.hands.finish(command.args(words.split(' ')))?.ok().with_context(|| words.to_owned()).map(drop)
    }
}

fn scene<'a>(stage: &'a Stage, name: &str) -> Result<Scene<'a>> {
    stage.namespace()?;
    let group = stage.group(name)?;
    stage.open_all(&group, &[&stage.world.cluster_group])?;
    stage.policy(name, &group)?;
    let node = stage.world.nodes.first().context("the cluster has no node")?;
    stage.start(&Role { name: "p", role: name, node: &node.name, image: "nginx" })?;
    let ports = format!("type: NodePort, externalTrafficPolicy: Local, ports: [{{port: 80, nodePort: {NODE_PORT}}}]");
    stage.service("p", "p", &ports)?;
    let p = stage.wired("p")?;
    Ok(Scene { stage, node, cast: Cast::new(stage, &[("P", &p)])?, p })
}
