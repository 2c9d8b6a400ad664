//! Settings that AWS's own node parts would not start with: one clear error each, before anything is touched.

use std::process::Command;

fn run(variable: &str, value: &str) -> (Option<i32>, String) {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_sgp-agent"));
    let nowhere = std::env::temp_dir().join("sgp-settings-test").join(variable);
    agent.args(["run", "--node-name", "n", "--runtime-dir"]).arg(&nowhere).env(variable, value);
    let output = agent.output().expect("the agent starts");
    assert!(!nowhere.exists(), "{variable}={value} left something in {}", nowhere.display());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[test]
fn a_setting_that_cannot_be_is_told_in_one_line_with_the_way_out() {
    for (variable, value, wanted) in [
        (
            "POD_SECURITY_GROUP_ENFORCING_MODE",
            "loose",
            "Error: POD_SECURITY_GROUP_ENFORCING_MODE is \"loose\": set it to strict or standard",
        ),
        (
            "AWS_VPC_ENI_MTU",
            "10000",
            "Error: AWS_VPC_ENI_MTU is \"10000\": set it to a number from 576 to 9001, or not at all",
        ),
        ("POD_MTU", "12", "Error: POD_MTU is \"12\": set it to a number from 576 to 9001, or not at all"),
        (
            "AWS_VPC_K8S_CNI_VETHPREFIX",
            "vlan",
            "Error: AWS_VPC_K8S_CNI_VETHPREFIX is \"vlan\": interfaces that are no pod's begin so; choose another",
        ),
        (
            "ENABLE_IPv4",
            "false",
            "Error: ENABLE_IPv4 and ENABLE_IPv6 are both false: a cluster's pods have one family, so set exactly one of them to true",
        ),
    ] {
        assert_eq!(run(variable, value), (Some(1), wanted.to_owned()));
    }
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let help = Command::new(env!("CARGO_BIN_EXE_sgp-agent")).args(["run", "--help"]).output().expect("it runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let variables: Vec<&str> = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next()).collect();
    assert!(variables.contains(&"SGP_PROVISION") && variables.len() > 15, "{variables:?}");
    let nowhere = std::env::temp_dir().join(format!("sgp-settings-test-{}", std::process::id()));
    let ended = |empty: &[&str]| {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_sgp-agent"));
        // No bpffs: it ends once it has read what it is told.
        agent.args(["run", "--node-name", "n", "--bpf-dir", "/proc/nowhere", "--runtime-dir"]).arg(&nowhere);
        let output = agent.envs(empty.iter().map(|name| (name, ""))).output().expect("the agent starts");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let (unset, empty) = (ended(&[]), ended(&variables));
    drop(std::fs::remove_dir_all(&nowhere));
    assert!(unset.contains("/proc/nowhere") || unset.contains("CAP_"), "{unset}");
    assert_eq!(empty, unset);
}
