//! What of a pod's wiring stands, told by the interfaces and routes themselves: DEL needs no agent and no memory.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::RuleAttribute;

use super::config::Call;
use crate::domain::wiring::{Alias, FROM_POD_PRIORITY, TABLE_BASE, host_interface};
use crate::io::netlink::Netlink;

/// Of whom something was found.
pub(super) enum Found {
    /// Of the pod of this call.
    Ours(Ours),
    /// Of another pod with the same name, which must not be touched.
    Successors,
    /// Of nobody: the pod is gone already, or the delegate's.
    Nothing,
}

/// What stands of a pod.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// `eni-…`, where the host veth still says it.
    pub(super) interface_id: Option<String>,
    /// Name of the host veth; it may be gone.
    pub(super) host_interface: String,
    /// Whether it is there.
    pub(super) host_stands: bool,
    /// Addresses that are the pod's, and nobody else's by now.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Those that a route leads to.
    pub(super) routed: BTreeSet<IpAddr>,
    /// VLAN ids of its branch tables.
    pub(super) vlan_ids: BTreeSet<u16>,
}

/// Whose wiring is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uid {
    /// Only that of the pod with the call's UID.
    Same,
    /// That of any pod of the call's name.
    Any,
}

/// Looks at the node's interfaces, routes and rules.
pub(super) async fn find(call: &Call, uid: Uid) -> Result<Found> {
    let Some(pod) = &call.pod else { return Ok(Found::Nothing) };
    let netlink = Netlink::connect()?;
    let name = host_interface(&call.config.veth_prefix, &pod.namespace, &pod.name);
    let link = netlink.link(&name).await?;
    let alias = link.as_ref().and_then(|link| Alias::parse(link.alias.as_deref()?));
    if uid == Uid::Same && alias.as_ref().is_some_and(|alias| !pod.uid.is_empty() && alias.uid != pod.uid) {
        return Ok(Found::Successors);
    }
    let mut ours = Ours { host_interface: name, ..Ours::default() };
    for version in [IpVersion::V4, IpVersion::V6] {
        let routes = netlink.routes(version.clone()).await?;
        let family = call.addresses().into_iter().filter(|addr| addr.is_ipv4() == matches!(version, IpVersion::V4));
        ours.addresses.extend(family.filter(|addr| !routes.iter().any(|route| leads_to(route, *addr))));
        if let (Some(link), Some(_)) = (&link, &alias) {
            ours.routed.extend(routes.iter().filter(|route| goes_out(route, link.index)).filter_map(host_address));
            ours.addresses.extend(&ours.routed);
        }
        for rule in netlink.rules(version, FROM_POD_PRIORITY).await? {
            ours.vlan_ids.extend(vlan_of(&rule.attributes, &ours.addresses));
        }
    }
    ours.host_stands = alias.is_some();
    ours.interface_id = alias.map(|alias| alias.interface_id);
    let nothing = !ours.host_stands && ours.vlan_ids.is_empty();
    Ok(if nothing { Found::Nothing } else { Found::Ours(ours) })
}

/// A host route to this address: somebody has it now.
fn leads_to(route: &RouteMessage, addr: IpAddr) -> bool {
    host_address(route) == Some(addr)
        && route.header.table == rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN
}

fn goes_out(route: &RouteMessage, device: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(device)) && host_address(route).is_some()
}

fn host_address(route: &RouteMessage) -> Option<IpAddr> {
    let addr = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        RouteAttribute::Destination(RouteAddress::Inet6(addr)) if !addr.is_unicast_link_local() => {
            Some(IpAddr::V6(*addr))
        }
        _ => None,
    })?;
    let full = if addr.is_ipv4() { 32 } else { 128 };
    (route.header.destination_prefix_length == full && !addr.is_multicast()).then_some(addr)
}

fn vlan_of(rule: &[RuleAttribute], addresses: &BTreeSet<IpAddr>) -> Option<u16> {
    let from = rule.iter().find_map(|one| if let RuleAttribute::Source(addr) = one { Some(*addr) } else { None })?;
    let table = rule.iter().find_map(|one| if let RuleAttribute::Table(table) = one { Some(*table) } else { None })?;
    let vlan = u16::try_from(table.checked_sub(TABLE_BASE)?).ok()?;
    (addresses.contains(&from) && crate::domain::branches::VLAN_IDS.contains(&vlan)).then_some(vlan)
}
