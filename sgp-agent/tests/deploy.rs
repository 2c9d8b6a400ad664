//! What stands in `deploy/` is what the Rust types say.

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
