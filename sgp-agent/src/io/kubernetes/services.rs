//! What Services are reached by: addresses that kube-proxy, not the network, knows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::Notify;

use super::watched::{Need, Watched};

/// Services, and the ranges that their ClusterIPs are of (Kubernetes 1.33): with these no new Service has an address that
/// is unknown for a moment, or while the agent is away.
pub(super) struct Services {
    services: Watched<Service>,
    ranges: Watched<ServiceCIDR>,
}

impl Services {
    /// Watches both.
    pub(super) fn start(client: &Client, changed: &Arc<Notify>) -> Self {
        let all = watcher::Config::default;
        Self {
            services: Watched::start(Api::all(client.clone()), all(), Need::IfThere, Arc::clone(changed)),
            ranges: Watched::start(Api::all(client.clone()), all(), Need::IfThere, Arc::clone(changed)),
        }
    }

    /// `None` until both have delivered their first snapshot; nothing within where Services may not be known.
    pub(super) fn known(&self) -> Option<Option<BTreeSet<IpNet>>> {
        let (services, ranges) = (self.services.snapshot()?, self.ranges.snapshot()?);
        if self.services.is_denied() {
            return Some(None);
        }
        let addresses = services.iter().flat_map(|service| addresses(service)).map(IpNet::from);
        let ranges = ranges.iter().filter_map(|range| range.spec.as_ref()).flat_map(|spec| spec.cidrs.iter().flatten());
        Some(Some(addresses.chain(ranges.filter_map(|cidr| cidr.parse().ok())).collect()))
    }
}

/// ClusterIPs, external addresses, and those of a load balancer. What is no address (`None`, a host name) is none.
fn addresses(service: &Service) -> BTreeSet<IpAddr> {
    let spec = service.spec.clone().unwrap_or_default();
    let balancer = service.status.clone().unwrap_or_default().load_balancer.unwrap_or_default();
    let balanced = balancer.ingress.unwrap_or_default().into_iter().filter_map(|ingress| ingress.ip);
    let all = [spec.cluster_ips, spec.external_ips].into_iter().flatten().flatten();
    all.chain(spec.cluster_ip).chain(balanced).filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(service: serde_json::Value) -> Vec<String> {
        let service: Service = serde_json::from_value(service).expect("a Service");
        addresses(&service).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_service_is_reached_by_each_address_that_kube_proxy_answers_for() {
        let spec = json!({
            "clusterIP": "10.100.0.7", "clusterIPs": ["10.100.0.7", "fd00::7"], "externalIPs": ["192.0.2.9"]
        });
        let ingress = json!([{"ip": "198.51.100.7"}, {"hostname": "x.elb.amazonaws.com"}]);
        let found = of(json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}));
        assert_eq!(found, ["10.100.0.7", "192.0.2.9", "198.51.100.7", "fd00::7"]);
        assert!(of(json!({"spec": {"clusterIP": "None"}})).is_empty(), "a headless one");
        assert!(of(json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})).is_empty());
    }
}
