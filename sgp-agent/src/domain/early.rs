//! What becomes of frames on the trunk before an skb exists.

use std::collections::BTreeMap;

use sgp_common::pins::program;
use sgp_common::trunk::{OTHERS, REFUSED, UNTOLD};

use super::desired::{EndpointPlan, Refusal};
use super::enforcement::{Early, Enforcement, Untold};
use super::installed::Link;
use super::observed::{CloudFacts, LinkFacts};
use super::wiring::parse_mac;

/// The program on the trunk, and what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlyPlan {
    /// Where it belongs.
    pub link: Link,
    /// How it is attached.
    pub how: Early,
    /// `VLANS`: what is told of each id.
    pub vlans: BTreeMap<u16, u32>,
}

/// The plan, if it is wanted and the trunk is there.
///
/// # Errors
/// Where somebody else's program is on the trunk: the kernel has room for one, and theirs was first.
pub(super) fn plan<'a>(
    cloud: &CloudFacts,
    links: &[LinkFacts],
    enforcement: &Enforcement,
    endpoints: impl Iterator<Item = &'a EndpointPlan>,
) -> Result<Option<EarlyPlan>, Refusal> {
    let Some(trunk) = trunk(cloud, links).filter(|_| enforcement.early != Early::Off) else { return Ok(None) };
    if let Some(id) = trunk.others_xdp {
        return Err(Refusal {
            object: format!("trunk {}", trunk.name),
            reason: format!(
                "an XDP program of somebody else's (id {id}) is attached to it, so frames are judged by tc alone, and as well: take that off, or \
                 start the agent with --xdp off"
            ),
        });
    }
    let link = Link { interface: trunk.name.clone(), ifindex: trunk.index, program: program::FROM_TRUNK };
    Ok(Some(EarlyPlan { link, how: enforcement.early, vlans: told(trunk, links, enforcement.untold, endpoints) }))
}

/// VLAN interfaces have the trunk's MAC address too, unless they are given another.
fn trunk<'a>(cloud: &CloudFacts, links: &'a [LinkFacts]) -> Option<&'a LinkFacts> {
    let mac = parse_mac(&cloud.trunk()?.mac)?;
    links.iter().find(|link| link.mac == mac && link.vlan.is_none())
}

/// An interface that is no endpoint's may be one that is being wired, or a stranger's: its frames pass.
fn told<'a>(
    trunk: &LinkFacts,
    links: &[LinkFacts],
    untold: Untold,
    endpoints: impl Iterator<Item = &'a EndpointPlan>,
) -> BTreeMap<u16, u32> {
    let on_trunk = links.iter().filter_map(|link| link.vlan).filter(|vlan| vlan.parent == trunk.index);
    let mut vlans: BTreeMap<u16, u32> = on_trunk.map(|vlan| (vlan.id, OTHERS)).collect();
    vlans.extend(endpoints.map(|plan| (plan.endpoint.vlan_id, plan.endpoint.branch_ifindex)));
    vlans.remove(&UNTOLD);
    if untold == Untold::Drops {
        vlans.insert(UNTOLD, REFUSED);
    }
    vlans
}

#[cfg(test)]
mod tests {
    use super::super::observed::Vlan;
    use super::*;

    #[test]
    fn ids_of_strangers_pass_and_ids_of_nobody_drop_only_where_nobody_else_makes_branches() {
        let vlan = |parent, id| LinkFacts { vlan: Some(Vlan { parent, id }), ..LinkFacts::default() };
        let trunk = LinkFacts { index: 7, ..LinkFacts::default() };
        let links = [trunk.clone(), vlan(7, 40), vlan(8, 41), vlan(7, 0)];
        let of = |untold| told(&trunk, &links, untold, std::iter::empty());
        assert_eq!(of(Untold::Passes), [(40, OTHERS)].into());
        assert_eq!(of(Untold::Drops), [(UNTOLD, REFUSED), (40, OTHERS)].into());
    }
}
