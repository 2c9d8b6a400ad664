//! What the CNI plugin and the agent say to each other over the agent's unix socket: one JSON object a
//! line each way, one exchange a connection. Both are the same binary of the same version.

use serde::{Deserialize, Serialize};

use crate::domain::wiring::Mode;

/// File name of the socket below the agent's `--runtime-dir`.
pub const SOCKET: &str = "agent.sock";

/// What the plugin asks. The agent answers within `timeout_seconds`, with an error if need be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Is this a pod with a branch, and how is it to be wired? Waits until the branch is annotated.
    Wiring {
        /// The pod, as CNI_ARGS named it.
        pod: PodRef,
        /// How long to wait.
        timeout_seconds: u64,
    },
    /// The interfaces stand: answer once this endpoint is enforced.
    Enforce {
        /// The branch, `eni-…`.
        interface_id: String,
        /// Index of the host veth just made: an answer about one that is gone would open the pod.
        host_ifindex: u32,
        /// Index of the branch interface.
        branch_ifindex: u32,
        /// How long to wait.
        timeout_seconds: u64,
    },
    /// The interfaces are gone (DEL): look again soon.
    Released {
        /// The branch, `eni-…`.
        interface_id: String,
    },
    /// Can the agent serve pods now?
    Status,
}

/// The pod of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty if the runtime did not say.
    pub uid: String,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Response {
    /// The pod has a branch.
    Branch {
        /// How to wire it.
        wiring: Wiring,
    },
    /// No policy matches the pod: it is for the delegate plugin.
    Other,
    /// Programs and maps for the endpoint are in place.
    Enforced,
    /// Done, or ready.
    Ok,
    /// Not possible now.
    Error {
        /// Names the object and the way out.
        message: String,
    },
}

/// Everything the node needs to wire a pod to its branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wiring {
    /// The branch, `eni-…`.
    pub interface_id: String,
    /// Pod UID.
    pub pod_uid: String,
    /// The branch's MAC address, lower-case colon form.
    pub mac: String,
    /// IPv4 address of the pod, if any.
    pub private_ip: Option<std::net::Ipv4Addr>,
    /// IPv6 address of the pod, if any.
    pub ipv6_addr: Option<std::net::Ipv6Addr>,
    /// VLAN id on the trunk, 1..=120.
    pub vlan_id: u16,
    /// IPv4 CIDR of the branch's subnet; its router is the base + 1.
    pub subnet_cidr: Option<ipnet::Ipv4Net>,
    /// MAC address of the trunk interface, which the VLAN link is put on.
    pub trunk_mac: String,
    /// The layout: the agent's mode of this moment, which the pod keeps.
    pub mode: Mode,
    /// How a standard-mode host veth's name begins.
    pub veth_prefix: String,
    /// MTU of the pod's veth, bytes.
    pub mtu: u32,
}
