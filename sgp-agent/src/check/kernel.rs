//! The engine that is the real one: the programs that enforce on a node, in namespaces of their own.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Error, Result};
use sgp_common::event::Outcome;
use sgp_common::packet::{ETHERNET_LEN, Packet, parse};
use sgp_common::pins::program;
use sgp_common::policy::RuleKey;
use sgp_common::{Direction, DropReason, Family, Verdict};

use super::Engine;
use crate::domain::branches::{POD_TAG, VLAN_TAG};
use crate::domain::desired::{Desired, Refusal};
use crate::domain::enforcement::Enforcement;
use crate::domain::groups::RuleName;
use crate::domain::model::{Judgement, World};
use crate::domain::observed::{ClusterFacts, LinkFacts, Observed};
use crate::domain::plan::{Step, plan};
use crate::domain::settings::{Settings, Snat};
use crate::domain::wiring::{Alias, branch_interface, parse_mac};
use crate::io::kernel::trial::{At, Trial};
use crate::io::kernel::{Bpf, Kernel as _, preflight};
use crate::io::netlink::Netlink;
use crate::io::seclusion;

/// The VLAN id of the endpoint's branch: it has no trunk, so any will do.
const VLAN_ID: u16 = 1;
/// The pod's host veth.
const HOST: &str = "host1";
/// Of both veth pairs: what an Ethernet of EC2 can carry (jumbo frames).
const MTU: u32 = 9001;

/// Programs, maps and interfaces of one endpoint, of this thread alone.
pub struct Kernel {
    bpf: Bpf,
    trial: Trial,
    enforcement: Enforcement,
    host: LinkFacts,
    branch: LinkFacts,
    /// MAC address of the endpoint's pod.
    mac: [u8; 6],
    /// The rules of every policy that was installed, since flows name those of old ones: by digest, and within by
    /// direction, family and index.
    rules: BTreeMap<RuleKey, RuleName>,
}

impl Kernel {
    /// Loads the programs and makes the interfaces. The calling thread stays secluded for good, and so does the
    /// engine: it must not leave that thread.
    ///
    /// # Errors
    /// One sentence each for: no permission, no bpffs, a kernel too old, an object that was not built in.
    pub fn start(enforcement: Enforcement) -> Result<Self> {
        preflight::permission()?;
        seclusion::enter()?;
        let bpf = Bpf::open_for_trial(&Path::new(seclusion::BPFFS).join("sgp-check"))?;
        let trial = Trial::open(bpf.dirs())?;
        let [host, branch] = interfaces()?;
        Ok(Self { bpf, trial, enforcement, host, branch, mac: [0; 6], rules: BTreeMap::new() })
    }

    /// All that is observed if EC2 says `world`: a node with one pod, whose branch the endpoint is.
    fn observed(&self, world: &World) -> Observed {
        let (mut cloud, id) = (world.cloud.clone(), &world.endpoint);
        if let Some(interface) = cloud.interfaces.get_mut(id) {
            interface.tags.insert(VLAN_TAG.into(), VLAN_ID.to_string());
            interface.tags.insert(POD_TAG.into(), format!("check/{id}"));
        }
        let alias = Alias { interface_id: id.clone(), uid: String::new(), mac: self.mac };
        let host = LinkFacts { alias: Some(alias.write()), ..self.host.clone() };
        Observed {
            cluster: Some(ClusterFacts::default()),
            cloud: Some(cloud),
            links: Some(vec![host, self.branch.clone()]),
            enforcement: self.enforcement,
            // The frames of a scenario are seen at the branch; what leaves by another way is none of them.
            settings: Settings { snat: Snat::External, ..Settings::default() },
            ..Observed::default()
        }
    }

    fn apply(&mut self, desired: &Desired) -> Result<()> {
        for step in plan(desired, &self.bpf.installed()?) {
            // As the agent does: what fails for want of room may find some where the last world's things were.
            self.bpf.apply(&step).or_else(|_| self.bpf.sweep().and_then(|_| self.bpf.apply(&step)))?;
            if let Step::PutPolicy(_, policy) = step {
                self.rules.extend(policy.names.clone());
            }
        }
        Ok(())
    }

    /// Takes away what endpoints of earlier worlds have left.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn sweep(&mut self) -> Result<()> {
        self.bpf.sweep().map(drop)
    }

    /// The hooks a packet passes, in order; what the first of the branch says is the verdict.
    fn hooks(&self, direction: Direction) -> [At; 2] {
        let at =
            |program, on: &LinkFacts, by: &LinkFacts| At { program, ifindex: on.index, ingress: by.index, mark: 0 };
        match direction {
            Direction::Inbound => {
                [at(program::FROM_BRANCH, &self.branch, &self.branch), at(program::TO_POD, &self.host, &self.branch)]
            }
            Direction::Outbound => {
                [at(program::FROM_POD, &self.host, &self.host), at(program::TO_BRANCH, &self.branch, &self.host)]
            }
        }
    }

    fn judgement(&self, outcome: &Outcome, frame: &[u8]) -> Result<Judgement> {
        if outcome.reason != 0 {
            let reason = DropReason::from_code(outcome.reason);
            let reason = reason.with_context(|| format!("a program dropped for reason {}", outcome.reason))?;
            return Ok(Judgement { verdict: Err(reason), rule: None });
        }
        let key = RuleKey {
            policy_digest: outcome.policy_digest,
            rule: outcome.rule,
            direction: outcome.rule_direction,
            family: family_of(frame),
            reserved: [0; 4],
        };
        Ok(Judgement { verdict: Ok(outcome.verdict), rule: self.rules.get(&key).cloned() })
    }

    /// Why the programs would drop a frame that is too short to be put through them: what the parser says that they
    /// share with us.
    fn reason_for_short(&self, direction: Direction, frame: &[u8]) -> DropReason {
        let spoofed = direction == Direction::Outbound && frame.len() >= ETHERNET_LEN && frame[6..12] != self.mac;
        let parsed = parse(frame, &mut { Packet::EMPTY });
        if spoofed { DropReason::SpoofedSource } else { parsed.err().unwrap_or(DropReason::Malformed) }
    }
}

impl Engine for Kernel {
    fn update(&mut self, world: &World) -> Result<Vec<String>> {
        let interface = world.cloud.interfaces.get(&world.endpoint);
        self.mac = interface.and_then(|interface| parse_mac(&interface.mac)).unwrap_or_default();
        let desired = Desired::from(&self.observed(world));
        self.apply(&desired)?;
        Ok(desired.refused.into_iter().map(told).collect())
    }

    fn judge(&mut self, at_ns: u64, direction: Direction, frame: &[u8]) -> Result<Judgement> {
        if frame.len() < shortest(frame) {
            return Ok(Judgement { verdict: Err(self.reason_for_short(direction, frame)), rule: None });
        }
        self.trial.set_clock(at_ns)?;
        let mut judged = None;
        let mut mark = 0;
        for at in self.hooks(direction) {
            let (ran, outcome) = self.trial.run(At { mark, ..at }, frame)?;
            mark = ran.mark;
            if outcome.verdict != Verdict::Passed || !ran.passed {
                judged = Some(outcome);
            }
            if !ran.passed {
                break;
            }
        }
        self.judgement(&judged.context("no program judged the packet")?, frame)
    }
}

/// The object, unless the reason names it already.
fn told(refusal: Refusal) -> String {
    let Refusal { object, reason } = refusal;
    if reason.starts_with(&object) { reason } else { format!("{object}: {reason}") }
}

/// The kernel puts no packet on trial that lacks the header which its Ethernet type promises (Linux 6.18, EINVAL).
fn shortest(frame: &[u8]) -> usize {
    ETHERNET_LEN
        + match frame.get(12..ETHERNET_LEN) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            _ => 0,
        }
}

/// The family whose rules a frame is judged by.
fn family_of(frame: &[u8]) -> Family {
    if frame.get(12..14) == Some(&[0x86, 0xdd]) { Family::V6 } else { Family::V4 }
}

/// Two veth pairs: the pod's host veth, and one in the place of its branch, on which tc sees the same frames as on a
/// VLAN link.
fn interfaces() -> Result<[LinkFacts; 2]> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting a runtime")?;
    runtime.block_on(async {
        let netlink = Netlink::connect()?;
        let branch = branch_interface(VLAN_ID);
        let mut made = Vec::new();
        for (name, peer) in [(HOST, "pod1"), (branch.as_str(), "vpc1")] {
            netlink.add_veth(name, peer, MTU).await?;
            made.push(netlink.link(name).await?.with_context(|| format!("the link {name} is gone"))?);
        }
        made.try_into().map_err(|_| Error::msg("two links were made"))
    })
}
