//! Dashboard and alert rules against what the real agent exports.

mod node;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use node::Node;
use sgp_agent::domain::cloud_steps::CloudStep;
use sgp_agent::domain::failure::Failure;
use sgp_agent::domain::flow_record::FlowRecord;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::telemetry::events;
use sgp_agent::telemetry::metrics::Metrics;
use sgp_agent::telemetry::pinned::Pinned;

const ALERTS: &str = include_str!("../../deploy/monitoring/alerts.yaml");
const DASHBOARD: &str = include_str!("../../deploy/monitoring/dashboard.json");

/// What an agent exports that has done and failed each thing once.
fn exported() -> Option<String> {
    let node = Node::start(1)?;
    let mut metrics = Metrics::default();
    metrics.add(Pinned::open(&PinDirs::new(&node.dir)).expect("the pinned maps"));
    metrics.round(Some(Duration::from_millis(3)), 1);
    metrics.round(None, 0);
    metrics.looked::<(), ()>(&Ok(()));
    let step = CloudStep::Delete { interface: "eni-1".into() };
    metrics.step(&step, None, Duration::from_millis(40));
    metrics.step(&step, Some(&Failure::of("UnauthorizedOperation", 403, "no")), Duration::from_millis(40));
    let trunk = CloudStep::TieTrunk { trunk: "eni-2".into(), attachment: "eni-attach-2".into() };
    metrics.step(&trunk, Some(&Failure::unanswered("no")), Duration::from_millis(40));
    Some(metrics.text().expect("metrics"))
}

/// Names of series that a text of expressions asks for: every word that begins as ours do.
fn asked_for(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = ["sgp_", "ec2_api_", "branch_provider_operation", "branch_eni_", "trunk_eni_"];
    let is_series =
        |word: &&str| ours.iter().any(|prefix| word.starts_with(prefix)) && *word != "branch_provider_operation";
    words.filter(is_series).map(str::to_owned).collect()
}

/// Series by `# TYPE`: OpenMetrics names a counter without its suffix.
fn offered(text: &str) -> BTreeSet<String> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = kinds.flat_map(|(name, kind)| match kind {
        "counter" => vec![format!("{name}_total")],
        "histogram" => ["bucket", "sum", "count"].map(|suffix| format!("{name}_{suffix}")).to_vec(),
        _ => vec![name.to_owned()],
    });
    names.collect()
}

#[test]
fn every_metric_that_the_dashboard_and_the_alerts_name_is_exported() {
    let Some(text) = exported() else { return };
    let (asked, offered) = (asked_for(&format!("{ALERTS}{DASHBOARD}")), offered(&text));
    assert!(asked.len() > 12, "they ask for {asked:?}");
    let missing: Vec<&String> = asked.difference(&offered).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {offered:?}");
}

#[test]
#[ignore = "needs promtool, which `cargo xtask test` provides"]
fn promtool_finds_nothing_to_say_of_metrics_and_alerts() {
    let Some(text) = exported() else { return };
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/monitoring/alerts.yaml");
    let rules = Command::new(&promtool).args(["check", "rules", alerts]).output().expect("promtool runs");
    assert!(
        rules.status.success(),
        "{}{}",
        String::from_utf8_lossy(&rules.stdout),
        String::from_utf8_lossy(&rules.stderr)
    );
    let mut check = Command::new(&promtool);
    let mut child =
        check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool");
    let text = plain(&text);
    child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// OpenMetrics in Prometheus's own format, which promtool reads: there a counter's family bears the suffix too.
fn plain(text: &str) -> String {
    let counters: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let named = |line: &str| match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
        ["#", word, name, rest] if counters.contains(name) => format!("# {word} {name}_total {rest}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().filter(|line| *line != "# EOF").map(named).collect()
}

/// A file system of its own, of 16 KiB, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("sgp-flow-log-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("a directory");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(&dir));
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
        drop(std::fs::remove_dir(&self.0));
    }
}

fn run(command: &mut Command) {
    assert!(command.status().expect("a command").success(), "{command:?}");
}

/// Lines of a log, each of which is a whole record.
fn records(log: &Path) -> Vec<FlowRecord> {
    let text = std::fs::read_to_string(log).expect("a log");
    assert!(text.is_empty() || text.ends_with('\n'), "half a line at the end: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

#[test]
fn a_flow_log_on_a_full_disk_is_told_once_keeps_whole_records_and_goes_on_when_there_is_room() {
    if !node::allowed() {
        return;
    }
    let disk = SmallDisk::new();
    let (log, said) = (disk.0.join("flows"), disk.0.with_extension("said"));
    let told = Arc::new(File::create(&said).expect("a place for the agent's own log"));
    let subscriber = tracing_subscriber::fmt().with_writer(told).with_ansi(false).finish();
    let record = |seconds| FlowRecord { start: seconds, ..FlowRecord::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let (sender, receiver) = tokio::sync::broadcast::channel(512);
            let writer = tokio::spawn(events::write_log(log.clone(), receiver));
            let send = async |seconds| {
                sender.send(record(seconds)).expect("a listener");
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            for seconds in 0..100 {
                send(seconds).await;
            }
            let kept = records(&log);
            assert!((10..100).contains(&kept.len()), "{} of 100 records found room", kept.len());
            std::fs::rename(&log, disk.0.join("rotated")).expect("rotation");
            send(100).await;
            std::fs::remove_file(disk.0.join("rotated")).expect("making room");
            send(101).await;
            assert_eq!(records(&log).last().map(|record| record.start), Some(101));
            drop(sender);
            writer.await.expect("an end");
        });
    });
    let text = std::fs::read_to_string(&said).expect("what was said");
    std::fs::remove_file(&said).expect("tidying up");
    let told = text.matches("the flow log cannot be written").count();
    // Twice in all, of which once that it is over.
    assert_eq!((told, text.matches("over: the flow log cannot be written").count()), (2, 1), "{text}");
}
