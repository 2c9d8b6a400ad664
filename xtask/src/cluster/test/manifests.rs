//! What stands in `deploy/`, asked of a real API server.

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use crate::declared::AGENT_RBAC;

const CONTROLLER: &str = include_str!("../../../../deploy/controller/controller.yaml");
const MANIFESTS: [(&str, &str); 9] = [
    (
        "the CRD of SecurityGroupPolicy",
        include_str!("../../../../deploy/crds/securitygrouppolicies.vpcresources.k8s.aws.yaml"),
    ),
    (
        "the CRD of SecurityGroupMembership",
        include_str!("../../../../deploy/crds/securitygroupmemberships.sgp.dev.yaml"),
    ),
    ("the CRD of CNINode", include_str!("../../../../deploy/crds/cninodes.vpcresources.k8s.aws.yaml")),
    ("the CRD of ENIConfig", include_str!("../../../../deploy/crds/eniconfigs.crd.k8s.amazonaws.com.yaml")),
    ("rbac.yaml", AGENT_RBAC),
    ("controller.yaml", CONTROLLER),
    ("webhooks.yaml", include_str!("../../../../deploy/controller/webhooks.yaml")),
    ("daemonset.yaml", include_str!("../../../../deploy/daemonset.yaml")),
    ("networkpolicy.yaml", include_str!("../../../../deploy/controller/networkpolicy.yaml")),
];

/// A dry run on the server: validated and admitted, not kept.
pub(super) fn accepted(stage: &Stage) -> Result<()> {
    for (name, yaml) in MANIFESTS {
        let outcome = stage.hands.apply_dry(yaml)?;
        ensure!(outcome.status == 0, "{name}: {}", outcome.words());
    }
    for base in ["deploy", "deploy/controller"] {
        let built = stage.hands.kubectl(&["kustomize", &format!("{}/../{base}", env!("CARGO_MANIFEST_DIR"))])?.ok()?;
        stage.hands.apply_dry(&built)?.ok().with_context(|| format!("kustomize's {base}"))?;
    }
    may(stage)
}

/// The role holds what the agent asks for, and no writing of what it only reads.
fn may(stage: &Stage) -> Result<()> {
    let whom = "--as=system:serviceaccount:kube-system:sgp-agent";
    for (verb, what, wanted) in [
        ("watch", "pods", true),
        ("patch", "pods", true),
        ("watch", "securitygrouppolicies.vpcresources.k8s.aws", true),
        ("watch", "securitygroupmemberships.sgp.dev", true),
        ("update", "securitygroupmemberships.sgp.dev", false),
        ("patch", "nodes/status", true),
        ("patch", "nodes", true),
        ("watch", "nodes", true),
        ("create", "cninodes.vpcresources.k8s.aws", true),
        ("update", "cninodes.vpcresources.k8s.aws", true),
        ("delete", "cninodes.vpcresources.k8s.aws", false),
        ("create", "events.events.k8s.io", true),
        ("delete", "pods", false),
        ("update", "securitygrouppolicies.vpcresources.k8s.aws", false),
        ("get", "secrets", false),
    ] {
        let (resource, sub) = what.split_once('/').unwrap_or((what, ""));
        let sub = format!("--subresource={sub}");
        let answer = stage.hands.kubectl(&["auth", "can-i", verb, resource, &sub, "-A", whom])?;
        ensure!((answer.status == 0) == wanted, "can the agent {verb} {what}? {}", answer.words());
    }
    Ok(())
}
