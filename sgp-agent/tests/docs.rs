//! What `docs/` says is what the program does.

use std::process::Command;

use sgp_agent::domain::membership::SLICE_MAX;
use sgp_common::{DropReason, limits};

const SETTINGS: &str = include_str!("../../docs/settings.md");
const REASONS: &str = include_str!("../../docs/drop-reasons.md");
const LIMITS: &str = include_str!("../../docs/limits.md");

#[test]
fn every_setting_has_a_row_with_its_variable_and_no_row_is_of_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_sgp-agent")).args(["run", "--help"]).output().expect("it runs");
    let help = String::from_utf8_lossy(&output.stdout);
    let options: Vec<&str> =
        help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '=', '[']).next()).collect();
    assert!(options.len() > 30, "{options:?}");
    for option in options {
        assert!(SETTINGS.contains(&format!("| `--{option}` |")), "docs/settings.md has no row for --{option}");
    }
    for variable in help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next()) {
        assert!(SETTINGS.contains(&format!("| `{variable}` |")), "docs/settings.md does not name {variable}");
    }
    for row in SETTINGS.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()) {
        assert!(help.contains(row), "docs/settings.md has {row}, which is no option");
    }
}

#[test]
fn every_drop_reason_has_a_row() {
    for reason in DropReason::ALL {
        assert!(REASONS.contains(&format!("| `{}` |", reason.name())), "docs/drop-reasons.md lacks {}", reason.name());
    }
}

#[test]
fn the_limits_are_those_of_the_programs() {
    let ports = u32::from(limits::SNAT_PORT_LAST - limits::SNAT_PORT_FIRST) + 1;
    for (what, limit) in [
        ("flows of a node", limits::FLOWS_MAX),
        ("flows of a pod", limits::ENDPOINT_FLOWS_MAX),
        ("translated flows of a node", limits::SNAT_MAX),
        ("translated flows to one address and port", ports),
        ("group sets of a node", limits::POLICIES_MAX),
        ("keys of a compiled policy", limits::POLICY_KEYS_MAX),
        ("addresses whose groups are known", limits::PEERS_MAX),
        ("addresses of one SecurityGroupMembership", SLICE_MAX as u32),
        ("exceptions from translation", limits::SNAT_EXCLUDED_MAX),
        ("destinations of `--shortcut all` for the host stack", limits::STACK_NETS_MAX),
        ("sampled events, a second and CPU", limits::EVENTS_PER_SECOND),
    ] {
        assert!(LIMITS.contains(&format!("| {what} | {limit} |")), "docs/limits.md: {what} is {limit}");
    }
}
