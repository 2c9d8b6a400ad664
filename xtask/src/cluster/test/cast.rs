//! Who is who on the wire of a node: packets in the words of the tables.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::stage::{Stage, Wired};
use super::talk::Question;
use super::wire::{Seen, Turn, Way, Wire};

/// Bits of the packet mark that are told: AWS's own, and the one that a row sets in its place. Others' (kube-proxy's) say
/// nothing here.
const MARKS: u32 = 0x180;

/// Names of interfaces and addresses.
pub(super) struct Cast {
    netns: String,
    interfaces: Vec<(String, String)>,
    addresses: Vec<(IpAddr, String)>,
}

impl Cast {
    /// The first node, the world outside, and these pods by their names.
    ///
    /// # Errors
    /// Where an address is none.
    pub(super) fn new(stage: &Stage, pods: &[(&str, &Wired)]) -> Result<Self> {
        let node = stage.world.nodes.first().context("the cluster has no node")?;
        let mut addresses = vec![
            (stage.place.internal_ip(1).parse()?, "node".to_owned()),
            (stage.place.internet().parse()?, "outside".to_owned()),
        ];
        let mut interfaces = Vec::new();
        for (name, pod) in pods {
            addresses.push((pod.address.parse()?, (*name).to_owned()));
            interfaces.push((pod.host.clone(), format!("veth-{name}")));
            interfaces.push((pod.branch.clone(), format!("branch-{name}")));
        }
        Ok(Self { netns: node.netns.clone(), interfaces, addresses })
    }

    /// Asks, and tells what the node's wire saw of the packets of this turn to or from one of these ports, and how it ended.
    ///
    /// # Errors
    /// Where nothing can be asked or heard.
    pub(super) fn ask(&self, question: &Question, turns: &[Turn], served: &[u16]) -> Result<String> {
        let wire = Wire::listen(&self.netns)?;
        let answered = question.is_answered(std::time::Duration::from_secs(1));
        let seen = wire.end()?;
        let ours = |seen: &&Seen| question.protocol.is(seen.protocol) && served.contains(&seen.served());
        let mut steps: Vec<String> = Vec::new();
        for turn in turns {
            for seen in seen.iter().filter(ours).filter(|seen| seen.turn == *turn) {
                let step = self.step(seen, question.from_port);
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        steps.push(if answered? { "answered" } else { "lost" }.to_owned());
        Ok(steps.join(", "))
    }

    /// A packet at an interface, in words; what comes in names itself by its interface. Where it matters from which port
    /// was asked, what goes out tells whether it still has it.
    fn step(&self, seen: &Seen, from_port: u16) -> String {
        let known = self.interfaces.iter().find(|(name, _)| *name == seen.interface);
        let interface = known.map_or(seen.interface.as_str(), |(_, word)| word);
        if seen.way == Way::In {
            return format!("in {interface}");
        }
        let known = self.addresses.iter().find(|(address, _)| *address == seen.source.ip());
        let source = known.map_or_else(|| seen.source.ip().to_string(), |(_, word)| word.clone());
        let mark = seen.mark & MARKS;
        let marked = if mark == 0 { String::new() } else { format!(" marked {mark:#x}") };
        let port = match from_port {
            0 => "",
            own if own == seen.source.port() => ":kept",
            _ => ":another",
        };
        format!("out {interface} as {source}{port}{marked}")
    }
}

/// Path of a network namespace by its name.
pub(super) fn space(netns: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(netns)
}
