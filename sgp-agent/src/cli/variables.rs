//! The node's settings under AWS's names, as options and environment variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use tracing::warn;

use crate::domain::settings::{Settings, variable};

/// Files of the agent on its node, and of the node's kernel.
#[derive(Args, Clone, Debug)]
pub(super) struct NodeFiles {
    /// Directory of socket, lock and the record of what was changed on the node
    #[arg(long, default_value = "/run/sgp", value_name = "DIR")]
    pub(super) runtime_dir: PathBuf,
    /// Where the node's /proc/sys can be written: a container's own is read-only
    #[arg(long, default_value = crate::host::PROC_SYS, value_name = "DIR")]
    pub(super) proc_sys: PathBuf,
}

/// What aws-node and its init container are set by. Texts: `domain::settings` says what they mean.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Settings of the VPC CNI")]
pub(super) struct Variables {
    /// `strict`: all of a pod's packets leave by its branch; `standard`: what is on the node stays there [default: strict]
    #[arg(long, env = variable::MODE, value_name = "MODE", hide_env_values = true)]
    enforcing_mode: Option<String>,
    /// Whether pods have IPv4 addresses [default: true, unless --ipv6]
    #[arg(long, env = variable::IPV4, value_name = "BOOL", hide_env_values = true)]
    ipv4: Option<String>,
    /// Whether pods have IPv6 addresses, and no IPv4 [default: false]
    #[arg(long, env = variable::IPV6, value_name = "BOOL", hide_env_values = true)]
    ipv6: Option<String>,
    /// Turn early demultiplexing of TCP (ours: and UDP) off, which strict pods need that their own node talks to [default: false]
    #[arg(long, env = variable::NO_EARLY_DEMUX, value_name = "BOOL", hide_env_values = true)]
    no_tcp_early_demux: Option<String>,
    /// MTU of primary interface and trunk [default: 9001]
    #[arg(long, env = variable::ENI_MTU, value_name = "BYTES", hide_env_values = true)]
    eni_mtu: Option<String>,
    /// MTU of pods [default: that of the interfaces]
    #[arg(long, env = variable::POD_MTU, value_name = "BYTES", hide_env_values = true)]
    pod_mtu: Option<String>,
    /// How a standard-mode host veth's name begins [default: eni]
    #[arg(long, env = variable::VETH_PREFIX, value_name = "TEXT", hide_env_values = true)]
    veth_prefix: Option<String>,
    /// Networks that everybody reaches by the table `main`, separated by commas
    #[arg(long, env = variable::EXTERNAL_SERVICES, value_name = "CIDRS", hide_env_values = true)]
    external_service_cidrs: Option<String>,
    /// Somebody outside the node translates addresses: everything of a pod leaves by its branch [default: false]
    #[arg(long, env = variable::EXTERNAL_SNAT, value_name = "BOOL", hide_env_values = true)]
    external_snat: Option<String>,
    /// Networks reached without translation, beside the VPC's, separated by commas
    #[arg(long, env = variable::EXCLUDE_SNAT, value_name = "CIDRS", hide_env_values = true)]
    exclude_snat_cidrs: Option<String>,
    /// How translated flows get their source ports: prng, hashrandom or none [default: prng]
    #[arg(long, env = variable::RANDOMIZE_SNAT, value_name = "WAY", hide_env_values = true)]
    randomize_snat: Option<String>,
    /// Bit of the packet mark that means "by the node's own interface" [default: 0x80]
    #[arg(long, env = variable::MARK, value_name = "NUMBER", hide_env_values = true)]
    connmark: Option<String>,
    /// Replies of NodePort connections leave by the interface these came in by [default: true]
    #[arg(long, env = variable::NODE_PORTS, value_name = "BOOL", hide_env_values = true)]
    node_port_support: Option<String>,
}

impl Variables {
    /// Reads them; what is odd but tolerated becomes a line of the log.
    pub(super) fn settings(&self) -> Result<Settings> {
        let (settings, warnings) = Settings::read(&self.given()).map_err(|error| anyhow!(error))?;
        for warning in warnings {
            warn!("{warning}");
        }
        Ok(settings)
    }

    fn given(&self) -> BTreeMap<&str, String> {
        let all = [
            (variable::MODE, &self.enforcing_mode),
            (variable::IPV4, &self.ipv4),
            (variable::IPV6, &self.ipv6),
            (variable::NO_EARLY_DEMUX, &self.no_tcp_early_demux),
            (variable::ENI_MTU, &self.eni_mtu),
            (variable::POD_MTU, &self.pod_mtu),
            (variable::VETH_PREFIX, &self.veth_prefix),
            (variable::EXTERNAL_SERVICES, &self.external_service_cidrs),
            (variable::EXTERNAL_SNAT, &self.external_snat),
            (variable::EXCLUDE_SNAT, &self.exclude_snat_cidrs),
            (variable::RANDOMIZE_SNAT, &self.randomize_snat),
            (variable::MARK, &self.connmark),
            (variable::NODE_PORTS, &self.node_port_support),
        ];
        all.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect()
    }
}
