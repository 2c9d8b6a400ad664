//! `drops -f`: sampled drops as they happen, from the agent while it runs, and from the ring itself while it does not.

use std::io::{ErrorKind, IsTerminal, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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

/// As many were told as were asked for.
#[derive(Debug, thiserror::Error)]
#[error("all that was asked for is told")]
struct Enough;

/// Goes on until a signal ends it, as many were told as were asked for, or the reader of its output goes away.
pub(super) fn follow(drops: &Drops) -> Result<()> {
    let socket = drops.files.runtime_dir.join(events::SOCKET);
    let mut teller = Teller { drops, left: drops.number.map(NonZeroU32::get) };
    super::asynchronously(async {
        loop {
            let ended = match UnixStream::connect(&socket).await {
                Ok(stream) => from_agent(stream, &mut teller).await,
                Err(_) => from_ring(&drops.view.dirs(), &socket, &mut teller).await,
            };
            match ended {
                Err(error) if is_closed(&error) || error.is::<Enough>() => return Ok(()),
                ended => ended?,
            }
        }
    })
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Until the agent ends.
async fn from_agent(stream: UnixStream, teller: &mut Teller<'_>) -> Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.context("listening to the agent")? {
        let record: FlowRecord = serde_json::from_str(&line).context("the agent says what is no record")?;
        teller.tell(&record)?;
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

/// Until there is an agent.
async fn from_ring(dirs: &PinDirs, socket: &Path, teller: &mut Teller<'_>) -> Result<()> {
    tokio::select! {
        ended = events::read(dirs, |record| teller.tell(&record)) => ended,
        () = agent_comes(socket) => Ok(()),
    }
}

async fn agent_comes(socket: &Path) {
    while UnixStream::connect(socket).await.is_err() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Tells what is wanted, as long as it is.
struct Teller<'a> {
    drops: &'a Drops,
    /// How many more; `None` means all.
    left: Option<u32>,
}

impl Teller<'_> {
    fn tell(&mut self, record: &FlowRecord) -> Result<()> {
        let Some(reason) = record.drop_reason.as_ref().filter(|reason| self.wants(record, reason)) else {
            return Ok(());
        };
        let line = if self.drops.view.is_json() { serde_json::to_string(record)? } else { text(record, reason)? };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()?;
        self.left = self.left.map(|left| left - 1);
        ensure!(self.left != Some(0), Enough);
        Ok(())
    }

    fn wants(&self, record: &FlowRecord, reason: &str) -> bool {
        self.drops.pod.as_ref().is_none_or(|pod| *pod == record.pod)
            && self.drops.reason.is_none_or(|wanted| wanted == reason)
    }
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
