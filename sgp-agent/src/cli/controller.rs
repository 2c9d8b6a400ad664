//! `controller`: what a cluster needs once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::run::{LogFormat, asked_to_stop, log};
use crate::controller::{Settings, run};
use crate::domain::admission::{AWS_WRITERS, our_writer};

const EXAMPLES: &str = "Examples:
  sgp-agent controller --cluster-name prod
  sgp-agent controller --cluster-name prod --certificate-dir /certs     with cert-manager's certificate
Run two or more: each answers the webhooks, and the one that holds the Lease sweeps orphans and
publishes memberships. See docs/admission.md.";

/// Settings of the controller.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Asked {
    /// Name of the cluster, as its agents have it
    #[arg(long, env = "CLUSTER_NAME", value_name = "NAME", default_value = "kubernetes")]
    cluster_name: String,
    /// Namespace of its Lease and its Secret, and of its agents
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", default_value = "kube-system")]
    namespace: String,
    /// Tells this replica from others [default: host name and process]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Where the webhooks are answered
    #[arg(long, default_value = "[::]:9443", value_name = "ADDRESS")]
    bind: SocketAddr,
    /// Name that API servers call it by, in its certificate; can be given more than once [default: its Service's,
    /// sgp-controller.NAMESPACE.svc]
    #[arg(long = "server-name", value_name = "NAME")]
    names: Vec<String>,
    /// Directory of tls.crt and tls.key that somebody else keeps, cert-manager for example
    #[arg(long, value_name = "DIR")]
    certificate_dir: Option<PathBuf>,
    /// Days its own certificate holds; it is renewed after two thirds of them
    #[arg(long, default_value_t = 90, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    certificate_days: u32,
    /// Another user who may write the annotation vpc.amazonaws.com/pod-eni; can be given more than once
    #[arg(long = "writer", value_name = "USER")]
    writers: Vec<String>,
    /// Seconds between two sweeps; what is an orphan in two of them is deleted
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..))]
    sweep: u64,
    /// Seconds between two looks at EC2 for all members of groups; what pods get is asked for at once
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    membership_poll: u64,
    /// Addresses that a slice of memberships is filled up to: each change is sent to each node with all others of its slice
    #[arg(long, default_value_t = 100, value_name = "ADDRESSES", value_parser = clap::value_parser!(u16).range(1..=1000))]
    slice_size: u16,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Runs until a signal ends it.
pub(super) fn start(asked: Asked) -> Result<()> {
    log(asked.log_format);
    ensure!(asked.identity.as_deref() != Some(""), "--identity is empty: replicas must be told from each other");
    let settings = settings(asked)?;
    super::asynchronously(run(settings, async { asked_to_stop("stopping; another controller goes on").await }))
}

fn settings(asked: Asked) -> Result<Settings> {
    let own = || {
        let host = nix::unistd::gethostname().context("reading the host name")?;
        anyhow::Ok(format!("{}-{}", host.to_string_lossy(), std::process::id()))
    };
    let known = AWS_WRITERS.iter().map(|user| (*user).to_owned()).chain([our_writer(&asked.namespace)]);
    let service = format!("sgp-controller.{}.svc", asked.namespace);
    Ok(Settings {
        cluster_name: asked.cluster_name,
        namespace: asked.namespace,
        identity: asked.identity.map_or_else(own, Ok)?,
        bind: asked.bind,
        names: if asked.names.is_empty() { vec![service] } else { asked.names },
        certificate_dir: asked.certificate_dir,
        lifetime: Duration::from_secs(u64::from(asked.certificate_days) * 86_400),
        writers: known.chain(asked.writers).collect(),
        sweep: Duration::from_secs(asked.sweep),
        membership_poll: Duration::from_secs(asked.membership_poll),
        slice_size: asked.slice_size.into(),
    })
}
