//! The node that packets are put through: pods with policies of all sizes, and what a case does to its tables.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{ProgramFd, SchedClassifier};
use sgp_agent::domain::desired::{Desired, Policy};
use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::observed::{Attachment as Attached, CloudFacts, NetworkInterface, Observed};
use sgp_agent::domain::plan::Step;
use sgp_agent::domain::settings::{Settings, Snat, SnatPorts};
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Attachment, Bpf, Kernel as _};
use sgp_common::addr::v4_mapped;
use sgp_common::flow::{Flow, FlowKey};
use sgp_common::limits::VLAN_IDS_MAX;
use sgp_common::pins::map;
use sgp_common::policy::FULL_BITS;
use sgp_common::snat::{SnatEntry, SnatKey};
use sgp_common::{Direction, Family, policy};

use crate::cases::Kind;
use crate::node::{self, Node};
use crate::rules;

/// Rules of each pod's policy.
pub(crate) const RULES: [u16; 4] = [1, 60, 300, 1000];
/// The pod whose policy speaks of [`PREFIXES`] addresses.
pub(crate) const PREFIXED: usize = RULES.len();
/// See [`PREFIXED`].
const PREFIXES: u32 = 10_000;
/// MAC address of the primary interface.
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 5, 5];
/// Address of the node.
pub(crate) const NODE: [u8; 4] = [10, 200, 0, 5];

/// See the module.
pub(crate) struct Place {
    pub(crate) node: Node,
    /// Interface index of the primary interface, where there is one.
    pub(crate) primary: u32,
    flows: HashMap<MapData, FlowKey, Flow>,
    counts: Array<MapData, u64>,
    snat: HashMap<MapData, SnatKey, SnatEntry>,
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
        let map =
            |name| -> Result<Map> { Ok(Map::from_map_data(MapData::from_pin(PinDirs::new(&node.dir).map(name))?)?) };
        let (flows, counts, snat) = (map(map::FLOWS)?, map(map::FLOW_COUNTS)?, map(map::SNAT)?);
        let mut place =
            Self { primary, flows: flows.try_into()?, counts: counts.try_into()?, snat: snat.try_into()?, node };
        place.apply(kind)?;
        Ok(place)
    }

    fn apply(&mut self, kind: Kind) -> Result<()> {
        let mut names: Vec<String> = RULES.iter().map(|rules| format!("sg-{rules}")).collect();
        names.push("sg-prefixes".into());
        let mut groups: BTreeMap<_, _> =
            names.iter().zip(RULES).map(|(id, rules)| (id.clone(), rules::group(id, rules))).collect();
        groups.insert("sg-prefixes".into(), rules::group("sg-prefixes", 1));
        groups.insert("sg-node".into(), rules::everything("sg-node"));
        let sets: Vec<GroupSet> = names.iter().map(|id| GroupSet::of([id.clone()])).collect();
        let mut observed = self.node.observed(&CloudFacts { groups, ..CloudFacts::default() }, &sets);
        if kind == Kind::Standard {
            self.leave(&mut observed);
        }
        self.node.apply(&observed);
        self.scatter(&Desired::from(&observed), &sets[PREFIXED])
    }

    /// The node has a primary interface, by which pods leave the VPC.
    fn leave(&self, observed: &mut Observed) {
        observed.settings =
            Settings { snat: Snat::Node { exclude: Vec::new(), ports: SnatPorts::Keep }, ..Settings::default() };
        if let Some(cloud) = observed.cloud.as_mut() {
            cloud.instance.id = "i-1".into();
            cloud.interfaces.insert("eni-primary".into(), primary_interface());
        }
        let link = self.node.described_link("primary0", self.primary, NODE_MAC);
        observed.links.get_or_insert_default().push(link);
    }

    /// Gives a policy as many addresses as no group of EC2's quota has: beyond rules, group members and prefix lists
    /// cannot be many in one trie, and this is what it would cost.
    fn scatter(&mut self, desired: &Desired, set: &GroupSet) -> Result<()> {
        let id = set.id();
        let mut policy: Policy = desired.policies.get(&id).context("the policy of many prefixes")?.clone();
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
        self.node.kernel.apply(&Step::PutPolicy(id, Box::new(policy)))
    }

    /// A program of the data path.
    pub(crate) fn program(&self, name: &'static str) -> Result<ProgramFd> {
        let opened = SchedClassifier::from_pin(PinDirs::new(&self.node.dir).program(name))?;
        Ok(opened.fd()?.try_clone()?)
    }

    /// Forgets every flow.
    pub(crate) fn forget(&mut self) -> Result<()> {
        let keys: Vec<FlowKey> = self.flows.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| self.flows.remove(key)).context("emptying FLOWS")?;
        let keys: Vec<SnatKey> = self.snat.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| self.snat.remove(key)).context("emptying SNAT")?;
        self.uncount()
    }

    /// Lets every pod open as many flows as if it had none.
    pub(crate) fn uncount(&mut self) -> Result<()> {
        (0..VLAN_IDS_MAX).try_for_each(|vlan_id| self.counts.set(vlan_id, 0, 0)).context("writing FLOW_COUNTS")
    }

    /// How many flows there are.
    pub(crate) fn flows(&self) -> usize {
        self.flows.keys().count()
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

fn primary_interface() -> NetworkInterface {
    let here = Attached { instance_id: "i-1".into(), status: "attached".into(), ..Attached::default() };
    NetworkInterface {
        id: "eni-primary".into(),
        mac: "02:00:00:00:05:05".into(),
        addresses: vec![NODE.into()],
        groups: GroupSet::of(["sg-node"]),
        attachment: Some(here),
        ..NetworkInterface::default()
    }
}
