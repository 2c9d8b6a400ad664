//! What stands in `deploy/` is what the Rust types say.

use std::collections::BTreeSet;

use kube::CustomResourceExt;
use sgp_agent::io::kubernetes::{CNINode, ENIConfig, SecurityGroupPolicy};

const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");

/// `SGP_BLESS=1` writes the files anew. JSON is YAML too, and needs no second library.
#[test]
fn the_crds_in_deploy_are_those_of_the_rust_types() {
    for crd in [SecurityGroupPolicy::crd(), CNINode::crd(), ENIConfig::crd()] {
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
        include_str!("../src/io/ec2/steps.rs"),
    ];
    let calls: BTreeSet<String> = sources.iter().flat_map(|source| called(source)).collect();
    assert_eq!(allowed(include_str!("../../deploy/iam/agent.json")), calls);
    let controller = allowed(include_str!("../../deploy/iam/controller.json"));
    let wanted = ["DescribeNetworkInterfaces", "DescribeTrunkInterfaceAssociations", "DeleteNetworkInterface"];
    assert_eq!(controller, wanted.iter().map(|action| format!("ec2:{action}")).collect());
}
