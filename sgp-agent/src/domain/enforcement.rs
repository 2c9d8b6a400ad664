//! What EC2 leaves open, or decides in a way not everybody wants: the operator's choices.

/// See the fields. The default is what EC2 documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// `--related-icmp`
    pub related_icmp: RelatedIcmp,
    /// `--cut-on-revoke`
    pub revoked: Revoked,
    /// `--snat-policy`
    pub snat_policy: SnatJudges,
    /// `--shortcut`
    pub shortcuts: Shortcuts,
    /// `--xdp`
    pub early: Early,
    /// Who else may have branches on the trunk (`--provision`).
    pub untold: Untold,
}

/// Whether packets that nothing on the node rewrites go past the host stack, once their flow is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Shortcuts {
    /// All packets take the host stack.
    #[default]
    Off,
    /// Where no programs or queues of others on the pod's interfaces would miss them.
    Auto,
    /// Likewise, and the first packets too, unless a Service has their destination: for nodes on which nobody but
    /// kube-proxy filters or rewrites in the host stack.
    All,
}

/// Whether, and how, frames on the trunk are dropped before an skb exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Early {
    /// All frames go up to tc.
    #[default]
    Off,
    /// By the driver where it can, else as `generic`.
    Auto,
    /// By the driver, or not at all.
    Native,
    /// By the kernel, after the driver has made an skb: that costs what passes more than it spares.
    Generic,
}

/// What a VLAN id on the trunk means that no interface of this node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Untold {
    /// Somebody else may be about to give it one.
    #[default]
    Passes,
    /// Nobody but this agent makes branches here.
    Drops,
}

/// Whose groups judge what a pod sends out of the VPC under the node's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SnatJudges {
    /// The primary interface's, as on AWS.
    #[default]
    Node,
    /// The pod's.
    Pod,
    /// Both.
    Both,
}

/// What lets an ICMP error about a tracked flow pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelatedIcmp {
    /// A rule, as EC2 documents for path-MTU discovery.
    #[default]
    NeedsRule,
    /// The flow it is about.
    PassesByFlow,
}

/// What becomes of a tracked flow whose rule is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revoked {
    /// It lives until it ends or idles out, as in EC2.
    #[default]
    LivesOn,
    /// It is judged again, like one that EC2 would not track.
    IsCut,
}
