//! What lets a packet pass, as far as its flow remembers it.

use crate::{Direction, plain};

/// Whether EC2 would track a flow (facts 5.2).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tracking {
    /// It lives on when its rule goes.
    Tracked = 0,
    /// It stops when its rule goes: it is judged again whenever the policy has changed.
    Untracked = 1,
}

/// The way of a flow through its node: replies leave as its packets came.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// By the pod's own branch, or it was opened by the pod or a neighbour. Whether the host stack rewrites its packets
    /// is not known.
    Branch = 0,
    /// By another interface of the node: kube-proxy sent it to the pod (a NodePort).
    Node = 1,
    /// By the branch, and seen there under the addresses of its key.
    Plain = 2,
    /// Likewise, and the pod itself sends from and to these addresses: nothing on the node rewrites its packets, and they go
    /// past the host stack.
    Short = 3,
}

impl Way {
    /// Whether it was seen at the branch under the addresses of its key.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        matches!(self, Self::Plain | Self::Short)
    }
}

/// Who lets a packet pass: a rule of a policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Digest of the policy.
    pub policy_digest: u64,
    /// The revision of the policy it was asked of.
    pub revision: u64,
    /// Index of the rule in its direction and family; `u16::MAX` for none.
    pub rule: u16,
    /// Whether EC2 would track the flow it opens.
    pub tracking: Tracking,
    /// The direction whose rules `rule` is one of: that in which its flow was opened.
    pub direction: Direction,
    /// The flow's `nat_port`.
    pub nat_port: u16,
    /// The flow's `way`.
    pub way: Way,
    /// Zero.
    pub padding: u8,
}

impl Admission {
    /// No rule was asked for, or none matched.
    pub const NONE: Self = Self {
        policy_digest: 0,
        revision: 0,
        rule: u16::MAX,
        tracking: Tracking::Tracked,
        direction: Direction::Inbound,
        nat_port: 0,
        way: Way::Branch,
        padding: 0,
    };
}

plain!(Admission);
