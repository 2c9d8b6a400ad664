//! How the agent can be watched while it runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use tokio::sync::watch;
use tracing::{error, warn};

use crate::io::kernel::maps::PinDirs;
use crate::reconcile::Status;
use crate::telemetry::events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pinned::Pinned;
use crate::telemetry::state::AgentState;
use crate::telemetry::web::{Pages, serve};

/// Metrics, health and the flow log.
#[derive(Args, Clone, Debug)]
pub(super) struct Watching {
    /// Where /metrics, /healthz and /readyz are served; default: nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_addr: Option<SocketAddr>,
    /// File that sampled verdicts are appended to, as JSON lines in the fields of VPC flow logs; default: none
    #[arg(long, value_name = "FILE")]
    flow_log: Option<PathBuf>,
}

impl Watching {
    /// Starts everything that tells of the agent, beside it; gives what it counts by.
    ///
    /// # Errors
    /// Where the pinned maps cannot be opened.
    pub(super) fn start(
        &self,
        dirs: &PinDirs,
        runtime_dir: &Path,
        state: AgentState,
        status: &watch::Receiver<Status>,
    ) -> Result<Arc<Metrics>> {
        let mut metrics = Metrics::default();
        metrics.add(Pinned::open(dirs)?);
        let metrics = Arc::new(metrics);
        tokio::spawn(state.keep(runtime_dir.to_path_buf(), status.clone()));
        self.events(dirs, runtime_dir);
        if let Some(address) = self.metrics_addr {
            let pages = Pages { metrics: Arc::clone(&metrics), status: status.clone() };
            tokio::spawn(async move {
                if let Err(failure) = serve(address, pages).await {
                    error!(error = format!("{failure:#}"), "there are no metrics; enforcement goes on");
                }
            });
        }
        Ok(metrics)
    }

    fn events(&self, dirs: &PinDirs, runtime_dir: &Path) {
        let records = events::channel();
        if let Some(path) = &self.flow_log {
            tokio::spawn(events::write_log(path.clone(), records.subscribe()));
        }
        let serving = events::serve(runtime_dir.join(events::SOCKET), records.clone());
        let reading = events::publish(dirs.clone(), records);
        tokio::spawn(async move {
            if let Err(failure) = tokio::try_join!(serving, reading) {
                warn!(error = format!("{failure:#}"), "sampled events are not told any more");
            }
        });
    }
}
