//! Names and numbers of a pod's wiring: those of the VPC CNI (facts 3.1), so that both can read each other's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha1::{Digest, Sha1};

/// Rule priority: everything to the pod's address is looked up in `main`.
pub const TO_POD_PRIORITY: u32 = 512;
/// Rule priority: everything from the pod's address is looked up in the branch's own table.
pub const FROM_POD_PRIORITY: u32 = 1536;
/// Rule priority: what comes from the pod's address and found no way in the branch's table, because the branch
/// is down, goes nowhere. Without it `main` would send it out by the node's own interface, where nobody judges.
pub const CLOSED_PRIORITY: u32 = 1537;
/// The branch's table is its VLAN id and this.
pub const TABLE_BASE: u32 = 100;
/// The pod's router: an address of nobody, with a static neighbour entry.
pub const POD_ROUTER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Likewise for IPv6.
pub const POD_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The VPC's router for IPv6, in every subnet.
pub const VPC_ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0xec2, 0, 0, 0, 0, 0, 1);

/// The first 11 hex digits of SHA-1 over `<namespace>.<pod>`.
pub fn pod_hash(namespace: &str, pod: &str) -> String {
    let hash = Sha1::digest(format!("{namespace}.{pod}").as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex[..11].to_owned()
}

/// Name of a pod's host veth.
pub fn host_interface(prefix: &str, namespace: &str, pod: &str) -> String {
    format!("{prefix}{}", pod_hash(namespace, pod))
}

/// Name of a branch interface.
pub fn branch_interface(vlan_id: u16) -> String {
    format!("vlan.eth.{vlan_id}")
}

/// The branch's route table.
pub fn table(vlan_id: u16) -> u32 {
    TABLE_BASE + u32::from(vlan_id)
}

/// The pod's router of the family of `addr`.
pub fn pod_router(addr: IpAddr) -> IpAddr {
    if addr.is_ipv4() { POD_ROUTER_V4.into() } else { POD_ROUTER_V6.into() }
}

/// What the CNI plugin writes on a host veth, so that interfaces describe themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The branch, `eni-…`.
    pub interface_id: String,
    /// Pod UID.
    pub uid: String,
    /// MAC address of the pod's own end.
    pub mac: [u8; 6],
}

impl Alias {
    /// The text of IFLA_IFALIAS.
    pub fn write(&self) -> String {
        format!("sgp eni={} uid={} mac={}", self.interface_id, self.uid, mac_text(&self.mac))
    }

    /// Reads it back; `None` if it is not ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("sgp ")?.split(' ');
        let interface_id = words.next()?.strip_prefix("eni=")?.to_owned();
        let uid = words.next()?.strip_prefix("uid=")?.to_owned();
        let mac = parse_mac(words.next()?.strip_prefix("mac=")?)?;
        Some(Self { interface_id, uid, mac })
    }
}

/// Lower-case colon form.
pub fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Six bytes in colon form.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_vpc_cni() {
        assert_eq!(pod_hash("kube-system", "coredns-57ff979f67-qqbdh"), "b5faff8a083");
        assert_eq!(pod_hash("kube-system", "coredns-57ff979f67-8ns9b"), "9571956a6cc");
        assert_eq!(host_interface("eni", "default", "sample-pod"), "enicc21c2d7785");
        assert_eq!((branch_interface(3).as_str(), table(120)), ("vlan.eth.3", 220));
    }

    #[test]
    fn an_alias_is_read_back_and_a_strangers_is_not_ours() {
        let alias = Alias { interface_id: "eni-1".into(), uid: "u".into(), mac: [2, 0, 0, 0, 0xab, 1] };
        assert_eq!(Alias::parse(&alias.write()), Some(alias));
        assert_eq!(Alias::parse("uplink to rack 4"), None);
        assert_eq!(Alias::parse("sgp eni=eni-1 uid=u mac=zz"), None);
    }
}
