//! A pod with a branch, as Kubernetes and EC2 describe it: what tests of wiring begin with.

use super::annotation::parse;
use super::branches::VLAN_TAG;
use super::observed::{CloudFacts, ClusterFacts, LinkFacts, NetworkInterface, Observed, Pod};

const ANNOTATION: &str = r#"[{"eniId":"eni-1","ifAddress":"06:00:00:00:00:01","privateIp":"10.0.1.10","ipv6Addr":"","vlanID":1,"subnetCidr":"10.0.1.0/24","subnetV6Cidr":""}]"#;

/// The pod `default/sample-pod` at 10.0.1.10, with the branch `eni-1` on VLAN 1.
pub(super) fn pod() -> Pod {
    let branch = Some(parse(ANNOTATION));
    Pod { uid: "u1".into(), namespace: "default".into(), name: "sample-pod".into(), branch, ..Pod::default() }
}

/// It and its branch, on a node with these links.
pub(super) fn observed(links: Vec<LinkFacts>) -> Observed {
    let tags = [(VLAN_TAG.to_owned(), "1".to_owned())].into();
    let addresses = vec!["10.0.1.10".parse().expect("an address")];
    let eni = NetworkInterface { mac: "06:00:00:00:00:01".into(), addresses, tags, ..NetworkInterface::default() };
    Observed {
        cluster: Some(ClusterFacts { pods: [("u1".to_owned(), pod())].into(), ..ClusterFacts::default() }),
        cloud: Some(CloudFacts { interfaces: [("eni-1".to_owned(), eni)].into(), ..CloudFacts::default() }),
        links: Some(links),
        ..Observed::default()
    }
}

/// A link with the MAC address of the branch.
pub(super) fn link(name: &str, index: u32, alias: Option<&str>) -> LinkFacts {
    let alias = alias.map(str::to_owned);
    LinkFacts { name: name.into(), index, mac: [6, 0, 0, 0, 0, 1], alias, ..LinkFacts::default() }
}
