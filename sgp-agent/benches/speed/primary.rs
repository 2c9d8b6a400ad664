//! The node's primary interface, by which pods leave the VPC.

use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::observed::{Attachment, LinkFacts, NetworkInterface, Observed};
use sgp_agent::domain::settings::{Settings, Snat, SnatPorts};

/// Its MAC address.
pub(crate) const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 5, 5];
/// Address of the node.
pub(crate) const NODE: [u8; 4] = [10, 200, 0, 5];
/// The group that judges what leaves by it.
pub(crate) const NODE_GROUP: &str = "sg-node";

/// Adds it to what is observed; `link` is how the kernel describes it.
pub(crate) fn leave(observed: &mut Observed, link: LinkFacts, ports: SnatPorts) {
    observed.settings = Settings { snat: Snat::Node { exclude: Vec::new(), ports }, ..Settings::default() };
    if let Some(cloud) = observed.cloud.as_mut() {
        cloud.instance.id = "i-1".into();
        cloud.interfaces.insert("eni-primary".into(), described());
    }
    observed.links.get_or_insert_default().push(link);
}

fn described() -> NetworkInterface {
    let here = Attachment { instance_id: "i-1".into(), status: "attached".into(), ..Attachment::default() };
    NetworkInterface {
        id: "eni-primary".into(),
        mac: "02:00:00:00:05:05".into(),
        addresses: vec![NODE.into()],
        groups: GroupSet::of([NODE_GROUP]),
        attachment: Some(here),
        ..NetworkInterface::default()
    }
}
