//! Settings of trunk and branches, and the table of instance types.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Context, Error, Result};
use clap::Args;

use crate::domain::branches::{BranchSettings, RunningPods};
use crate::domain::instance_types::{BUILT_IN, Table, parse};
use crate::domain::settings::truth;
use crate::domain::site::EniConfigKeys;
use crate::reconcile::{Provisioner, Rates};

/// Both keys that VPC CNI looks at, unless it is told others.
const ENI_CONFIG: &str = "k8s.amazonaws.com/eniConfig";
const LIVE_GROUPS: &str = "SGP_LIVE_GROUPS";
const CUSTOM_NETWORKING: &str = "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG";

/// How trunk and branches are made.
#[derive(Args, Debug)]
pub(super) struct Branches {
    /// Seconds a branch rests after its pod before the next pod gets it; branch-eni-cooldown of the ConfigMap
    /// kube-system/amazon-vpc-cni goes before it
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    branch_cooldown: u64,
    /// Branches kept ready for pods to come, so that they wait for one call only; 0 keeps none
    #[arg(long, default_value_t = 2, value_name = "N")]
    warm_branches: u32,
    /// Branches kept on this node at least, those of pods and ready ones together
    #[arg(long, default_value_t = 0, value_name = "N")]
    min_branches: u32,
    /// When policies or labels change, give running pods the groups a new pod would get (AWS: new pods only)
    #[arg(long, env = LIVE_GROUPS, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "", hide_default_value = true, value_name = "true|false")]
    live_groups: String,
    /// Make trunk and branches where ENIConfigs say, as VPC CNI is told to [default: false]
    #[arg(long, env = CUSTOM_NETWORKING, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "", hide_default_value = true, value_name = "true|false")]
    custom_networking: String,
    /// Annotation of the Node that names its ENIConfig
    #[arg(long, env = "ENI_CONFIG_ANNOTATION_DEF", default_value = ENI_CONFIG, value_name = "KEY")]
    eni_config_annotation: String,
    /// Label of the Node that names its ENIConfig, where no annotation does
    #[arg(long, env = "ENI_CONFIG_LABEL_DEF", default_value = ENI_CONFIG, value_name = "KEY")]
    eni_config_label: String,
    /// Account that must be permitted to attach interfaces, where the trunk calls are made by another one
    #[arg(long, env = "SGP_TRUNK_ACCOUNT", value_name = "ACCOUNT")]
    pub(super) trunk_account: Option<String>,
    /// Table of instance types, as `sgp-agent instance-types` writes it; default: the one built in
    #[arg(long, value_name = "FILE")]
    instance_limits: Option<PathBuf>,
    /// Calls a second that this node makes of each kind
    #[arg(long, default_value_t = Rates::default().per_second, value_name = "N")]
    ec2_rate: NonZeroU32,
    /// Calls at once of each kind
    #[arg(long, default_value_t = Rates::default().burst, value_name = "N")]
    ec2_burst: NonZeroU32,
}

/// A variable that is empty counts as unset.
fn key(given: &str) -> String {
    Some(given).filter(|given| !given.is_empty()).unwrap_or(ENI_CONFIG).to_owned()
}

/// A variable that is no truth value is told, and does not keep the agent from running: AWS's do not either.
fn is_set(name: &str, text: &str) -> bool {
    let said = if text.is_empty() { Ok(false) } else { truth(name, text, false) };
    said.unwrap_or_else(|warning| {
        tracing::warn!("{warning}");
        false
    })
}

impl Branches {
    /// Nothing known yet; what tells this start from others is drawn by chance.
    pub(super) fn provisioner(&self, cluster_name: &str) -> Provisioner {
        let chance = RandomState::new().hash_one(std::process::id());
        let settings = BranchSettings {
            cluster_name: cluster_name.to_owned(),
            cooldown_s: self.branch_cooldown,
            warm: self.warm_branches,
            minimum: self.min_branches,
            trunk_account: self.trunk_account.clone(),
            running: if is_set(LIVE_GROUPS, &self.live_groups) {
                RunningPods::FollowPolicies
            } else {
                RunningPods::KeepGroups
            },
            custom_networking: is_set(CUSTOM_NETWORKING, &self.custom_networking).then(|| EniConfigKeys {
                annotation: key(&self.eni_config_annotation),
                label: key(&self.eni_config_label),
            }),
            incarnation: format!("{chance:016x}"),
        };
        Provisioner::new(settings, Rates { per_second: self.ec2_rate, burst: self.ec2_burst }, chance)
    }

    /// The table of instance types.
    pub(super) fn types(&self) -> Result<Table> {
        let Some(path) = &self.instance_limits else { return parse(BUILT_IN).map_err(Error::msg) };
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        parse(&text).map_err(Error::msg).with_context(|| format!("--instance-limits {}", path.display()))
    }
}
