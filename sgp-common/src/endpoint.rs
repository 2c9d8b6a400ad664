//! Endpoints: who stands behind an interface.

use crate::addr::UNSPECIFIED;
use crate::{Addr, plain};

/// Which of an endpoint's two interfaces this is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The pod's host veth.
    Pod = 0,
    /// The branch interface `vlan.eth.N`.
    Branch = 1,
}

/// Value of `INTERFACES`, keyed by interface index (u32, host order).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Key of the endpoint in `ENDPOINTS`.
    pub endpoint: u64,
    /// Which side of the endpoint the interface is.
    pub side: Side,
    /// Zero.
    pub reserved: [u8; 7],
}

/// How long tracked flows may be idle, in seconds: the interface's `ConnectionTrackingConfiguration`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established.
    pub tcp_established_s: u32,
    /// UDP, until a second question is answered.
    pub udp_s: u32,
    /// UDP, from then on.
    pub udp_stream_s: u32,
}

/// What `Endpoint::settings` is made of.
pub mod settings {
    /// ICMP errors about a live flow pass by it (`--related-icmp`).
    pub const RELATED_ICMP: u32 = 1;
    /// Every flow is judged again when the rules change (`--cut-on-revoke`), not only those EC2 would not track.
    pub const CUT_ON_REVOKE: u32 = 2;
    /// What leaves for destinations that are not in `SNAT_EXCLUDED` takes the primary interface and its address (standard
    /// mode).
    pub const SNAT: u32 = 4;
    /// Replies to what came by another interface of the node leave by `main` (`AWS_VPC_CNI_NODE_PORT_SUPPORT`, standard mode).
    pub const NODE_PORTS: u32 = 8;
    /// Packets of flows that nothing on the node rewrites go past the host stack (`--shortcut`). Not where others' programs or
    /// queues on the endpoint's interfaces would miss them.
    pub const SHORTCUT: u32 = 16;
    /// Of such packets the first ones too (`--shortcut all`), where their destination is not in `STACK_NETS`.
    pub const STRAIGHT: u32 = 32;
}

/// Value of `ENDPOINTS`, keyed by endpoint id: the first 64 bits, big-endian, of SHA-256 over the branch's interface id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Group set whose policy judges this endpoint: first 64 bits of SHA-256 over the sorted group ids.
    pub group_set: u64,
    /// The branch's IPv4 address, v4-mapped, or unspecified.
    pub ipv4: Addr,
    /// The branch's IPv6 address, or unspecified.
    pub ipv6: Addr,
    /// The subnet's router (subnet base + 1), v4-mapped: never filtered by EC2.
    pub router: Addr,
    /// Amazon DNS at the VPC's base + 2, v4-mapped: never filtered by EC2.
    pub resolver: Addr,
    /// Interface index of the branch interface.
    pub branch_ifindex: u32,
    /// Interface index of the pod's host veth.
    pub host_ifindex: u32,
    /// How long its flows may be idle.
    pub timeouts: Timeouts,
    /// Bits of [`settings`].
    pub settings: u32,
    /// VLAN id of the branch on its trunk, from 1 and below [`crate::limits::VLAN_IDS_MAX`]; 0 for the primary interface.
    pub vlan_id: u16,
    /// MAC address of the pod's own interface; frames from the pod carry it as their source.
    pub pod_mac: [u8; 6],
}

impl Endpoint {
    /// Whether `addr` is one of the endpoint's primary addresses. A pod without an address of a family does not
    /// own `::`, which packets can carry. Secondary addresses are in `LOCAL` only.
    #[inline(always)]
    pub fn owns(&self, addr: &Addr) -> bool {
        *addr != UNSPECIFIED && (*addr == self.ipv4 || *addr == self.ipv6)
    }
}

/// Value of `ENDPOINT_NAMES`, keyed by endpoint id: what people call it. Texts are UTF-8, zero-padded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// The branch's `eni-…`.
    pub interface_id: [u8; 32],
    /// Kubernetes namespace (at most 63 bytes).
    pub namespace: [u8; 64],
    /// Pod name (at most 253 bytes).
    pub pod: [u8; 256],
    /// Pod UID.
    pub uid: [u8; 40],
}

plain!(Interface, Timeouts, Endpoint, EndpointName);
