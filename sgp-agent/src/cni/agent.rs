//! One exchange with the agent.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::protocol::{Request, Response};

/// The agent answers in the time a request gives it; this is on top.
const GRACE: Duration = Duration::from_secs(5);

/// Asks, and waits for the answer.
///
/// # Errors
/// Where there is no agent, or it does not answer in time.
pub(super) fn ask(socket: &Path, request: &Request) -> Result<Response> {
    let patience = match request {
        Request::Wiring { timeout_seconds, .. } | Request::Enforce { timeout_seconds, .. } => *timeout_seconds,
        Request::Released { .. } | Request::Status => 1,
    };
    let stream = UnixStream::connect(socket).with_context(|| {
        format!("sgp-agent does not listen on {}: is its pod running on this node?", socket.display())
    })?;
    let limit = Some(Duration::from_secs(patience) + GRACE);
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).context("setting a time limit")?;
    let mut text = serde_json::to_string(request).context("writing a request")?;
    text.push('\n');
    (&stream).write_all(text.as_bytes()).context("asking sgp-agent")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).context("waiting for sgp-agent's answer")?;
    serde_json::from_str(&line).with_context(|| format!("sgp-agent answered {line:?}: is it of another version?"))
}
