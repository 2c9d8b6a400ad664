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
}

/// Whether packets that nothing on the node rewrites go past the host stack, once their flow is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Shortcuts {
    /// All packets take the host stack.
    #[default]
    Off,
    /// Where no programs or queues of others on the pod's interfaces would miss them.
    Auto,
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
