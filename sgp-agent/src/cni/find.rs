//! What of a pod's wiring stands, told by the interfaces, routes and rules themselves: DEL needs no agent and no
//! memory, and finds both modes' layouts, whoever made them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Result;
use sgp_common::addr::Family;

use super::config::Call;
use crate::domain::observed::LinkFacts;
use crate::domain::teardown::{Marks, Share};
use crate::domain::wiring::{Alias, STRICT_PREFIX, pod_hash};
use crate::io::netlink::{HostRoute, Netlink};

/// Of whom something was found.
pub(super) enum Found {
    /// Of the pod of this call.
    Ours(Ours),
    /// Only of another pod with the same name, which must not be touched.
    Successors,
    /// Of nobody: the pod is gone already, or the delegate's.
    Nothing,
}

/// What stands of a pod.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// `eni-…`, where a host veth still says it.
    pub(super) interface_id: Option<String>,
    /// Its host veths: one, or one of each mode where an earlier teardown was cut off.
    pub(super) hosts: BTreeSet<String>,
    /// Addresses that routes lead to by them.
    pub(super) routed: BTreeSet<IpAddr>,
    /// Rules and branches.
    pub(super) share: Share,
}

/// Whose wiring is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uid {
    /// Only that of the pod with the call's UID.
    Same,
    /// That of any pod of the call's name.
    Any,
}

/// The links that bear the name of the call's pod.
#[derive(Default)]
struct Named {
    own: Vec<(LinkFacts, Option<Alias>)>,
    others: BTreeSet<String>,
}

/// Looks at the node's interfaces, routes and rules.
pub(super) async fn find(call: &Call, uid: Uid) -> Result<Found> {
    let Some(pod) = &call.pod else { return Ok(Found::Nothing) };
    let netlink = Netlink::connect()?;
    let hash = pod_hash(&pod.namespace, &pod.name);
    let (mut routes, mut rules) = (Vec::new(), Vec::new());
    for family in [Family::V4, Family::V6] {
        routes.extend(netlink.host_routes(family).await?);
        rules.extend(netlink.rules(family).await?);
    }
    let named = sort(call, uid, &hash, netlink.links().await?, &routes);
    let own: BTreeSet<u32> = named.own.iter().map(|(link, _)| link.index).collect();
    let routed: BTreeSet<IpAddr> =
        routes.iter().filter(|route| own.contains(&route.device)).map(|route| route.to).collect();
    let marks = Marks { hosts: hosts(&named, &hash), addresses: addresses(call, &routed, &routes) };
    let share = Share::of(&marks, &rules);
    if named.own.is_empty() && share == Share::default() {
        return Ok(if named.others.is_empty() { Found::Nothing } else { Found::Successors });
    }
    Ok(Found::Ours(Ours {
        interface_id: named.own.iter().find_map(|(_, alias)| Some(alias.as_ref()?.interface_id.clone())),
        hosts: named.own.into_iter().map(|(link, _)| link.name).collect(),
        routed,
        share,
    }))
}

/// A host veth is the call's pod's if its alias says so. One without alias was wired by the VPC CNI, or is just
/// being made for a successor; what the result of ADD says decides.
fn sort(call: &Call, uid: Uid, hash: &str, links: Vec<LinkFacts>, routes: &[HostRoute]) -> Named {
    let mut named = Named::default();
    let results = call.addresses();
    for link in links.into_iter().filter(|link| is_named(&link.name, hash)) {
        let alias = link.alias.as_deref().and_then(Alias::parse);
        let wanted = call.pod.as_ref().map(|pod| pod.uid.as_str()).unwrap_or_default();
        let is_own = match &alias {
            Some(alias) => uid == Uid::Any || wanted.is_empty() || alias.uid == wanted,
            None => routes.iter().any(|route| route.device == link.index && results.contains(&route.to)),
        };
        if is_own {
            named.own.push((link, alias));
        } else {
            named.others.insert(link.name);
        }
    }
    named
}

/// At most four characters, then the hash; `sgp` and the hash is the pod's own end on its way.
fn is_named(name: &str, hash: &str) -> bool {
    name.strip_suffix(hash).is_some_and(|prefix| (1..=4).contains(&prefix.len()) && prefix != super::wiring::PASSING)
}

/// Names that rules may still bear although the veth is gone; never another pod's that stands.
fn hosts(named: &Named, hash: &str) -> BTreeSet<String> {
    let strict = format!("{STRICT_PREFIX}{hash}");
    let own = named.own.iter().map(|(link, _)| link.name.clone());
    own.chain([strict]).filter(|name| !named.others.contains(name)).collect()
}

/// Those that its routes lead to, and those of the result of ADD that nobody else has by now.
fn addresses(call: &Call, routed: &BTreeSet<IpAddr>, routes: &[HostRoute]) -> BTreeSet<IpAddr> {
    let free = |address: &IpAddr| !routes.iter().any(|route| route.to == *address);
    routed.iter().copied().chain(call.addresses().into_iter().filter(free)).collect()
}
