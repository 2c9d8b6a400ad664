//! Plan: the ordered steps from what is installed to what is desired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use sgp_common::Addr;
use sgp_common::endpoint::{Interface, Side, settings};
use sgp_common::limits::STACK_NETS_MAX;
use sgp_common::pins::program;
use sgp_common::trunk::NOTHING;

use super::desired::{Desired, EndpointPlan, Policy};
use super::enforcement::Early;
use super::groups::{EndpointId, GroupSetId};
use super::installed::{Installed, Link};
use super::leaving::NodePlan;
use super::prefix::Prefix;

/// One change of the kernel's state. Steps are idempotent, and safe to stop after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Forget a peer that left, before its address can be a stranger's.
    RemovePeer(Addr),
    /// Build the trie and swap it in; its rule names first.
    PutPolicy(GroupSetId, Arc<Policy>),
    /// Publish a peer's group set.
    PutPeer(Addr, GroupSetId),
    /// Have flows that do not outlive their rule judged again by this group set's policy.
    PutRevision(GroupSetId, u64),
    /// Write an endpoint, its names and its local addresses.
    PutEndpoint(EndpointId, Box<EndpointPlan>),
    /// Write what is known of the primary interface, and what is not translated.
    PutNode(Box<NodePlan>),
    /// Have first packets to these destinations take the host stack.
    PutStackNet(Prefix),
    /// Say that an interface is a side of an endpoint.
    PutInterface(u32, Interface),
    /// Attach a program and pin the link.
    Attach(Link),
    /// Say whose frames on the trunk have a VLAN id.
    PutVlan(u16, u32),
    /// Attach the trunk's program in one of these ways, and pin the link.
    AttachEarly(Link, Early),
    /// Put this layout's programs in the place of an older layout's, behind its links, and forget the rest of it.
    TakeOver(u32),
    /// Remove a link's pin, and with it the link.
    Detach(Link),
    /// Forget that they do.
    RemoveStackNet(Prefix),
    /// Forget an interface.
    RemoveInterface(u32),
    /// Forget an endpoint, its names, local addresses, flows and counters.
    RemoveEndpoint(EndpointId),
    /// Forget a policy no endpoint uses, and its revision.
    RemovePolicy(GroupSetId),
}

/// The steps that lead from `installed` to `desired`; none where it is all right already.
///
/// The order is what makes every prefix of the plan safe:
/// 1. peers that left: the one case in which being late allows too much, since their address may be a stranger's;
/// 2. policies, then peers: a peer is never published before the policies that know its group set, and one that
///    changes it is written over, so that it is a member of the old or of the new one and never of none. Then
///    revisions, so that what is judged again for one is judged by all of the new;
/// 3. the node's own way out, before endpoints that take it: until then what they send out of the VPC drops;
/// 4. programs, then endpoints, then interfaces: a program on an interface of no endpoint drops
///    (`UnknownEndpoint`), an endpoint without policy drops (`NoPolicy`);
/// 5. where programs of an older layout still judge, ours in their place: not before all that ours ask is there;
/// 6. what the trunk's program goes by, after the endpoints that it asks of; then itself, last, since nothing rests on it;
/// 7. removals, in reverse. A program is only taken off an interface that is gone, or that belongs to no pod
///    any more.
pub fn plan(desired: &Desired, installed: &Installed) -> Vec<Step> {
    let mut steps = Vec::new();
    if !desired.keep.everything {
        remove_peers(desired, installed, &mut steps);
    }
    put_policies(desired, installed, &mut steps);
    put_peers(desired, installed, &mut steps);
    if !desired.keep.everything {
        put_revisions(desired, installed, &mut steps);
    }
    put_node(desired, installed, &mut steps);
    put_stack_nets(desired, installed, &mut steps);
    put_endpoints(desired, installed, &mut steps);
    put_vlans(desired, installed, &mut steps);
    if !desired.keep.everything {
        steps.extend(installed.predecessor.map(Step::TakeOver));
        remove_stack_nets(desired, installed, &mut steps);
        remove_endpoints(desired, installed, &mut steps);
        remove_policies(desired, installed, &mut steps);
    }
    attach_early(desired, installed, &mut steps);
    steps
}

fn remove_peers(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    steps.extend(installed.peers.diff(&desired.peers).filter_map(|item| match item {
        DiffItem::Remove(addr, _) => Some(Step::RemovePeer(*addr)),
        _ => None,
    }));
}

fn put_policies(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let changed = desired.policies.iter().filter(|(id, policy)| installed.policies.get(id) != Some(&policy.digest));
    steps.extend(changed.map(|(id, policy)| Step::PutPolicy(*id, Arc::clone(policy))));
}

fn put_peers(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    steps.extend(installed.peers.diff(&desired.peers).filter_map(|item| match item {
        DiffItem::Add(addr, set) | DiffItem::Update { new: (addr, set), .. } => Some(Step::PutPeer(*addr, *set)),
        DiffItem::Remove(..) => None,
    }));
}

fn put_revisions(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let mut digests: BTreeMap<GroupSetId, u64> = kept_policies(desired, installed)
        .into_iter()
        .filter_map(|id| Some((id, *installed.policies.get(&id)?)))
        .collect();
    digests.extend(desired.policies.iter().map(|(id, policy)| (*id, policy.digest)));
    let wanted = digests.into_iter().map(|(id, digest)| (id, digest ^ desired.members));
    let changed = wanted.filter(|(id, revision)| installed.revisions.get(id) != Some(revision));
    steps.extend(changed.map(|(id, revision)| Step::PutRevision(id, revision)));
}

fn put_node(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let Some(plan) = &desired.node else { return };
    steps.extend(Some(primary_link(plan)).filter(|link| !installed.has(link)).map(Step::Attach));
    let same = installed.node == Some(plan.node)
        && installed.excluded == plan.excluded
        && installed.endpoints.get(&plan.id) == Some(&plan.endpoint);
    if !same {
        steps.push(Step::PutNode(Box::new(plan.clone())));
    }
}

fn primary_link(plan: &NodePlan) -> Link {
    Link { interface: plan.interface.clone(), ifindex: plan.node.ifindex, program: program::FROM_PRIMARY }
}

/// Before endpoints whose first packets go straight. Where old and new ones have no room together, the old ones go first: nobody
/// sends to most of them any more.
fn put_stack_nets(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let (wanted, known) = (&desired.stack_nets, &installed.stack_nets);
    if wanted.union(known).count() > STACK_NETS_MAX as usize {
        remove_stack_nets(desired, installed, steps);
    }
    steps.extend(wanted.difference(known).map(|net| Step::PutStackNet(*net)));
}

/// Not while an endpoint of which too little is known goes by them.
fn remove_stack_nets(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let mut kept = desired.keep.endpoints.iter().filter_map(|id| installed.endpoints.get(id));
    if kept.all(|endpoint| endpoint.settings & settings::STRAIGHT == 0) {
        let stale = installed.stack_nets.difference(&desired.stack_nets);
        steps.extend(stale.map(|net| Step::RemoveStackNet(*net)));
    }
}

fn put_endpoints(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    for (id, plan) in &desired.endpoints {
        let missing = links_of(plan).into_iter().filter(|link| !installed.has(link));
        steps.extend(missing.map(Step::Attach));
        let same = installed.endpoints.get(id) == Some(&plan.endpoint) && installed.names.get(id) == Some(&plan.name);
        if !same || !local_is_right(*id, plan, installed) {
            steps.push(Step::PutEndpoint(*id, Box::new(plan.clone())));
        }
        let wanted = interfaces_of(*id, plan);
        let changed = wanted.into_iter().filter(|(index, value)| installed.interfaces.get(index) != Some(value));
        steps.extend(changed.map(|(index, value)| Step::PutInterface(index, value)));
    }
}

fn put_vlans(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let Some(plan) = &desired.early else { return };
    let gone = installed.vlans.keys().filter(|id| !plan.vlans.contains_key(id)).map(|id| (*id, NOTHING));
    let changed = plan.vlans.iter().filter(|(id, told)| installed.vlans.get(id) != Some(told));
    steps.extend(gone.chain(changed.map(|(id, told)| (*id, *told))).map(|(id, told)| Step::PutVlan(id, told)));
}

fn attach_early(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let missing = desired.early.iter().filter(|plan| !installed.has(&plan.link));
    steps.extend(missing.map(|plan| Step::AttachEarly(plan.link.clone(), plan.how)));
}

fn local_is_right(id: EndpointId, plan: &EndpointPlan, installed: &Installed) -> bool {
    let known = installed.local.iter().filter(|(_, owner)| **owner == id).map(|(addr, _)| addr);
    known.eq(&plan.addresses)
}

fn remove_endpoints(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let primary = desired.node.iter().map(primary_link);
    let early = desired.early.iter().map(|plan| plan.link.clone());
    let links: BTreeSet<Link> = desired.endpoints.values().flat_map(links_of).chain(primary).chain(early).collect();
    let placed: BTreeSet<(u32, &str)> = links.iter().map(|link| (link.ifindex, link.program)).collect();
    let named: BTreeSet<(&str, &str)> = links.iter().map(|link| (link.interface.as_str(), link.program)).collect();
    let wanted: BTreeMap<u32, Interface> =
        desired.endpoints.iter().flat_map(|(id, plan)| interfaces_of(*id, plan)).collect();
    // Replies to what is still translated come by it, whatever is known of it now.
    let leads_out = |index: &u32| installed.node.is_some_and(|node| node.ifindex == *index && desired.node.is_none());
    let kept = |index: &u32| {
        let owner = installed.interfaces.get(index).map(|interface| EndpointId(interface.endpoint));
        leads_out(index) || owner.is_some_and(|id| desired.keep.endpoints.contains(&id))
    };
    // A link of the same name was replaced by Attach; its old pin is gone with that.
    let stale = installed.links.iter().filter(|link| !named.contains(&(link.interface.as_str(), link.program)));
    let stale = stale.filter(|link| !placed.contains(&(link.ifindex, link.program)));
    steps.extend(stale.filter(|link| !kept(&link.ifindex)).cloned().map(Step::Detach));
    let stale = installed.interfaces.keys().filter(|index| !wanted.contains_key(index) && !kept(index));
    steps.extend(stale.map(|index| Step::RemoveInterface(*index)));
    let known: BTreeSet<EndpointId> =
        installed.endpoints.keys().chain(installed.names.keys()).chain(installed.local.values()).copied().collect();
    let node = desired.node.as_ref().map(|plan| plan.id).or(installed.node.map(|node| EndpointId(node.endpoint)));
    let wanted = |id: &EndpointId| desired.endpoints.contains_key(id) || node == Some(*id);
    let stale = known.difference(&desired.keep.endpoints).filter(|id| !wanted(id));
    steps.extend(stale.map(|id| Step::RemoveEndpoint(*id)));
}

fn remove_policies(desired: &Desired, installed: &Installed, steps: &mut Vec<Step>) {
    let kept = kept_policies(desired, installed);
    let known: BTreeSet<&GroupSetId> = installed.policies.keys().chain(installed.revisions.keys()).collect();
    let stale = known.into_iter().filter(|id| !desired.policies.contains_key(id) && !kept.contains(id));
    steps.extend(stale.map(|id| Step::RemovePolicy(*id)));
}

/// What stays as it is installed.
fn kept_policies(desired: &Desired, installed: &Installed) -> BTreeSet<GroupSetId> {
    let endpoints = desired.keep.endpoints.iter().filter_map(|id| installed.endpoints.get(id));
    let mut kept: BTreeSet<GroupSetId> = endpoints.map(|endpoint| GroupSetId(endpoint.group_set)).collect();
    kept.extend(&desired.keep.policies);
    if let (None, Some(node)) = (&desired.node, &installed.node) {
        let endpoint = installed.endpoints.get(&EndpointId(node.endpoint));
        kept.extend(endpoint.map(|endpoint| GroupSetId(endpoint.group_set)));
    }
    kept
}

/// The four programs of an endpoint.
pub fn links_of(plan: &EndpointPlan) -> Vec<Link> {
    let on = |interface: &String, ifindex: u32, program| Link { interface: interface.clone(), ifindex, program };
    let (host, branch) = (plan.endpoint.host_ifindex, plan.endpoint.branch_ifindex);
    vec![
        on(&plan.host_interface, host, program::FROM_POD),
        on(&plan.host_interface, host, program::TO_POD),
        on(&plan.branch_interface, branch, program::FROM_BRANCH),
        on(&plan.branch_interface, branch, program::TO_BRANCH),
    ]
}

fn interfaces_of(id: EndpointId, plan: &EndpointPlan) -> [(u32, Interface); 2] {
    let side = |side| Interface { endpoint: id.0, side, reserved: [0; 7] };
    [(plan.endpoint.host_ifindex, side(Side::Pod)), (plan.endpoint.branch_ifindex, side(Side::Branch))]
}

#[cfg(test)]
mod tests;
