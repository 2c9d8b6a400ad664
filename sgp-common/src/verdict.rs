//! What the data path decides, and the only list of reasons for a drop.

/// Why a packet was dropped. Used by counters, events, commands, metrics and documentation alike.
///
/// Values are part of the ABI: append, never renumber. 0 is left to mean "allowed" in counters.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A header is truncated, lies about its length, or nests deeper than the parser follows.
    Malformed = 1,
    /// The interface carries our program but belongs to no endpoint in the map.
    UnknownEndpoint = 2,
    /// The pod used a source address or MAC address that is not its own.
    SpoofedSource = 3,
    /// The endpoint's group set has no policy loaded: nothing is known, so nothing passes.
    NoPolicy = 4,
    /// The policy has no rule that allows this packet.
    NoMatchingRule = 5,
    /// A fragment without ports, and no rule that allows the protocol on all ports.
    FragmentWithoutFlow = 6,
    /// Neither IP nor ARP, or a VLAN tag where none belongs.
    UnsupportedProtocol = 7,
    /// The node's flow table is full; established flows go on.
    FlowTableFull = 8,
    /// This endpoint holds as many flows as one endpoint may.
    EndpointFlowLimit = 9,
    /// Every port tried for a translated flow to this destination was taken.
    SnatPortsExhausted = 10,
    /// It would have to leave under the node's address, and its protocol has nothing to tell its replies by; or the
    /// primary interface is not known.
    SnatUnsupported = 11,
    /// The packet could not be written to.
    RewriteFailed = 12,
}

impl DropReason {
    /// Every reason, in order of value.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::UnknownEndpoint,
        Self::SpoofedSource,
        Self::NoPolicy,
        Self::NoMatchingRule,
        Self::FragmentWithoutFlow,
        Self::UnsupportedProtocol,
        Self::FlowTableFull,
        Self::EndpointFlowLimit,
        Self::SnatPortsExhausted,
        Self::SnatUnsupported,
        Self::RewriteFailed,
    ];

    /// The reason with this value in a counter or event, or `None` for "allowed" and unknown values.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == code)
    }

    /// The name people see: the variant's own.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::UnknownEndpoint => "UnknownEndpoint",
            Self::SpoofedSource => "SpoofedSource",
            Self::NoPolicy => "NoPolicy",
            Self::NoMatchingRule => "NoMatchingRule",
            Self::FragmentWithoutFlow => "FragmentWithoutFlow",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::FlowTableFull => "FlowTableFull",
            Self::EndpointFlowLimit => "EndpointFlowLimit",
            Self::SnatPortsExhausted => "SnatPortsExhausted",
            Self::SnatUnsupported => "SnatUnsupported",
            Self::RewriteFailed => "RewriteFailed",
        }
    }
}

/// How a packet was allowed.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// By a rule: this packet opened a flow, or belongs to none and was judged by itself.
    Rule = 0,
    /// By the flow it belongs to.
    Flow = 1,
    /// By an exemption EC2 makes: ARP, neighbour discovery, DHCP, the never-filtered services.
    Exempt = 2,
    /// Not subject to the groups here: judged at another hook, or between the node and its own pod.
    Passed = 3,
}

/// Bit of the packet mark that says "judged for both of its endpoints on this node". Set at `from_pod`, read
/// and cleared at `to_pod`; a packet that leaves the node's namespace loses it. kube-proxy uses bits 14 and
/// 15, the VPC CNI bit 7, Calico the upper 16 by default.
pub const MARK_JUDGED: u32 = 0x0020_0000;

/// Bit of the packet mark that says "answers what came by another interface of the node, and leaves by `main`". Set at
/// `from_pod`, read by a routing rule. Apart from `AWS_VPC_K8S_CNI_CONNMARK`, which aws-node's chains give to whatever they
/// would translate.
pub const MARK_BY_NODE: u32 = 0x0040_0000;

/// Both: "judged at `from_pod`, and sent past the host stack to its branch". Read and cleared at `to_branch`; nothing else sets
/// both.
pub const MARK_SHORT: u32 = MARK_JUDGED | MARK_BY_NODE;
