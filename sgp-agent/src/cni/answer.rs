//! The result of ADD.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::config::Call;
use super::wiring::{addresses, router};
use crate::domain::observed::LinkFacts;
use crate::domain::wiring::{mac_text, pod_hash, table};
use crate::protocol::Wiring;

/// As the VPC CNI writes it, numbers in MAC fields included, so that either can tear down what the other wired.
pub(super) fn result(call: &Call, wiring: &Wiring, host: &LinkFacts) -> Value {
    let old = call.config.cni_version.starts_with("0.");
    let hash = call.pod.as_ref().map(|pod| pod_hash(&pod.namespace, &pod.name)).unwrap_or_default();
    let ips: Vec<Value> = addresses(wiring)
        .into_iter()
        .map(|address| {
            let mut ip = json!({"address": IpNet::from(address).to_string(), "interface": 1});
            if let Ok(router) = router(wiring, address) {
                ip["gateway"] = json!(router.to_string());
            }
            if old {
                ip["version"] = json!(if address.is_ipv4() { "4" } else { "6" });
            }
            ip
        })
        .collect();
    json!({
        "cniVersion": call.config.cni_version,
        "interfaces": [
            {"name": host.name, "mac": mac_text(&host.mac)},
            {"name": call.interface, "sandbox": call.netns, "mac": table(wiring.vlan_id).to_string()},
            {"name": format!("dummy{hash}"), "mac": wiring.vlan_id.to_string()},
        ],
        "ips": ips,
    })
}
