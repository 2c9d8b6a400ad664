//! What stands in `deploy/` is what the Rust types say.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use sgp_agent::io::kubernetes::crds;

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");

/// `SGP_BLESS=1` writes the files anew. JSON is YAML too, and needs no second library.
#[test]
fn the_crds_in_deploy_are_those_of_the_rust_types() {
    for crd in crds() {
        let name = crd.metadata.name.clone().expect("a CRD has a name");
        let path = format!("{CRDS}/{name}.yaml");
        let wanted = serde_json::to_string_pretty(&crd).expect("a CRD is JSON");
        let wanted = format!(
            "# Generated from io/kubernetes/kinds.rs: SGP_BLESS=1 cargo test -p sgp-agent --test deploy\n{wanted}\n"
        );
        if std::env::var_os("SGP_BLESS").is_some() {
            std::fs::write(&path, &wanted).expect("deploy/crds is writable");
        }
        let found = std::fs::read_to_string(&path).expect("the CRD is in deploy/crds");
        assert_eq!(found, wanted, "{path}: run it once with SGP_BLESS=1");
    }
}

/// IAM actions of a policy in `deploy/iam`.
fn allowed(policy: &str) -> BTreeSet<String> {
    let policy: serde_json::Value = serde_json::from_str(policy).expect("an IAM policy is JSON");
    let statements = policy["Statement"].as_array().expect("statements").iter();
    let actions = statements.flat_map(|statement| statement["Action"].as_array().expect("actions").clone());
    actions.map(|action| action.as_str().expect("an action").to_owned()).collect()
}

/// Methods of EC2's SDK that a file calls, as IAM actions.
fn called(source: &str) -> BTreeSet<String> {
    let begins = ["describe_", "get_", "create_", "attach_", "modify_", "associate_", "disassociate_", "delete_"];
    let names = source.split('.').filter_map(|part| part.split_once("()").map(|(name, _)| name));
    let calls = names.filter(|name| begins.iter().any(|begin| name.starts_with(begin)));
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    calls.map(|name| format!("ec2:{}", name.split('_').map(word).collect::<String>())).collect()
}

#[test]
fn iam_allows_what_the_agent_calls_and_nothing_else() {
    let sources = [
        include_str!("../src/io/ec2/mod.rs"),
        include_str!("../src/io/ec2/describe.rs"),
        include_str!("../src/io/ec2/members.rs"),
        include_str!("../src/io/ec2/steps.rs"),
    ];
    let calls: BTreeSet<String> = sources.iter().flat_map(|source| called(source)).collect();
    assert_eq!(allowed(include_str!("../../deploy/iam/agent.json")), calls);
    let controller = allowed(include_str!("../../deploy/iam/controller.json"));
    let wanted = [
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroupRules",
        "DescribeTrunkInterfaceAssociations",
        "DeleteNetworkInterface",
    ];
    assert_eq!(controller, wanted.iter().map(|action| format!("ec2:{action}")).collect());
}

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");

/// Instructions of the Dockerfile, each with the rest of its line.
fn instructions() -> Vec<(&'static str, &'static str)> {
    let lines = DOCKERFILE.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(' ').expect("an instruction and what it is given")).collect()
}

#[test]
#[ignore = "needs hadolint, which `cargo xtask test` provides"]
fn hadolint_finds_nothing_to_say_of_the_dockerfile() {
    let hadolint = std::env::var("HADOLINT").unwrap_or_else(|_| "hadolint".into());
    let args = ["--failure-threshold", "style", "--no-color", "Dockerfile"];
    let output = Command::new(hadolint).args(args).current_dir(DEPLOY).output().expect("hadolint runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_image_is_built_on_nothing_and_from_a_base_that_is_pinned() {
    let all = instructions();
    let bases: Vec<&str> = all.iter().filter(|(what, _)| *what == "FROM").map(|(_, base)| *base).collect();
    let [build, image] = bases[..] else { panic!("stages: {bases:?}") };
    assert_eq!(image, "scratch");
    let tag = build.split(' ').next().and_then(|base| base.split_once(':')).expect("a tag").1;
    let rust = env!("CARGO_PKG_RUST_VERSION").split('.').take(2).collect::<Vec<_>>().join(".");
    assert!(tag.starts_with(&format!("{rust}-")), "{build} is not pinned to Rust {rust}");
    let last = all.iter().rposition(|(what, _)| *what == "FROM").expect("a stage");
    assert!(all[last..].iter().all(|(what, _)| ["FROM", "COPY", "ENTRYPOINT", "CMD"].contains(what)), "{all:?}");
    // Which processor it is for is the builder's to say.
    let words = ["amd64", "arm64", "x86_64", "aarch64"];
    assert!(all.iter().all(|(_, rest)| !words.iter().any(|word| rest.contains(word))), "{all:?}");
}

#[test]
fn the_image_holds_all_that_the_agent_needs_and_no_shell() {
    if std::env::var_os("SGP_TEST_ROOT").is_none() {
        return;
    }
    let root = std::env::temp_dir().join(format!("sgp-image-{}", std::process::id()));
    let mut lay = Command::new(Path::new(DEPLOY).join("image.sh"));
    let laid = lay.arg(env!("CARGO_BIN_EXE_sgp-agent")).arg(&root).output().expect("image.sh runs");
    let entry = instructions().into_iter().find(|(what, _)| *what == "ENTRYPOINT").expect("an entry point").1;
    let entry: Vec<String> = serde_json::from_str(entry).expect("exec form");
    let agent = Command::new("chroot").arg(&root).args(&entry).arg("--version").output().expect("chroot runs");
    let has_shell = ["bin/sh", "usr/bin/sh"].iter().any(|shell| root.join(shell).exists());
    let trusts = root.join("etc/ssl/certs/ca-certificates.crt").exists();
    drop(std::fs::remove_dir_all(&root));
    assert!(laid.status.success(), "{}", String::from_utf8_lossy(&laid.stderr));
    assert!(agent.status.success(), "{}", String::from_utf8_lossy(&agent.stderr));
    assert!(trusts && !has_shell);
}
