//! A node, and whoever enforces on it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sgp_agent::domain::enforcement::Shortcuts;
use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::observed::{CloudFacts, Observed};
use sgp_agent::domain::settings::SnatPorts;
use sgp_agent::domain::wiring::Mode;
use sgp_agent::io::kernel::Attachment;

use crate::aws_node::AWS_NODE;
use crate::ground::{Ground, PRIMARY, Ways, lay};
use crate::node::Node;
use crate::node::wire::Namespace;
use crate::primary::{NODE_GROUP, NODE_MAC, leave};
use crate::rules;
use crate::tables::Tables;

/// Rules of others' sets and lists, and of our own pods' policies.
const RULES: [u16; 2] = [60, 1000];

/// See the module.
pub(crate) struct Stand {
    pub(crate) ground: Ground,
    /// The node's namespace; ours is this thread's.
    pub(crate) node: Option<Namespace>,
    keeper: Keeper,
}

/// Who remembers flows.
enum Keeper {
    /// Nobody: packets pass unseen.
    Nobody,
    /// The kernel's connection tracking.
    Conntrack,
    /// Our programs.
    Ours(Box<Ours>),
}

/// Our node.
struct Ours {
    /// Its programs stay as long as this.
    node: Node,
    observed: Observed,
    tables: Tables,
}

impl Stand {
    /// A node that forwards.
    pub(crate) fn plain() -> Result<Self> {
        let node = Namespace::new("node");
        let ground = node.inside(|| lay(Ways::Main, 1))?;
        Ok(Self { ground, node: Some(node), keeper: Keeper::Nobody })
    }

    /// One with a set of nftables, and a chain beside it.
    pub(crate) fn nftables(chain: &str) -> Result<Self> {
        let stand = Self { keeper: Keeper::Conntrack, ..Self::plain()? };
        stand.feed(&["nft", "-f", "-"], &rules::nftables(RULES[0], chain))?;
        Ok(stand)
    }

    /// One with rules of iptables, which translates as aws-node does.
    pub(crate) fn iptables() -> Result<Self> {
        let stand = Self { keeper: Keeper::Conntrack, ..Self::plain()? };
        stand.feed(&["iptables-restore"], &rules::iptables(RULES[0], &AWS_NODE))?;
        stand.node.iter().for_each(|node| node.ip("rule add priority 1024 fwmark 0x80/0x80 lookup main"));
        Ok(stand)
    }

    /// Our node: a pod with 60 rules and one with 1,000. The calling thread is on it from then on.
    pub(crate) fn ours(mode: Mode) -> Result<Self> {
        let mut ground = None;
        let mut node = Node::start_by(Attachment::offered()?, || {
            let laid = ground.insert(lay(Ways::Of(mode), RULES.len() as u16));
            laid.as_ref().map_or_else(|_| Vec::new(), |laid| laid.pods.iter().map(|seat| seat.pod.clone()).collect())
        });
        let ground = ground.context("pods were wired")??;
        let observed = observed(&node, mode)?;
        node.apply(&observed);
        let tables = Tables::open(&node.dir)?;
        Ok(Self { ground, node: None, keeper: Keeper::Ours(Box::new(Ours { node, observed, tables })) })
    }

    /// Says which packets go past the host stack, where that is ours to say.
    pub(crate) fn shorten(&mut self, shortcuts: Shortcuts) {
        if let Keeper::Ours(ours) = &mut self.keeper
            && ours.observed.enforcement.shortcuts != shortcuts
        {
            ours.observed.enforcement.shortcuts = shortcuts;
            ours.node.apply(&ours.observed);
        }
    }

    /// Whether what no rule allows stops here.
    pub(crate) fn enforces(&self) -> bool {
        !matches!(self.keeper, Keeper::Nobody)
    }

    /// Forgets every flow.
    pub(crate) fn forget(&mut self) -> Result<()> {
        match &mut self.keeper {
            Keeper::Nobody => Ok(()),
            Keeper::Conntrack => self.feed(&["conntrack", "--flush"], ""),
            Keeper::Ours(ours) => ours.tables.forget(),
        }
    }

    /// Lets a pod open as many flows as if it had none.
    pub(crate) fn uncount(&mut self) -> Result<()> {
        match &mut self.keeper {
            Keeper::Ours(ours) => ours.tables.uncount(),
            Keeper::Nobody | Keeper::Conntrack => Ok(()),
        }
    }

    /// How many flows our tables have.
    pub(crate) fn flows(&self) -> Option<usize> {
        match &self.keeper {
            Keeper::Ours(ours) => Some(ours.tables.flows()),
            Keeper::Nobody | Keeper::Conntrack => None,
        }
    }

    /// Runs a program on the node, on this input.
    fn feed(&self, words: &[&str], input: &str) -> Result<()> {
        let node = self.node.as_ref().context("the node has a name")?;
        node.inside(|| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut running = command.spawn().with_context(|| format!("{} cannot be started", words[0]))?;
            running.stdin.take().context("its input")?.write_all(input.as_bytes()).context("writing its input")?;
            let ended = running.wait_with_output().context("waiting for it")?;
            ensure!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
            Ok(())
        })
    }
}

/// What there is to know, with a cluster that has a few Services.
fn observed(node: &Node, mode: Mode) -> Result<Observed> {
    let names = RULES.map(|rules| format!("sg-{rules}"));
    let mut cloud = CloudFacts::default();
    for (id, rules) in names.iter().map(String::as_str).zip(RULES).chain([(NODE_GROUP, RULES[0])]) {
        cloud.groups.insert(id.into(), rules::group(id, rules));
    }
    let sets: Vec<GroupSet> = names.iter().map(|id| GroupSet::of([id.clone()])).collect();
    let mut observed = node.observed(&cloud, &sets);
    observed.enforcement.shortcuts = Shortcuts::Auto;
    if mode == Mode::Standard {
        let index = nix::net::if_::if_nametoindex(PRIMARY).context("the primary interface")?;
        leave(&mut observed, node.described_link(PRIMARY, index, NODE_MAC), SnatPorts::Prng);
    }
    if let Some(cluster) = &mut observed.cluster {
        cluster.services = Some(["10.100.0.0/16", "198.51.100.7/32"].iter().flat_map(|net| net.parse()).collect());
    }
    Ok(observed)
}
