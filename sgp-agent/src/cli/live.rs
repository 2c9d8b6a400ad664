//! `drops -f`: sampled drops as they happen, from the agent while it runs, and from the ring itself while it does not.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;

use super::counts::Drops;
use crate::domain::flow_record::FlowRecord;
use crate::domain::groups::protocol_name;
use crate::io::kernel::maps::PinDirs;
use crate::telemetry::events;

/// How often to look whether an agent has come: the ring has one reader, and it comes first.
const LOOK: Duration = Duration::from_secs(1);

/// Goes on until a signal ends it, or the reader of its output goes away.
pub(super) fn follow(drops: &Drops) -> Result<()> {
    let socket = drops.files.runtime_dir.join(events::SOCKET);
    super::asynchronously(async {
        loop {
            let ended = match UnixStream::connect(&socket).await {
                Ok(stream) => from_agent(stream, drops).await,
                Err(_) => from_ring(&drops.view.dirs(), &socket, drops).await,
            };
            match ended {
                Err(error) if is_closed(&error) => return Ok(()),
                ended => ended?,
            }
        }
    })
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Until the agent ends.
async fn from_agent(stream: UnixStream, drops: &Drops) -> Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.context("listening to the agent")? {
        let record: FlowRecord = serde_json::from_str(&line).context("the agent says what is no record")?;
        tell(&record, drops)?;
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

/// Until there is an agent.
async fn from_ring(dirs: &PinDirs, socket: &Path, drops: &Drops) -> Result<()> {
    tokio::select! {
        ended = events::read(dirs, |record| tell(&record, drops)) => ended,
        () = agent_comes(socket) => Ok(()),
    }
}

async fn agent_comes(socket: &Path) {
    while UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(LOOK).await;
    }
}

fn tell(record: &FlowRecord, drops: &Drops) -> Result<()> {
    let Some(reason) = &record.drop_reason else { return Ok(()) };
    let unwanted =
        drops.pod.as_ref().is_some_and(|pod| *pod != record.pod) || drops.reason.is_some_and(|wanted| wanted != reason);
    if unwanted {
        return Ok(());
    }
    let line = if drops.view.is_json() { serde_json::to_string(record)? } else { text(record, reason)? };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// `12:00:01 shop/cart-0 outbound tcp 10.0.2.20:4000 -> 10.0.3.1:443 (shop/db-0) dropped: NoMatchingRule`
fn text(record: &FlowRecord, reason: &str) -> Result<String> {
    let Ok(time) = Timestamp::from_second(record.start.try_into()?) else { bail!("a record from beyond time") };
    let side = |addr: &str, port: u16| match (port, addr.contains(':')) {
        (0, _) => addr.to_owned(),
        (port, true) => format!("[{addr}]:{port}"),
        (port, false) => format!("{addr}:{port}"),
    };
    let way = if record.flow_direction == "ingress" { "inbound" } else { "outbound" };
    let reason = if std::io::stdout().is_terminal() { format!("\x1b[31m{reason}\x1b[0m") } else { reason.to_owned() };
    Ok(format!(
        "{} {} {way} {} {} -> {} ({}) dropped: {reason}",
        time.strftime("%H:%M:%S"),
        if record.pod.is_empty() { "(no endpoint)" } else { &record.pod },
        protocol_name(record.protocol),
        side(&record.srcaddr, record.srcport),
        side(&record.dstaddr, record.dstport),
        record.peer.as_deref().unwrap_or("no member of a known group"),
    ))
}
