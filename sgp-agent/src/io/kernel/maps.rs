//! The pinned maps, typed. Shared by the agent, which writes them, and by commands, which only read.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, HashOfMaps, IterableMap, Map, MapData, MapError, PerCpuArray};
use sgp_common::endpoint::{Endpoint, EndpointName, Interface};
use sgp_common::event::Counts;
use sgp_common::flow::{Flow, FlowKey};
use sgp_common::pins::map;
use sgp_common::policy::{Answer, FULL_BITS, Peer, RuleKey, RuleName, Selector};
use sgp_common::snat::{Node, SnatEntry, SnatKey};
use sgp_common::{ABI_VERSION, Addr, pins};

use super::{succession, sys};
use crate::domain::groups::{EndpointId, GroupSetId};

/// Directories of one node's pins.
#[derive(Clone, Debug)]
pub struct PinDirs {
    /// `<bpf dir>/v<ABI>`
    pub root: PathBuf,
}

impl PinDirs {
    /// Below the agent's `--bpf-dir`.
    pub fn new(bpf_dir: &Path) -> Self {
        Self::of(bpf_dir, ABI_VERSION)
    }

    /// Those of a layout.
    pub(super) fn of(bpf_dir: &Path, version: u32) -> Self {
        Self { root: bpf_dir.join(format!("v{version}")) }
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.root.join(pins::MAPS).join(name)
    }

    /// Where a program is pinned.
    pub fn program(&self, name: &str) -> PathBuf {
        self.root.join(pins::PROGRAMS).join(name)
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.root.join(pins::LINKS)
    }

    /// Where a policy is pinned, for people's eyes.
    pub fn policy(&self, id: GroupSetId) -> PathBuf {
        self.root.join(pins::POLICIES).join(policy_name(id))
    }
}

/// Name of a policy's map: the kernel keeps 15 bytes, so it has the first half of the id.
pub fn policy_name(id: GroupSetId) -> String {
    format!("pol_{:08x}", id.0 >> 32)
}

/// A compiled policy in the kernel.
pub type PolicyTrie = LpmTrie<MapData, Selector, Answer>;

/// Every pinned map that user space reads or writes.
pub struct Maps {
    /// Interface index -> endpoint.
    pub interfaces: HashMap<MapData, u32, Interface>,
    /// Endpoints.
    pub endpoints: HashMap<MapData, u64, Endpoint>,
    /// Their names.
    pub names: HashMap<MapData, u64, EndpointName>,
    /// Addresses of local endpoints.
    pub local: HashMap<MapData, Addr, u64>,
    /// Group sets of addresses.
    pub peers: HashMap<MapData, Addr, Peer>,
    /// Policies.
    pub policies: HashOfMaps<MapData, u64, PolicyTrie>,
    /// Their revisions.
    pub revisions: HashMap<MapData, u64, u64>,
    /// Names of rules.
    pub rule_names: HashMap<MapData, RuleKey, RuleName>,
    /// Flows.
    pub flows: HashMap<MapData, FlowKey, Flow>,
    /// Flows of each endpoint, by its VLAN id.
    pub flow_counts: Array<MapData, u64>,
    /// Reply keys of translated flows.
    pub snat: HashMap<MapData, SnatKey, SnatEntry>,
    /// Destinations that are not translated.
    pub excluded: LpmTrie<MapData, Addr, u8>,
    /// Destinations of which first packets take the host stack.
    pub stack_nets: LpmTrie<MapData, Addr, u8>,
    /// The node's own way out.
    pub node: HashMap<MapData, u32, Node>,
    /// What is told of VLAN ids on the trunk.
    pub vlans: Array<MapData, u32>,
    /// What is counted of each endpoint, by its VLAN id.
    pub counters: PerCpuArray<MapData, Counts>,
    /// Sampled events that found no room in the ring.
    pub events_lost: PerCpuArray<MapData, u64>,
    /// How often what programs may go by has changed.
    pub changes: Array<MapData, u64>,
    /// Digest of the object the programs came from.
    pub object: Array<MapData, u64>,
}

macro_rules! open {
    ($dirs:expr, $name:expr) => {
        pinned($dirs, $name)?.try_into().with_context(|| format!("the map pinned as {} has another type", $name))?
    };
}

impl Maps {
    /// Opens them all.
    ///
    /// # Errors
    /// Where a pin is missing (no agent has run here) or may not be opened (needs CAP_BPF).
    pub fn open(dirs: &PinDirs) -> Result<Self> {
        if !dirs.root.exists() {
            let others = dirs.root.parent().map(succession::described).transpose()?.unwrap_or_default();
            bail!(
                "nothing is pinned at {}{others}: has `sgp-agent run` been started with this --bpf-dir?",
                dirs.root.display()
            );
        }
        Ok(Self {
            interfaces: open!(dirs, map::INTERFACES),
            endpoints: open!(dirs, map::ENDPOINTS),
            names: open!(dirs, map::ENDPOINT_NAMES),
            local: open!(dirs, map::LOCAL),
            peers: open!(dirs, map::PEERS),
            policies: open!(dirs, map::POLICIES),
            revisions: open!(dirs, map::REVISIONS),
            rule_names: open!(dirs, map::RULE_NAMES),
            flows: open!(dirs, map::FLOWS),
            flow_counts: open!(dirs, map::FLOW_COUNTS),
            snat: open!(dirs, map::SNAT),
            excluded: open!(dirs, map::SNAT_EXCLUDED),
            stack_nets: open!(dirs, map::STACK_NETS),
            node: open!(dirs, map::NODE),
            vlans: open!(dirs, map::VLANS),
            counters: open!(dirs, map::COUNTERS),
            events_lost: open!(dirs, map::EVENTS_LOST),
            changes: open!(dirs, map::CHANGES),
            object: open!(dirs, map::OBJECT),
        })
    }

    /// The installed policy of a group set.
    pub fn policy(&self, id: GroupSetId) -> Option<PolicyTrie> {
        self.policies.get(&id.0, 0).ok()
    }

    /// What people call an endpoint: `namespace/pod`, or its id where nothing is recorded.
    pub fn pod_name(&self, id: EndpointId) -> String {
        match self.names.get(&id.0, 0) {
            Ok(name) => format!("{}/{}", text(&name.namespace), text(&name.pod)),
            Err(_) => format!("{:016x}", id.0),
        }
    }

    /// The endpoint of a pod given as `namespace/pod`.
    ///
    /// # Errors
    /// Where no endpoint has that name; the message lists those that exist.
    pub fn endpoint_of(&self, pod: &str) -> Result<EndpointId> {
        let ids: Vec<EndpointId> = self.names.keys().flatten().map(EndpointId).collect();
        if let Some(id) = ids.iter().find(|id| self.pod_name(**id) == pod) {
            return Ok(*id);
        }
        let known: Vec<String> = ids.into_iter().map(|id| self.pod_name(id)).collect();
        bail!("no endpoint for pod {pod} on this node; there is {}", list(&known))
    }

    /// A rule as EC2 names it: (`sgr-…`, `sg-…`).
    pub fn rule_name(&self, key: &RuleKey) -> Option<(String, String)> {
        let name = self.rule_names.get(key, 0).ok()?;
        Some((text(&name.rule_id), text(&name.group_id)))
    }
}

/// Shows every entry of a table that may be large, read some thousand at a time. One that is written meanwhile may be missing.
///
/// # Errors
/// The kernel's own.
pub fn each<K: Pod, V: Pod>(table: &HashMap<MapData, K, V>, show: impl FnMut(K, V)) -> io::Result<()> {
    sys::each(table.map().fd().as_fd(), show)
}

/// How many entries such a table has.
///
/// # Errors
/// The kernel's own.
pub fn count<K: Pod, V: Pod>(table: &HashMap<MapData, K, V>) -> io::Result<usize> {
    let mut count = 0;
    each(table, |_, _| count += 1)?;
    Ok(count)
}

/// Digest of a policy in the kernel; 0 if it has none.
pub fn digest(trie: &PolicyTrie) -> u64 {
    trie.get(&Key::new(FULL_BITS, Selector::digest()), 0).map_or(0, |answer| answer.digest)
}

/// Zero-padded UTF-8.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What `remove` says, without "it was not there".
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Opens a pinned map of any type.
pub(crate) fn pinned(dirs: &PinDirs, name: &str) -> Result<Map> {
    let path = dirs.map(name);
    let data = MapData::from_pin(&path).with_context(|| format!("opening the pinned map {}", path.display()))?;
    Map::from_map_data(data).with_context(|| format!("the map pinned at {}", path.display()))
}
