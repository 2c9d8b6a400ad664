//! The chart, rendered by helm: what `docs/chart.md` says, and the same objects as the kustomize bases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/chart.md");
const VALUES: &str = include_str!("../../deploy/helm/sgp/values.yaml");
const ALERTS: &str = include_str!("../../deploy/monitoring/alerts.yaml");

/// Objects by kind, namespace and name.
type Objects = BTreeMap<String, Value>;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn helm(args: &[&str]) -> Output {
    let program = std::env::var("HELM").unwrap_or_else(|_| "helm".into());
    let home = std::env::temp_dir().join("sgp-helm-of-tests");
    let mut helm = Command::new(program);
    // Nothing of the user's own helm, and no cluster.
    helm.args(args).env("HELM_CONFIG_HOME", &home).env("HELM_CACHE_HOME", &home).env("HELM_DATA_HOME", &home);
    helm.env_remove("KUBECONFIG").output().expect("helm runs")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What helm makes of the chart with these settings, in a namespace.
fn rendered(namespace: &str, settings: &[&str]) -> Objects {
    let chart = deploy().join("helm/sgp");
    let chart = chart.to_str().expect("a path in UTF-8");
    // Helm without a cluster takes it for one of its own age.
    let args = ["template", "sgp", chart, "--include-crds", "--kube-version", "1.34.0", "-n", namespace];
    let output = helm(&[&args, settings].concat());
    assert!(output.status.success(), "{settings:?}: {}", words(&output));
    objects(&String::from_utf8_lossy(&output.stdout))
}

fn objects(yaml: &str) -> Objects {
    let parsed: Vec<Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let named = parsed.into_iter().filter(|object| !object.is_null()).map(|object| {
        let of = &object["metadata"];
        (format!("{} {}/{}", text(&object["kind"]), text(&of["namespace"]), text(&of["name"])), object)
    });
    named.collect()
}

/// Objects of a kustomization's resources: our bases change nothing of them.
fn base(directory: &str) -> Objects {
    let directory = deploy().join(directory);
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("a file of the base");
    let kustomization: Value = serde_saphyr::from_str(&read("kustomization.yaml")).expect("a kustomization");
    let keys: Vec<&String> = kustomization.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["apiVersion", "kind", "resources"], "a base that patches is not read by this test");
    let resources = kustomization["resources"].as_array().expect("resources");
    resources.iter().flat_map(|name| objects(&read(name.as_str().expect("a name")))).collect()
}

fn differences(left: &Objects, right: &Objects) -> Vec<String> {
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differ = names.into_iter().filter(|name| left.get(*name) != right.get(*name));
    differ.map(|name| format!("{name}:\n  {:?}\n  {:?}", left.get(name), right.get(name))).collect()
}

/// Rows of the page: the value, and the example as helm's arguments.
fn documented() -> Vec<(&'static str, Vec<&'static str>)> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
    rows.map(|(value, rest)| (value, rest.split('`').next().unwrap_or_default().split(' ').collect())).collect()
}

/// Paths of what can be set: everything but maps that the user names the keys of.
fn leaves(values: &Value, path: &str, found: &mut BTreeSet<String>) {
    const FREE: [&str; 4] = ["env", "nodeSelector", "resources", "annotations"];
    let is_free = |path: &str| FREE.contains(&path.rsplit('.').next().unwrap_or_default());
    match values.as_object() {
        Some(fields) if path.is_empty() || !is_free(path) => {
            for (name, value) in fields {
                leaves(value, [path, name].join(".").trim_start_matches('.'), found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn every_value_of_the_chart_has_a_row_and_no_row_is_of_nothing() {
    let mut values = BTreeSet::new();
    leaves(&serde_saphyr::from_str(VALUES).expect("values.yaml"), "", &mut values);
    let rows: BTreeSet<String> = documented().into_iter().map(|(value, _)| value.to_owned()).collect();
    assert_eq!(rows, values);
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn helm_has_nothing_against_the_chart_with_any_documented_value() {
    let chart = deploy().join("helm/sgp");
    let lint = ["lint", "--strict", chart.to_str().expect("a path in UTF-8")];
    let plain = rendered("kube-system", &[]);
    for (value, example) in [("", Vec::new())].into_iter().chain(documented()) {
        let output = helm(&[&lint, example.as_slice()].concat());
        assert!(output.status.success(), "{example:?}: {}", words(&output));
        let changed = rendered("kube-system", &example) != plain;
        assert!(changed != value.is_empty(), "{example:?} changes nothing of what is rendered");
    }
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn the_schema_refuses_what_would_not_work_and_names_it() {
    let chart = deploy().join("helm/sgp");
    for (wrong, named) in [
        ("--set metricPort=1", "metricPort"),
        ("--set metricsPort=99999", "metricsPort"),
        ("--set clusterName=", "clusterName"),
        ("--set provision=aws", "provision"),
        ("--set flowLog=/var/log/flows", "flowLog"),
        ("--set extraArgs={cut-on-revoke}", "extraArgs"),
        ("--set env.AWS_VPC_K8S_CNI_EXTERNALSNAT=true", "EXTERNALSNAT"),
        ("--set controller.enabled=yes", "enabled"),
        ("--set controller.replicas=0", "replicas"),
        ("--set controller.certificate.injectCaFrom=sgp", "injectCaFrom"),
        ("--set controller.enabled=true --set provision=observe", "provision=observe"),
    ] {
        let args = ["template", "sgp", chart.to_str().expect("a path in UTF-8")];
        let output = helm(&args.into_iter().chain(wrong.split(' ')).collect::<Vec<_>>());
        assert!(!output.status.success(), "{wrong} is rendered");
        assert!(words(&output).contains(named), "{wrong}: {}", words(&output));
    }
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn the_chart_renders_the_objects_of_the_kustomize_bases() {
    let found = differences(&rendered("kube-system", &[]), &base(""));
    assert!(found.is_empty(), "chart and base differ\n{}", found.join("\n"));
    let whole = base("").into_iter().chain(base("controller")).collect();
    let found = differences(&rendered("kube-system", &["--set", "controller.enabled=true"]), &whole);
    assert!(found.is_empty(), "chart and bases differ\n{}", found.join("\n"));
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn in_another_namespace_only_what_is_vpc_cnis_stays_in_kube_system() {
    let all = rendered("sgp-system", &["--set", "controller.enabled=true"]);
    for (name, object) in &all {
        let text = object.to_string();
        let foreign = ["kube-system:eks-vpc-resource-controller", "kube-system:vpc-resource-controller"];
        let own = foreign.iter().fold(text, |text, user| text.replace(user, ""));
        // The ConfigMap amazon-vpc-cni is there, whoever reads it.
        let of_vpc_cni = name == "Role kube-system/sgp-agent" || name == "RoleBinding kube-system/sgp-agent";
        assert_eq!(own.matches("kube-system").count(), usize::from(of_vpc_cni), "{name}: {object}");
    }
    let writer = "system:serviceaccount:sgp-system:sgp-agent";
    assert!(all["ValidatingWebhookConfiguration /sgp-controller"].to_string().contains(writer));
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn an_api_server_that_knows_no_conditions_is_shown_none() {
    let guard = |version: &str| {
        let settings = ["--set", "controller.enabled=true", "--kube-version", version];
        rendered("kube-system", &settings)["ValidatingWebhookConfiguration /sgp-controller"]["webhooks"][0].clone()
    };
    assert!(guard("v1.27.9-eks-1a2b3c")["matchConditions"].is_null());
    assert_eq!(guard("v1.28.0-eks-1a2b3c")["matchConditions"].as_array().map(Vec::len), Some(2));
}

/// Options in the help of one of the agent's commands.
fn options(command: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_sgp-agent")).args([command, "--help"]).output().expect("it runs");
    let help = words(&output);
    let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '=']).next());
    options.map(|name| format!("--{name}")).collect()
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn every_argument_that_is_rendered_is_an_option_of_the_program() {
    let (run, controller) = (options("run"), options("controller"));
    let mut seen = BTreeSet::new();
    for (_, example) in documented() {
        for object in rendered("kube-system", &example).values() {
            let args =
                object["spec"]["template"]["spec"]["containers"][0]["args"].as_array().cloned().unwrap_or_default();
            let Some((command, rest)) = args.split_first() else { continue };
            let known = if command == "run" { &run } else { &controller };
            for option in rest.iter().filter_map(|arg| arg.as_str()?.split('=').next().map(str::to_owned)) {
                assert!(known.contains(&option), "{command} has no {option}: {example:?}");
                seen.insert(option);
            }
        }
    }
    assert!(seen.len() > 8, "{seen:?}");
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn the_alerts_of_the_chart_are_those_that_promtool_has_read() {
    let all = rendered("kube-system", &["--set", "prometheusRule=true"]);
    let alerts: Value = serde_saphyr::from_str(ALERTS).expect("alerts");
    assert_eq!(all["PrometheusRule kube-system/sgp"]["spec"], alerts);
}

#[test]
#[ignore = "needs helm, which `cargo xtask test` provides"]
fn no_container_of_the_chart_is_privileged_or_keeps_a_capability_it_does_not_name() {
    let all = rendered("kube-system", &["--set", "controller.enabled=true"]);
    let mut added = BTreeMap::new();
    for object in all.values() {
        let of = &object["spec"]["template"]["spec"];
        for container in ["initContainers", "containers"].iter().filter_map(|key| of[key].as_array()).flatten() {
            let context = &container["securityContext"];
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert!(context["privileged"].is_null(), "{container}");
            let seccomp = [&of["securityContext"], context].map(|of| of["seccompProfile"]["type"].clone());
            assert!(seccomp.contains(&json!("RuntimeDefault")), "{container}");
            added.insert(container["name"].to_string(), context["capabilities"]["add"].clone());
        }
    }
    let wanted =
        [("agent", json!(["NET_ADMIN", "SYS_ADMIN"])), ("controller", Value::Null), ("install-cni", Value::Null)];
    assert_eq!(added, wanted.into_iter().map(|(name, add)| (format!("{name:?}"), add)).collect());
}
