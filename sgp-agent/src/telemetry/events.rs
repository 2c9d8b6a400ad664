//! Sampled events on their way from the ring, which has one reader, to everybody who wants them: the agent's log, the flow
//! log, and `sgp-agent drops -f`, which asks at a socket of its own.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sgp_common::event::Event;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::{debug, info};

use super::trouble::Trouble;
use crate::domain::flow_record::FlowRecord;
use crate::io::kernel::maps::{Maps, PinDirs};
use crate::io::telemetry;

/// File name of the socket below the agent's `--runtime-dir`; whoever connects gets a JSON object a line.
pub const SOCKET: &str = "events.sock";

/// Records that a slow listener may be behind before it loses some: more than two CPUs sample in ten seconds.
const BEHIND_MAX: usize = 2048;

/// Where records come out.
pub type Records = broadcast::Sender<FlowRecord>;

/// Makes the place where records come out.
pub fn channel() -> Records {
    broadcast::channel(BEHIND_MAX).0
}

/// Reads the ring for as long as the process lives, and gives each event to `tell` with its names.
///
/// # Errors
/// Where the ring cannot be read, or `tell` fails.
pub async fn read(dirs: &PinDirs, mut tell: impl FnMut(FlowRecord) -> Result<()> + Send) -> Result<()> {
    let maps = Maps::open(dirs)?;
    let pin = dirs.map(telemetry::RING);
    telemetry::follow(&pin, |event| tell(FlowRecord::of(event, maps.event_names(event), happened(event)))).await
}

/// The agent's own reading: log lines, and everybody who listens.
///
/// # Errors
/// As [`read`].
pub async fn publish(dirs: PinDirs, records: Records) -> Result<()> {
    read(&dirs, |record| {
        log(&record);
        // Nobody may be listening.
        drop(records.send(record));
        Ok(())
    })
    .await
}

fn log(record: &FlowRecord) {
    let FlowRecord { pod, flow_direction, srcaddr, srcport, dstaddr, dstport, protocol, peer, .. } = record;
    match (&record.drop_reason, &record.rule_id) {
        (Some(reason), _) => {
            info!(pod, flow_direction, reason, protocol, srcaddr, srcport, dstaddr, dstport, peer, "dropped");
        }
        (None, rule) => {
            debug!(pod, flow_direction, rule, protocol, srcaddr, srcport, dstaddr, dstport, peer, "opened a flow");
        }
    }
}

/// Unix time of an event, whose own clock counts from the node's start.
fn happened(event: &Event) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(std::time::Duration::from);
    let ago = clock.unwrap_or_default().saturating_sub(std::time::Duration::from_nanos(event.time_ns));
    now.saturating_sub(ago).as_secs()
}

/// Serves listeners for as long as the process lives. The socket is for root only.
///
/// # Errors
/// Where the socket cannot be made.
pub async fn serve(socket: PathBuf, records: Records) -> Result<()> {
    // A socket of an agent that is gone; the lock says that there is no other.
    drop(std::fs::remove_file(&socket));
    let context = || format!("listening on {}", socket.display());
    let listener = UnixListener::bind(&socket).with_context(context)?;
    std::fs::set_permissions(&socket, Permissions::from_mode(0o600)).with_context(context)?;
    loop {
        let (stream, _) = listener.accept().await.with_context(context)?;
        tokio::spawn(pass_on(stream, records.subscribe()));
    }
}

/// Until the listener goes away.
async fn pass_on(mut stream: UnixStream, mut records: broadcast::Receiver<FlowRecord>) {
    while let Some(record) = next(&mut records).await {
        let Ok(line) = line(&record) else { return };
        if stream.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Appends records to a file for as long as the process lives. Opened for each batch, so that a log that was rotated away
/// is begun anew.
pub async fn write_log(path: PathBuf, mut records: broadcast::Receiver<FlowRecord>) {
    let mut trouble = Trouble::default();
    while let Some(record) = next(&mut records).await {
        let mut text = line(&record).unwrap_or_default();
        while let Ok(more) = records.try_recv() {
            text.push_str(&line(&more).unwrap_or_default());
        }
        trouble.met(&append(&path, &text).await, "the flow log cannot be written; records are lost until it can");
    }
}

/// All of it or nothing: half a line would spoil the next one too.
async fn append(path: &Path, text: &str) -> Result<()> {
    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(path).await.context("opening it")?;
    let before = file.metadata().await.context("asking its length")?.len();
    let written = file.write_all(text.as_bytes()).await.and(file.flush().await);
    if written.is_err() {
        file.set_len(before).await.context("taking half a line back")?;
    }
    written.with_context(|| format!("writing {}", path.display()))
}

async fn next(records: &mut broadcast::Receiver<FlowRecord>) -> Option<FlowRecord> {
    loop {
        match records.recv().await {
            Ok(record) => return Some(record),
            Err(RecvError::Lagged(lost)) => debug!(lost, "a listener was too slow"),
            Err(RecvError::Closed) => return None,
        }
    }
}

fn line(record: &FlowRecord) -> Result<String> {
    Ok(serde_json::to_string(record).context("writing a record")? + "\n")
}
