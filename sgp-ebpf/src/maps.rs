//! Every map, on one screen. What each is for stands in `sgp_common::pins::map`.

use crate::clock::Read;
use crate::endpoint::Near;
use crate::policy::Asked;
use crate::report::Record;
use aya_ebpf::btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use sgp_common::Addr;
use sgp_common::endpoint::{Endpoint, EndpointName, Interface};
use sgp_common::event::{Counts, Event, Outcome, Sampler};
use sgp_common::flow::{Admission, Flow, FlowKey};
use sgp_common::fragment::{Fragment, FragmentKey};
use sgp_common::limits::*;
use sgp_common::packet::Packet;
use sgp_common::policy::{Answer, Peer, Question, RuleKey, RuleName, Selector};
use sgp_common::snat::{Node, SnatEntry, SnatKey};
use sgp_common::trunk;

/// A compiled policy.
pub(crate) type Policy = LpmTrie<Selector, Answer, { POLICY_KEYS_MAX as usize }>;

#[btf_map]
pub(crate) static INTERFACES: HashMap<u32, Interface, { INTERFACES_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<u64, Endpoint, { ENDPOINTS_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ENDPOINT_NAMES: HashMap<u64, EndpointName, { ENDPOINTS_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static LOCAL: HashMap<Addr, u64, { INTERFACES_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static PEERS: HashMap<Addr, Peer, { PEERS_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static POLICIES: HashOfMaps<u64, Policy, { POLICIES_MAX as usize }> = HashOfMaps::new();
#[btf_map]
pub(crate) static REVISIONS: HashMap<u64, u64, { POLICIES_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static POLICY_SHAPE: Policy = LpmTrie::new();
#[btf_map]
pub(crate) static RULE_NAMES: HashMap<RuleKey, RuleName, { RULE_NAMES_MAX as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, Flow, { FLOWS_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static FLOW_COUNTS: Array<u64, { VLAN_IDS_MAX as usize }> = Array::new();
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Fragment, { FRAGMENTS_MAX as usize }> = LruHashMap::new();
#[btf_map]
pub(crate) static SNAT: HashMap<SnatKey, SnatEntry, { SNAT_MAX as usize }> = HashMap::new();
#[btf_map]
pub(crate) static SNAT_EXCLUDED: LpmTrie<Addr, u8, { SNAT_EXCLUDED_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static STACK_NETS: LpmTrie<Addr, u8, { STACK_NETS_MAX as usize }> = LpmTrie::new();
#[btf_map]
pub(crate) static NODE: HashMap<u32, Node, 1> = HashMap::new();
#[btf_map]
pub(crate) static VLANS: Array<u32, { trunk::IDS as usize }> = Array::new();
#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<Counts, { VLAN_IDS_MAX as usize }> = PerCpuArray::new();
#[btf_map]
pub(crate) static EVENTS: RingBuf<Event, { EVENTS_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub(crate) static SAMPLER: PerCpuArray<Sampler, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static CHANGES: Array<u64, 1> = Array::new();
#[btf_map]
pub(crate) static OBJECT: Array<u64, 1> = Array::new();

#[btf_map]
pub(crate) static CLOCK: Array<u64, 1> = Array::new();
#[btf_map]
pub(crate) static OUTCOME: Array<Outcome, 1> = Array::new();

/// What does not fit on the stack.
#[repr(C)]
pub(crate) struct Scratch {
    /// What time it is.
    pub(crate) clock: Read,
    /// What is known of its judgement.
    pub(crate) record: Record,
    /// The packet that is judged.
    pub(crate) packet: Packet,
    /// The packet that an ICMP error quotes.
    pub(crate) quoted: Packet,
    /// The key of the flow that is looked for.
    pub(crate) key: FlowKey,
    /// The flow that is being opened.
    pub(crate) flow: Flow,
    /// A packet in fragments, and its first one.
    pub(crate) fragment_key: FragmentKey,
    pub(crate) fragment: Fragment,
    /// What translated flows are known by on the wire, and whose one is.
    pub(crate) snat_key: SnatKey,
    pub(crate) snat_entry: SnatEntry,
    /// What a policy is asked, and by which of its keys.
    pub(crate) question: Question,
    pub(crate) asked: Asked,
    /// What it answers.
    pub(crate) admission: Admission,
    /// Of the policies that judge a translated flow, while they are asked.
    pub(crate) revision: u64,
}

/// Where each CPU keeps the packet it judges, off the stack. tc programs run with softirqs off, XDP programs in one, native or
/// generic: so one program at a time, and one packet.
#[btf_map]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// What each CPU has read of the interfaces that its packets are on.
#[btf_map]
pub(crate) static NEAR: PerCpuArray<Near, { INTERFACES_MAX as usize }> = PerCpuArray::new();

/// Maps that only the agent writes, or that are mostly empty, take memory as they fill.
const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;
