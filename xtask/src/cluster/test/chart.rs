//! The chart in a real cluster: installed, changed, and each documented value shown to the API server.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::stage::Stage;
use crate::demo::hands::Outcome;

const PAGE: &str = include_str!("../../../../docs/chart.md");
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// Stands in for the CRD of Prometheus Operator, which is not ours to bring; promtool has read what is in the rules.
const PROMETHEUS_RULES: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: prometheusrules.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: PrometheusRule, plural: prometheusrules, singular: prometheusrule}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
/// What the cluster's own agents and controllers stand on already.
const ACCOUNTS: [&str; 5] = ["serviceaccount", "clusterrole", "clusterrolebinding", "role", "rolebinding"];

/// The default values leave exactly what `kubectl apply -k deploy` would, and every documented value is accepted.
pub(super) fn installed(stage: &Stage) -> Result<()> {
    stage.hands.apply(PROMETHEUS_RULES)?.ok()?;
    let result = accepted(stage).and_then(|()| in_place(stage));
    clear(stage)?;
    result
}

fn helm(stage: &Stage, args: &[&str]) -> Result<Outcome> {
    let program = std::env::var_os("HELM").context("HELM is not set: `cargo xtask setup` provides helm")?;
    stage.hands.finish(Command::new(program).args(args).args(["-n", "kube-system"]))
}

fn accepted(stage: &Stage) -> Result<()> {
    let chart = format!("{DEPLOY}/helm/sgp");
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split("` | `").nth(1)?.split('`').next());
    let examples: Vec<&str> = rows.collect();
    ensure!(examples.len() > 20, "docs/chart.md documents {} values", examples.len());
    for example in examples.iter().copied().chain(["--include-crds"]) {
        let args = ["template", "sgp", &chart].into_iter().chain(example.split(' ')).collect::<Vec<_>>();
        let yaml = helm(stage, &args)?.ok().with_context(|| example.to_owned())?;
        stage.hands.apply_dry(&yaml)?.ok().with_context(|| example.to_owned())?;
    }
    println!("  {} documented values, each accepted", examples.len());
    Ok(())
}

/// Install and upgrade, by helm itself.
fn in_place(stage: &Stage) -> Result<()> {
    adopt(stage)?;
    let chart = format!("{DEPLOY}/helm/sgp");
    helm(stage, &["install", "sgp", &chart])?.ok().context("helm install")?;
    let diff = stage.hands.kubectl(&["diff", "-k", DEPLOY])?;
    ensure!(diff.status == 0, "what helm installed is not what `kubectl apply -k deploy` makes:\n{}", diff.words());
    // No node is so named: pods wait, and disturb nobody.
    let nowhere = "controller.nodeSelector.kubernetes\\.io/hostname=none";
    let with = ["--set", "controller.enabled=true", "--set", nowhere];
    helm(stage, &[&["upgrade", "sgp", &chart], &with[..]].concat())?.ok().context("helm upgrade")?;
    for kind in ["deployment", "service", "networkpolicy", "poddisruptionbudget"] {
        stage.hands.kubectl(&["get", kind, "sgp-controller", "-n", "kube-system"])?.ok()?;
    }
    let deployed = helm(stage, &["status", "sgp"])?.ok()?;
    ensure!(deployed.contains("STATUS: deployed"), "helm says {deployed}");
    Ok(())
}

/// Lets helm take over the accounts, as one does with what was installed in another way.
fn adopt(stage: &Stage) -> Result<()> {
    for account in ["sgp-agent", "sgp-controller"] {
        for kind in ACCOUNTS {
            let names = [kind, account, "-n", "kube-system", "--overwrite"];
            let release = ["meta.helm.sh/release-name=sgp", "meta.helm.sh/release-namespace=kube-system"];
            stage.hands.kubectl(&[&["annotate"], &names[..], &release[..]].concat())?.ok()?;
            let by = ["app.kubernetes.io/managed-by=Helm"];
            stage.hands.kubectl(&[&["label"], &names[..], &by[..]].concat())?.ok()?;
        }
    }
    Ok(())
}

/// Not `helm uninstall`, which would take the accounts along.
fn clear(stage: &Stage) -> Result<()> {
    let releases = ["delete", "secret", "-n", "kube-system", "-l", "owner=helm,name=sgp", "--ignore-not-found"];
    stage.hands.kubectl(&releases)?.ok()?;
    let webhooks = "mutatingwebhookconfiguration,validatingwebhookconfiguration";
    for (kinds, name) in [
        (webhooks, "sgp-controller"),
        ("deployment,service,networkpolicy,poddisruptionbudget", "sgp-controller"),
        ("daemonset", "sgp-agent"),
        ("crd", "prometheusrules.monitoring.coreos.com"),
    ] {
        stage.hands.kubectl(&["delete", kinds, name, "-n", "kube-system", "--ignore-not-found"])?.ok()?;
    }
    Ok(())
}
