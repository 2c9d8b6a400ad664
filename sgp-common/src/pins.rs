//! Names under bpffs. The root is the agent's `--bpf-dir` (default [`ROOT`]); below it stands `v<ABI_VERSION>`.

/// Default directory of everything pinned.
pub const ROOT: &str = "/sys/fs/bpf/sgp";
/// Directory of maps below the version directory; a map's pin is its name.
pub const MAPS: &str = "maps";
/// Directory of links: `<interface>-<program>`, dots of the interface written as colons (bpffs refuses dots).
pub const LINKS: &str = "links";
/// Directory of programs; a program's pin is its name.
pub const PROGRAMS: &str = "programs";
/// Directory of policies by group set: `pol_<first 8 hex digits of the group set id>`.
pub const POLICIES: &str = "policies";

/// Maps that a newer layout takes over as they are, so that nothing in them is copied or lost while programs of both
/// are attached: conversations, and what is told of them. What they hold may only ever grow into bytes that were reserved,
/// zero meaning what it meant before; `tests/carried.rs` holds that against the previous layout.
pub const CARRIED: [&str; 6] = [map::FLOWS, map::FRAGMENTS, map::SNAT, map::RULE_NAMES, map::EVENTS, map::SAMPLER];

/// Names of the maps, as in the object file and under [`MAPS`].
pub mod map {
    /// Interface index -> [`crate::endpoint::Interface`].
    pub const INTERFACES: &str = "INTERFACES";
    /// Endpoint id -> [`crate::endpoint::Endpoint`].
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Endpoint id -> [`crate::endpoint::EndpointName`]; written by the agent, read by people.
    pub const ENDPOINT_NAMES: &str = "ENDPOINT_NAMES";
    /// Address of a local endpoint -> endpoint id.
    pub const LOCAL: &str = "LOCAL";
    /// Remote address -> [`crate::policy::Peer`].
    pub const PEERS: &str = "PEERS";
    /// Group set id -> policy (inner LPM trie: `Selector` -> `Answer`).
    pub const POLICIES: &str = "POLICIES";
    /// Group set id -> revision (u64): tells flows when to be judged again. The policy's digest, and where members of groups
    /// count as well (`CUT_ON_REVOKE`) a hash over both. By itself, so that endpoints need not be written when rules change.
    pub const REVISIONS: &str = "REVISIONS";
    /// Never used by programs: carries the BTF that inner tries are created with.
    pub const POLICY_SHAPE: &str = "POLICY_SHAPE";
    /// [`crate::policy::RuleKey`] -> [`crate::policy::RuleName`]; written by the agent, read by people.
    pub const RULE_NAMES: &str = "RULE_NAMES";
    /// [`crate::flow::FlowKey`] -> [`crate::flow::Flow`].
    pub const FLOWS: &str = "FLOWS";
    /// VLAN id of an endpoint's branch -> number of the endpoint's flows (u64).
    pub const FLOW_COUNTS: &str = "FLOW_COUNTS";
    /// [`crate::fragment::FragmentKey`] -> [`crate::fragment::Fragment`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// [`crate::snat::SnatKey`] -> [`crate::snat::SnatEntry`].
    pub const SNAT: &str = "SNAT";
    /// Destinations reached by the branch and under the pod's own address: address prefix -> 1.
    pub const SNAT_EXCLUDED: &str = "SNAT_EXCLUDED";
    /// Destinations of which first packets take the host stack even so (`--shortcut all`): address prefix -> 1. Addresses of
    /// Services and of the node itself, and what is nobody's.
    pub const STACK_NETS: &str = "STACK_NETS";
    /// 0 -> [`crate::snat::Node`]: a hash map, since an array has its values overwritten under a reader's eyes.
    pub const NODE: &str = "NODE";
    /// VLAN id on the trunk -> what [`crate::trunk`] says of it (u32).
    pub const VLANS: &str = "VLANS";
    /// VLAN id -> [`crate::event::Counts`], per CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`crate::event::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// One [`crate::event::Sampler`] a CPU.
    pub const SAMPLER: &str = "SAMPLER";
    /// One u64 a CPU: events that found no room in [`EVENTS`].
    pub const EVENTS_LOST: &str = "EVENTS_LOST";
    /// One u64: how often the agent has changed what is known of interfaces, endpoints and revisions. Until it changes, or the
    /// kernel's clock ticks, programs may go by what they have read.
    pub const CHANGES: &str = "CHANGES";
    /// One u64: digest of the object the pinned programs came from, so that a restarted agent of the same
    /// version leaves them alone.
    pub const OBJECT: &str = "OBJECT";
    /// One u64, nanoseconds: what time it is for programs loaded with [`TEST`]. Not pinned.
    pub const CLOCK: &str = "CLOCK";
    /// One [`crate::event::Outcome`]: what a program loaded with [`TEST`] decided last. Not pinned.
    pub const OUTCOME: &str = "OUTCOME";
    /// Global of the object, a u8. 1 makes programs take the time from [`CLOCK`] and write [`OUTCOME`]; 0, which is what
    /// the agent loads, costs nothing, since the verifier removes what a constant makes unreachable.
    pub const TEST: &str = "TEST";
    /// Every pinned map.
    pub const ALL: [&str; 23] = [
        INTERFACES,
        ENDPOINTS,
        ENDPOINT_NAMES,
        LOCAL,
        PEERS,
        POLICIES,
        REVISIONS,
        POLICY_SHAPE,
        RULE_NAMES,
        FLOWS,
        FLOW_COUNTS,
        FRAGMENTS,
        SNAT,
        SNAT_EXCLUDED,
        STACK_NETS,
        NODE,
        VLANS,
        COUNTERS,
        EVENTS,
        SAMPLER,
        EVENTS_LOST,
        CHANGES,
        OBJECT,
    ];
}

/// Names of the programs, as in the object file and under [`PROGRAMS`].
pub mod program {
    /// Host veth, tc ingress: what the pod sends.
    pub const FROM_POD: &str = "from_pod";
    /// Host veth, tc egress: what the pod is given.
    pub const TO_POD: &str = "to_pod";
    /// Branch interface, tc ingress: what the VPC delivers.
    pub const FROM_BRANCH: &str = "from_branch";
    /// Branch interface, tc egress: what leaves for the VPC.
    pub const TO_BRANCH: &str = "to_branch";
    /// Primary interface, tc ingress: replies to translated flows.
    pub const FROM_PRIMARY: &str = "from_primary";
    /// Trunk interface, XDP: frames of branches before an skb exists.
    pub const FROM_TRUNK: &str = "from_trunk";
    /// Every tc program.
    pub const ALL: [&str; 5] = [FROM_POD, TO_POD, FROM_BRANCH, TO_BRANCH, FROM_PRIMARY];
    /// Every program.
    pub const PINNED: [&str; 6] = [FROM_POD, TO_POD, FROM_BRANCH, TO_BRANCH, FROM_PRIMARY, FROM_TRUNK];
}
