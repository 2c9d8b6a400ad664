//! What a cluster is to be like.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How pods with a branch are wired; the agents' POD_SECURITY_GROUP_ENFORCING_MODE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// All of a pod's packets leave by its branch.
    Strict,
    /// What is on the node stays there.
    Standard,
}

/// The one family of a cluster's pods and Services. Nodes, VPC and control plane have IPv4 in any case, as on AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Option of `ip`.
    pub(crate) fn flag(self) -> &'static str {
        if self == Self::V4 { "-4" } else { "-6" }
    }
}

/// Instance type of the nodes, as instance-limits.csv has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Machine {
    /// m5.large: a node that is full soon.
    Large,
    /// m5.xlarge.
    #[default]
    XLarge,
}

impl Machine {
    /// EC2's name.
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Large { "m5.large" } else { "m5.xlarge" }
    }

    /// Branches it carries.
    pub(crate) fn branches(self) -> u16 {
        if self == Self::Large { 9 } else { 18 }
    }
}

/// What a cluster is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of nodes.
    pub(crate) nodes: u8,
    pub(crate) mode: Mode,
    pub(crate) family: Family,
    pub(crate) machine: Machine,
}

impl Shape {
    /// Two nodes of the usual type.
    pub(crate) const fn two(mode: Mode, family: Family) -> Self {
        Self { nodes: 2, mode, family, machine: Machine::XLarge }
    }

    /// In the name of a case.
    pub(crate) fn word(self) -> &'static str {
        match (self.mode, self.family) {
            (Mode::Strict, Family::V4) => "strict_v4",
            (Mode::Strict, Family::V6) => "strict_v6",
            (Mode::Standard, Family::V4) => "standard_v4",
            (Mode::Standard, Family::V6) => "standard_v6",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nodes ({}), {}", self.nodes, self.machine.name(), self.word())
    }
}
