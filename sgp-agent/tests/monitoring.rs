//! Dashboard and alert rules against what the real agent exports.

mod node;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use node::Node;
use sgp_agent::domain::cloud_steps::CloudStep;
use sgp_agent::domain::failure::Failure;
use sgp_agent::io::kernel::maps::PinDirs;
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
