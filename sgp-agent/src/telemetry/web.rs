//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use super::metrics::Metrics;
use crate::reconcile::Status;
use crate::serve::missing;

/// The loop looks every 30 s at least; one that has not for this long hangs.
const HUNG: Duration = Duration::from_secs(180);

/// What the pages are made of.
#[derive(Clone)]
pub struct Pages {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the loop has brought about.
    pub status: watch::Receiver<Status>,
}

/// Serves for as long as the process lives.
///
/// # Errors
/// Where the address cannot be listened at.
pub async fn serve(address: SocketAddr, pages: Pages) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}: is the port taken? --metrics-addr sets another"))?;
    info!(address = %listener.local_addr().context("asking where metrics are")?, "serving metrics");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(pages);
    axum::serve(listener, router).await.context("serving metrics")
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match pages.metrics.text() {
        Ok(text) => (StatusCode::OK, kind, text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, kind, "the maps of the data path cannot be read\n".to_owned()),
    }
}

/// A loop that hangs is to be started anew; one that waits for its sources is not.
async fn healthz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    match pages.status.borrow().synced {
        Some(synced) if synced.at.elapsed() > HUNG => {
            (StatusCode::SERVICE_UNAVAILABLE, "no round of reconciliation has ended for three minutes\n")
        }
        _ => (StatusCode::OK, "ok\n"),
    }
}

async fn readyz(State(pages): State<Pages>) -> (StatusCode, String) {
    match missing(&pages.status.borrow()) {
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        None => (StatusCode::OK, "ok\n".to_owned()),
    }
}
