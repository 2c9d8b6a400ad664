//! Pods, and what an agent says of their wiring.

use std::net::IpAddr;

use sgp_agent::domain::wiring::Mode;
use sgp_agent::protocol::Wiring;

use super::TRUNK_MAC;

/// A pod as the runtime knows it.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) name: &'static str,
    pub(crate) uid: &'static str,
    /// Its VLAN id, and the last part of its addresses.
    pub(crate) number: u16,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    V4,
    V6,
}

impl Pod {
    pub(crate) fn address(&self, cluster: Cluster) -> IpAddr {
        match cluster {
            Cluster::V4 => IpAddr::from([10, 0, 1, 9 + self.number as u8]),
            Cluster::V6 => IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, 9 + self.number]),
        }
    }

    /// What the agent answers about it.
    pub(crate) fn wiring(&self, mode: Mode, cluster: Cluster) -> Wiring {
        let address = self.address(cluster);
        Wiring {
            interface_id: format!("eni-{}", self.uid),
            pod_uid: self.uid.into(),
            mac: format!("06:00:00:00:01:{:02x}", self.number),
            private_ip: if let IpAddr::V4(v4) = address { Some(v4) } else { None },
            ipv6_addr: if let IpAddr::V6(v6) = address { Some(v6) } else { None },
            vlan_id: self.number,
            subnet_cidr: Some("10.0.1.0/24".parse().expect("a CIDR")),
            trunk_mac: TRUNK_MAC.into(),
            mode,
            veth_prefix: "eni".into(),
            mtu: 1400,
        }
    }
}
