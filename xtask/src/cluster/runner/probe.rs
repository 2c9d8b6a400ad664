//! Readiness probes, from the node's own namespace as kubelet's are.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whether a container without probe, or whose probe succeeds, is ready. Exec and gRPC probes are not run.
pub(super) async fn ready(probe: Option<&Probe>, address: &str) -> bool {
    let Some(probe) = probe else { return true };
    let limit = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1).unsigned_abs().into());
    tokio::time::timeout(limit, ask(probe, address)).await.is_ok_and(|answer| answer.is_some())
}

async fn ask(probe: &Probe, address: &str) -> Option<()> {
    if let Some(tcp) = &probe.tcp_socket {
        return TcpStream::connect((address, port(&tcp.port)?)).await.ok().map(drop);
    }
    let http = probe.http_get.as_ref()?;
    let mut stream = TcpStream::connect((address, port(&http.port)?)).await.ok()?;
    let path = http.path.as_deref().unwrap_or("/");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.ok()?;
    let status = std::str::from_utf8(&answer).ok()?.split(' ').nth(1)?.parse::<u16>().ok()?;
    (200..400).contains(&status).then_some(())
}

fn port(of: &IntOrString) -> Option<u16> {
    match of {
        IntOrString::Int(number) => (*number).try_into().ok(),
        IntOrString::String(text) => text.parse().ok(),
    }
}
