//! The node that packets are put through: pods with policies of all sizes, and what a case does to its tables.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::programs::{ProgramFd, SchedClassifier};
use sgp_agent::domain::desired::{Desired, Policy};
use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::observed::CloudFacts;
use sgp_agent::domain::plan::Step;
use sgp_agent::domain::settings::SnatPorts;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Attachment, Bpf, Kernel as _};
use sgp_common::addr::v4_mapped;
use sgp_common::policy::FULL_BITS;
use sgp_common::{Direction, Family, policy};

use crate::cases::Kind;
use crate::node::{self, Node};
use crate::primary::{self, NODE_GROUP, NODE_MAC};
use crate::rules;
use crate::tables::Tables;

/// Rules of each pod's policy.
pub(crate) const RULES: [u16; 4] = [1, 60, 300, 1000];
/// The pod whose policy speaks of [`PREFIXES`] addresses.
pub(crate) const PREFIXED: usize = RULES.len();
/// See [`PREFIXED`].
const PREFIXES: u32 = 10_000;

/// See the module.
pub(crate) struct Place {
    pub(crate) node: Node,
    /// Interface index of the primary interface, where there is one.
    pub(crate) primary: u32,
    pub(crate) tables: Tables,
}

impl Place {
    /// Starts it.
    pub(crate) fn start(kind: Kind, object: Option<&[u8]>) -> Result<Self> {
        let open = |dir: &std::path::Path, attachment| match object {
            Some(object) => Bpf::open_object(dir, attachment, object),
            None => Bpf::open_by(dir, attachment),
        };
        let node =
            Node::start_with(Attachment::offered()?, open, || (1..=RULES.len() as u16 + 1).map(node::wire).collect());
        let primary = node.link("primary0");
        let mut place = Self { primary, tables: Tables::open(&node.dir)?, node };
        place.apply(kind)?;
        Ok(place)
    }

    fn apply(&mut self, kind: Kind) -> Result<()> {
        let mut names: Vec<String> = RULES.iter().map(|rules| format!("sg-{rules}")).collect();
        names.push("sg-prefixes".into());
        let mut groups: BTreeMap<_, _> =
            names.iter().zip(RULES).map(|(id, rules)| (id.clone(), rules::group(id, rules))).collect();
        groups.insert("sg-prefixes".into(), rules::group("sg-prefixes", 1));
        groups.insert(NODE_GROUP.into(), rules::everything(NODE_GROUP));
        let sets: Vec<GroupSet> = names.iter().map(|id| GroupSet::of([id.clone()])).collect();
        let mut observed = self.node.observed(&CloudFacts { groups, ..CloudFacts::default() }, &sets);
        if kind == Kind::Standard {
            let link = self.node.described_link("primary0", self.primary, NODE_MAC);
            primary::leave(&mut observed, link, SnatPorts::Keep);
        }
        self.node.apply(&observed);
        self.scatter(&Desired::from(&observed), &sets[PREFIXED])
    }

    /// Gives a policy as many addresses as no group of EC2's quota has: beyond rules, group members and prefix lists
    /// cannot be many in one trie, and this is what it would cost.
    fn scatter(&mut self, desired: &Desired, set: &GroupSet) -> Result<()> {
        let id = set.id();
        let mut policy = Policy::clone(desired.policies.get(&id).context("the policy of many prefixes")?);
        for direction in [Direction::Inbound, Direction::Outbound] {
            for n in 0..PREFIXES {
                let addr = v4_mapped(rules::scattered(n).octets());
                let key = policy::Selector::remote(direction, Family::V4, addr);
                let like = policy.trie.values().next().context("a policy has keys")?;
                let mut answer = policy::Answer { digest: like.digest, ..policy::Answer::EMPTY };
                answer.rules.insert(0);
                policy.trie.insert((FULL_BITS, key), answer);
            }
        }
        self.node.kernel.apply(&Step::PutPolicy(id, policy.into()))
    }

    /// A program of the data path.
    pub(crate) fn program(&self, name: &'static str) -> Result<ProgramFd> {
        let opened = SchedClassifier::from_pin(PinDirs::new(&self.node.dir).program(name))?;
        Ok(opened.fd()?.try_clone()?)
    }

    /// Packets counted for a pod, allowed or dropped.
    pub(crate) fn counted(&self, pod: usize, is_dropped: Dropped) -> u64 {
        let endpoint = Some(self.node.endpoint(pod));
        let all = self.node.maps.counted().into_iter();
        let mine = all.filter(|one| one.endpoint == endpoint && one.reason.is_some() == (is_dropped == Dropped::Yes));
        mine.map(|counted| counted.packets).sum()
    }
}

/// Whether packets are dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    Yes,
    No,
}
