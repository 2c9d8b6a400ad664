//! What the runtime says: environment variables and the network configuration on standard input.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::outcome::{DECODING_FAILED, Failure, INVALID_CONFIG, INVALID_ENVIRONMENT};
use crate::protocol::PodRef;

/// Versions of the specification whose results we can write.
pub(super) const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Version,
    Status,
    Gc,
}

/// Where the branch interface comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BranchLink {
    /// A VLAN link, made on the trunk and deleted with the pod.
    #[default]
    Vlan,
    /// A link of the right name that somebody else provides and keeps: it is set up and down.
    Provided,
}

/// The plugin's part of the network configuration; the node's settings come from the agent. Numbers may be
/// strings, as in AWS's own.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    pub(super) cni_version: String,
    #[serde(default = "default_socket")]
    pub(super) agent_socket: PathBuf,
    #[serde(default)]
    pub(super) branch_link: BranchLink,
    #[serde(default = "default_timeout", deserialize_with = "number")]
    pub(super) add_timeout_seconds: u64,
    #[serde(default)]
    pub(super) delegate: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) prev_result: Option<Value>,
}

fn default_socket() -> PathBuf {
    "/run/sgp/agent.sock".into()
}

/// Less than the time kubelet gives a sandbox, so that our own words reach the pod's events.
fn default_timeout() -> u64 {
    20
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().map_err(|_| serde::de::Error::custom(format!("{text} is no number")))
}

/// One call of the plugin.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) config: Config,
    /// `None`: not a pod of Kubernetes.
    pub(super) pod: Option<PodRef>,
    pub(super) interface: String,
    /// Path of the pod's network namespace; empty once it is gone.
    pub(super) netns: String,
    /// Directories of plugins.
    pub(super) path: Vec<PathBuf>,
    /// The configuration as it came, for the delegate.
    pub(super) raw: Value,
}

impl Call {
    /// Reads environment and standard input.
    pub(super) fn read() -> Result<Self, Failure> {
        let verb = verb(&std::env::var("CNI_COMMAND").unwrap_or_default())?;
        let raw: Value = serde_json::from_reader(std::io::stdin())
            .map_err(|error| Failure::new(DECODING_FAILED, format!("the network configuration is no JSON: {error}")))?;
        let optional = |name: &str| std::env::var(name).unwrap_or_default();
        let call = Self {
            verb,
            config: parse(&raw)?,
            pod: pod(&optional("CNI_ARGS")),
            interface: optional("CNI_IFNAME"),
            netns: optional("CNI_NETNS"),
            path: std::env::split_paths(&optional("CNI_PATH")).collect(),
            raw,
        };
        call.checked()
    }

    fn checked(self) -> Result<Self, Failure> {
        let needs_namespace = matches!(self.verb, Verb::Add | Verb::Check);
        if needs_namespace && (self.netns.is_empty() || self.interface.is_empty()) {
            return Err(Failure::new(INVALID_ENVIRONMENT, "CNI_NETNS and CNI_IFNAME must be set"));
        }
        Ok(self)
    }

    /// VLAN id that the result of ADD carries in its dummy interface (facts 3.6); `None` for pods without branch.
    pub(super) fn vlan_id(&self) -> Option<u16> {
        let interfaces = self.config.prev_result.as_ref()?.get("interfaces")?.as_array()?;
        let dummy = |one: &&Value| one["name"].as_str().is_some_and(|name| name.starts_with("dummy"));
        let text = interfaces.iter().find(dummy)?.get("mac")?.as_str()?;
        text.parse().ok().filter(|id| *id != 0)
    }

    /// Addresses in the result of ADD.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let ips = self.config.prev_result.as_ref().and_then(|result| result.get("ips")?.as_array());
        let text = |one: &Value| one["address"].as_str()?.split('/').next()?.parse().ok();
        ips.into_iter().flatten().filter_map(text).collect()
    }
}

fn verb(text: &str) -> Result<Verb, Failure> {
    Ok(match text {
        "ADD" => Verb::Add,
        "DEL" => Verb::Del,
        "CHECK" => Verb::Check,
        "VERSION" => Verb::Version,
        "STATUS" => Verb::Status,
        "GC" => Verb::Gc,
        other => {
            let message = format!("CNI_COMMAND is {other:?}: container runtimes start this program, not people");
            return Err(Failure::new(INVALID_ENVIRONMENT, message));
        }
    })
}

fn parse(raw: &Value) -> Result<Config, Failure> {
    let config: Config = serde_json::from_value(raw.clone())
        .map_err(|error| Failure::new(INVALID_CONFIG, format!("the network configuration: {error}")))?;
    if !SUPPORTED.contains(&config.cni_version.as_str()) {
        let message = format!("cniVersion {:?} is none of {SUPPORTED:?}", config.cni_version);
        return Err(Failure::new(1, message));
    }
    Ok(config)
}

/// The pod of CNI_ARGS (`K8S_POD_NAME=…;K8S_POD_NAMESPACE=…`).
fn pod(args: &str) -> Option<PodRef> {
    let pairs: BTreeMap<&str, &str> = args.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let get = |key: &str| pairs.get(key).map(|value| (*value).to_owned());
    Some(PodRef {
        namespace: get("K8S_POD_NAMESPACE")?,
        name: get("K8S_POD_NAME")?,
        uid: get("K8S_POD_UID").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_may_be_strings_and_unknown_fields_are_ignored() {
        let config = parse(&json!({"cniVersion": "0.4.0", "type": "sgp-cni", "addTimeoutSeconds": "7", "mtu": "1500"}));
        assert_eq!(config.expect("a valid configuration").add_timeout_seconds, 7);
    }

    #[test]
    fn a_version_of_the_future_is_refused_by_name() {
        let failure = parse(&json!({"cniVersion": "9.0.0"})).expect_err("no such version");
        assert!(failure.to_json()["msg"].as_str().is_some_and(|text| text.contains("9.0.0")));
    }

    #[test]
    fn the_pod_comes_from_cni_args() {
        let found = pod("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;K8S_POD_UID=u-1");
        let wanted = PodRef { namespace: "shop".into(), name: "cart-0".into(), uid: "u-1".into() };
        assert_eq!(found, Some(wanted));
        assert_eq!(pod("IgnoreUnknown=1"), None);
    }
}
