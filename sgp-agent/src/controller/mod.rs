//! `sgp-agent controller`: what a cluster needs once. Every replica answers the webhooks; the one that holds the
//! Lease sweeps orphans, publishes memberships and renews the certificate. What it does needs no memory, so the next one goes on.

mod certificate;
mod lead;
mod members;
pub mod sweep;
mod webhooks;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use crate::io::https::{self, Certificate};
use crate::io::kubernetes::Cluster;

/// What the controller is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cluster, in tags.
    pub cluster_name: String,
    /// Namespace of Lease and Secret.
    pub namespace: String,
    /// Tells this replica from others.
    pub identity: String,
    /// Where the webhooks are answered.
    pub bind: SocketAddr,
    /// Names that API servers call it by.
    pub names: Vec<String>,
    /// `tls.crt` and `tls.key` of somebody else's making; without it the controller makes its own.
    pub certificate_dir: Option<PathBuf>,
    /// How long a certificate of its own holds; it is renewed after two thirds.
    pub lifetime: Duration,
    /// Users who may write the annotation.
    pub writers: Vec<String>,
    /// Time between two sweeps, and thus between the two sightings of an orphan.
    pub sweep: Duration,
    /// Time between two looks at all members of groups.
    pub membership_poll: Duration,
    /// Most addresses of a slice that is filled.
    pub slice_size: usize,
}

/// Whether this replica does what only one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Leader,
    /// Another does.
    Standby,
}

/// Runs until `stop` is done; then the Lease is given back, so that another goes on at once.
///
/// # Errors
/// Where it cannot listen or has no API server to ask.
pub async fn run(settings: Settings, stop: impl Future<Output = Result<()>>) -> Result<()> {
    let cluster = Cluster::connect(&settings.namespace).await?;
    let settings = Arc::new(settings);
    let certificate = Arc::new(Certificate::default());
    let (told, role) = watch::channel(Role::Standby);
    let handler = webhooks::handler(cluster.clone(), Arc::clone(&settings), Arc::clone(&certificate));
    tokio::select! {
        result = https::serve(settings.bind, Arc::clone(&certificate), handler) => result?,
        () = lead::lead(&cluster, &settings.identity, &told) => {}
        () = certificate::keep(&cluster, &settings, &certificate, role.clone()) => {}
        () = members::keep(&cluster, &settings, role.clone()) => {}
        () = sweep::keep(&settings, role) => {}
        result = stop => result?,
    }
    lead::give_back(&cluster, &settings.identity).await;
    Ok(())
}
