//! What commands say, without what differs from run to run.

use anyhow::{Context, Result, bail};

use crate::demo::hands::Outcome;

pub(super) fn typed(words: &[&str]) -> String {
    format!("sgp-agent {}", words.join(" "))
}

/// What curl says of itself; how long it waited differs.
pub(super) fn curled(said: &Outcome) -> String {
    let words = said.words();
    let known = ["timed out", "Could not resolve host"].into_iter().find(|known| words.contains(known));
    match (known, words.lines().find(|line| line.starts_with("curl:"))) {
        (Some("timed out"), _) => "curl: (28) Connection timed out".to_owned(),
        (_, Some(line)) => line.to_owned(),
        (_, None) => words,
    }
}

/// How long a flow has been idle differs.
pub(super) fn since_when(said: &str) -> String {
    match said.split_once(" for ").and_then(|(head, rest)| Some((head, rest.split_once(" s idle")?.1))) {
        Some((head, rest)) => format!("{head} for N s idle{rest}"),
        None => said.to_owned(),
    }
}

/// Whether an earlier attempt, unanswered, has idled out by now differs.
pub(super) fn unattempted(said: &str) -> String {
    let is_attempt = |line: &&str| line.starts_with("  flow ") && line.contains(" Opening for ");
    let lines = said.lines().map(|line| if is_attempt(&line) { "  flow     none" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// Time, port and resolver differ.
pub(super) fn dropped(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, pod, way, protocol, from, "->", to, ..] = words[..] else { bail!("it is no drop") };
    let (from, port) = (from.rsplit_once(':').context("no port")?.0, to.rsplit_once(':').context("no port")?.1);
    let (_, reason) = line.split_once("dropped:").context("no reason")?;
    Ok(format!("12:00:00 {pod} {way} {protocol} {from}:PORT -> DNS:{port} (kube-system/dns) dropped:{reason}"))
}

/// Packets and bytes differ: retransmissions.
pub(super) fn uncounted(table: &str) -> String {
    let is_number = |word: &&str| word.chars().all(|c| c.is_ascii_digit());
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            [pod, way, reason, packets, bytes] if is_number(packets) && is_number(bytes) => {
                format!("{pod} {way} {reason} N N")
            }
            ["POD", ..] => words.join(" "),
            _ => line.to_owned(),
        }
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}

pub(super) fn unnumbered(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for index in 1..words.len() {
        if words[index - 1] == "(pid" {
            words[index] = "PID,".to_owned();
        }
    }
    words.join(" ")
}

/// The findings of a doctor that is not content.
pub(super) fn wrong(table: &str) -> String {
    table.lines().filter(|line| line.starts_with("!!")).collect::<Vec<_>>().join("\n")
}

/// Warnings among the events that `kubectl describe` shows, without their ages.
pub(super) fn events_of(described: &str) -> String {
    let events = described.split_once("\nEvents:").map_or("", |(_, events)| events);
    let warning = |line: &str| {
        let columns: Vec<&str> = line.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let ["Warning", reason, _, from, message] = columns[..] else { return None };
        Some(format!("  Warning  {reason}  {from}  {message}"))
    };
    events.lines().find_map(warning).unwrap_or_default()
}
