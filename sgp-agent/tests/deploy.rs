//! What stands in `deploy/` is what the Rust types say.

use kube::CustomResourceExt;
use sgp_agent::io::kubernetes::SecurityGroupPolicy;

const CRD: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds/securitygrouppolicies.vpcresources.k8s.aws.yaml");

/// `SGP_BLESS=1` writes the file anew. JSON is YAML too, and needs no second library.
#[test]
fn the_crd_in_deploy_is_the_one_of_the_rust_type() {
    let wanted = serde_json::to_string_pretty(&SecurityGroupPolicy::crd()).expect("a CRD is JSON");
    let wanted = format!(
        "# Generated from SecurityGroupPolicySpec: SGP_BLESS=1 cargo test -p sgp-agent --test deploy\n{wanted}\n"
    );
    if std::env::var_os("SGP_BLESS").is_some() {
        std::fs::write(CRD, &wanted).expect("deploy/crds is writable");
    }
    let found = std::fs::read_to_string(CRD).expect("the CRD is in deploy/crds");
    assert_eq!(found, wanted, "run it once with SGP_BLESS=1");
}
