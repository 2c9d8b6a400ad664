//! Cloud steps: one call each, so that any of them can be the last one before the machine dies.

use super::groups::GroupSet;
use super::observed::{BranchAnnotation, CniNode};
use super::tags::Tags;

/// For whom something is done: it decides what comes first and who hears of a failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// The node's trunk, or the node itself.
    Node,
    /// A pod that waits.
    Pod {
        /// UID.
        uid: String,
        /// `namespace/name`.
        name: String,
    },
    /// The pool of warm branches: nobody waits.
    Pool,
}

/// An interface to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInterface {
    /// Subnet.
    pub subnet_id: String,
    /// Groups.
    pub groups: GroupSet,
    /// Whether the subnet has IPv6: then the interface asks for one IPv6 address, since a subnet need not
    /// assign any by itself.
    pub family: Family,
    /// Tags.
    pub tags: Tags,
    /// `ClientToken`: asked twice with the same, EC2 creates one interface.
    pub token: String,
}

/// Which addresses an interface asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv4 and one IPv6 address.
    Dual,
}

/// One call to EC2 or to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudStep {
    /// Create the trunk.
    CreateTrunk {
        /// What it is like.
        interface: NewInterface,
    },
    /// Attach a trunk that stands beside the instance.
    AttachTrunk {
        /// `eni-…`
        trunk: String,
        /// Device index to attach it at.
        device_index: u32,
    },
    /// Let the trunk go with its instance (`DeleteOnTermination`).
    TieTrunk {
        /// `eni-…`
        trunk: String,
        /// `eni-attach-…`
        attachment: String,
    },
    /// Create a branch.
    CreateBranch {
        /// For whom.
        purpose: Purpose,
        /// What it is like.
        interface: NewInterface,
    },
    /// Permit another account to attach an interface (facts 0.1).
    Permit {
        /// For whom.
        purpose: Purpose,
        /// `eni-…`
        interface: String,
        /// Account number.
        account: String,
    },
    /// Write tags: claims a branch for a pod, frees one, or gives it another VLAN id.
    Tag {
        /// For whom.
        purpose: Purpose,
        /// `eni-…`
        branch: String,
        /// Only those that differ.
        tags: Tags,
    },
    /// Give a branch a pod's groups.
    SetGroups {
        /// For whom.
        purpose: Purpose,
        /// `eni-…`
        branch: String,
        /// All its groups.
        groups: GroupSet,
    },
    /// Put a branch on the trunk.
    Associate {
        /// For whom.
        purpose: Purpose,
        /// `eni-…`
        branch: String,
        /// `eni-…`
        trunk: String,
        /// VLAN id.
        vlan_id: u16,
    },
    /// Write the pod's annotation.
    Annotate {
        /// Pod UID the patch is guarded by.
        uid: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What to write.
        branch: BranchAnnotation,
    },
    /// Take a branch off its trunk.
    Disassociate {
        /// `eni-…`
        branch: String,
        /// `trunk-assoc-…`
        association: String,
    },
    /// Delete an interface of ours.
    Delete {
        /// `eni-…`
        interface: String,
    },
    /// Write a label of the node.
    LabelNode {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// Say on the node's status how many branches it carries.
    Advertise {
        /// How many.
        branches: u32,
    },
    /// Create the node's CNINode, or write what it lacks.
    WriteCniNode {
        /// What it shall have, beside what others wrote into it.
        wanted: CniNode,
    },
}

/// What writing the annotation is called where it fails.
pub const ANNOTATING: &str = "annotating the pod";

impl CloudStep {
    /// What must not run twice at a time: one call to one object.
    pub fn key(&self) -> String {
        match self {
            Self::CreateTrunk { .. } => "create the trunk".to_owned(),
            Self::AttachTrunk { trunk, .. } => format!("attach trunk {trunk}"),
            Self::TieTrunk { trunk, .. } => format!("tie trunk {trunk}"),
            Self::CreateBranch { purpose: Purpose::Pod { uid, name }, .. } => {
                format!("create a branch for {name} ({uid})")
            }
            Self::CreateBranch { interface, .. } => format!("create a branch ({})", interface.token),
            Self::Permit { interface, .. } => format!("permit {interface}"),
            Self::Tag { branch, .. } => format!("tag {branch}"),
            Self::SetGroups { branch, .. } => format!("set the groups of {branch}"),
            Self::Associate { branch, .. } => format!("associate {branch}"),
            Self::Annotate { namespace, name, uid, .. } => format!("annotate {namespace}/{name} ({uid})"),
            Self::Disassociate { branch, .. } => format!("disassociate {branch}"),
            Self::Delete { interface } => format!("delete {interface}"),
            Self::LabelNode { key, .. } => format!("label the node with {key}"),
            Self::Advertise { .. } => "advertise branches".to_owned(),
            Self::WriteCniNode { .. } => "write the CNINode".to_owned(),
        }
    }

    /// EC2's name of the call, which is also the IAM action without `ec2:`; `None` for the API server's.
    pub fn action(&self) -> Option<&'static str> {
        Some(match self {
            Self::CreateTrunk { .. } | Self::CreateBranch { .. } => "CreateNetworkInterface",
            Self::AttachTrunk { .. } => "AttachNetworkInterface",
            Self::TieTrunk { .. } | Self::SetGroups { .. } => "ModifyNetworkInterfaceAttribute",
            Self::Permit { .. } => "CreateNetworkInterfacePermission",
            Self::Tag { .. } => "CreateTags",
            Self::Associate { .. } => "AssociateTrunkInterface",
            Self::Disassociate { .. } => "DisassociateTrunkInterface",
            Self::Delete { .. } => "DeleteNetworkInterface",
            Self::Annotate { .. } | Self::LabelNode { .. } | Self::Advertise { .. } | Self::WriteCniNode { .. } => {
                return None;
            }
        })
    }

    /// What AWS's controller calls the step in its metrics (facts 1.9), as far as it has a word for it; else what it calls.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::CreateTrunk { .. } => "init_trunk",
            Self::CreateBranch { .. } => "create_branch_eni",
            Self::Annotate { .. } => "annotate_branch_eni",
            Self::LabelNode { .. } => "label_node",
            Self::Advertise { .. } => "advertise_branch_limit",
            Self::WriteCniNode { .. } => "write_cninode",
            _ => self.action().unwrap_or("other"),
        }
    }

    /// For whom the step is taken.
    pub fn purpose(&self) -> Purpose {
        match self {
            Self::CreateBranch { purpose, .. }
            | Self::Permit { purpose, .. }
            | Self::Tag { purpose, .. }
            | Self::SetGroups { purpose, .. }
            | Self::Associate { purpose, .. } => purpose.clone(),
            Self::Annotate { uid, namespace, name, .. } => {
                Purpose::Pod { uid: uid.clone(), name: format!("{namespace}/{name}") }
            }
            Self::Disassociate { .. } | Self::Delete { .. } => Purpose::Pool,
            Self::CreateTrunk { .. }
            | Self::AttachTrunk { .. }
            | Self::TieTrunk { .. }
            | Self::LabelNode { .. }
            | Self::Advertise { .. }
            | Self::WriteCniNode { .. } => Purpose::Node,
        }
    }

    /// What the step does, as AWS's own controller begins its errors (facts 1.7).
    pub fn doing(&self) -> &'static str {
        match self {
            Self::CreateTrunk { .. } | Self::CreateBranch { .. } => "creating network interface",
            Self::AttachTrunk { .. } => "attaching the trunk",
            Self::TieTrunk { .. } => "making the trunk go with its instance",
            Self::Permit { .. } => "permitting the trunk account",
            Self::Tag { .. } => "tagging the branch",
            Self::SetGroups { .. } => "setting the branch's groups",
            Self::Associate { .. } => "associating branch to trunk",
            Self::Annotate { .. } => ANNOTATING,
            Self::Disassociate { .. } => "taking the branch off its trunk",
            Self::Delete { .. } => "deleting network interface",
            Self::LabelNode { .. } => "labelling the node",
            Self::Advertise { .. } => "writing the node's capacity",
            Self::WriteCniNode { .. } => "writing the node's CNINode",
        }
    }
}
