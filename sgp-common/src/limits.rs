//! Every limit of the data path, each with its reason. What happens at the limit is said where it is used.

/// Rules one policy can hold for one direction and family. EC2's quota is 1,000 (rules per group x
/// groups per interface, AWS VPC quotas); 1,024 fills the bitset.
pub const RULES_MAX: usize = 1024;

/// Words of 64 rules in a rule set.
pub const RULE_WORDS: usize = RULES_MAX / 64;

/// Keys of one policy trie; the agent refuses a larger policy and keeps the old one.
pub const POLICY_KEYS_MAX: u32 = 65_536;

/// Group sets (distinct policies) known on one node: 120 endpoints at most, and their replacements.
pub const POLICIES_MAX: u32 = 1_024;

/// Addresses whose group set is known.
pub const PEERS_MAX: u32 = 131_072;

/// Endpoints of one node. A trunk carries at most 120 branches (EC2 limits table); room for turnover.
pub const ENDPOINTS_MAX: u32 = 256;

/// Interfaces that programs are attached to: two for each endpoint.
pub const INTERFACES_MAX: u32 = 512;

/// Flows of one node. Full: new flows drop with `FlowTableFull`, as EC2 does when an instance exceeds
/// its connection-tracking allowance.
pub const FLOWS_MAX: u32 = 262_144;

/// Flows of one endpoint, so that a busy pod cannot take its neighbours' share (`EndpointFlowLimit`).
pub const ENDPOINT_FLOWS_MAX: u32 = 65_536;

/// First fragments remembered on one node. Full: the oldest goes, and what follows it is judged without ports.
pub const FRAGMENTS_MAX: u32 = 16_384;

/// Translated flows of one node.
pub const SNAT_MAX: u32 = 131_072;

/// Destinations that are not translated: the VPC's CIDRs and the operator's.
pub const SNAT_EXCLUDED_MAX: u32 = 1_024;

/// Destinations of which first packets take the host stack: prefixes, most of them of Services.
pub const STACK_NETS_MAX: u32 = 65_536;

/// First port that stands for a pod's. The range is outside of Linux's `ip_local_port_range` (32768-60999) and Kubernetes'
/// NodePorts (30000-32767), and reserved (`ip_local_reserved_ports`) for the rest.
pub const SNAT_PORT_FIRST: u16 = 10_240;

/// Last port that stands for a pod's: 19,760 flows to one destination and port.
pub const SNAT_PORT_LAST: u16 = 29_999;

/// VLAN ids of branches are below this: the VPC resource controller and we take 1 to 120. What is counted of an endpoint stands
/// at its branch's.
pub const VLAN_IDS_MAX: u32 = 256;

/// Rows of rule names kept for people: 1,024 rules x 2 directions x 2 families for some policies.
pub const RULE_NAMES_MAX: u32 = 65_536;

/// Bytes of the event ring; a power of two and a multiple of the page size.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// Events one CPU may emit in a second. Counters count everything; events are samples.
pub const EVENTS_PER_SECOND: u32 = 64;

/// IPv6 extension headers followed before the packet is called malformed.
pub const EXTENSION_HEADERS_MAX: usize = 6;
