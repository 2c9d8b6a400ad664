//! What must be true of a node at rest, however it got there.

use std::collections::BTreeSet;

use sgp_agent::domain::branches::{OWNER, OWNER_TAG, POD_UID_TAG, VLAN_TAG};
use sgp_agent::domain::desired::Desired;
use sgp_agent::domain::groups::{EndpointId, GroupSet};
use sgp_agent::domain::observed::{CniNodeFacts, NetworkInterface, Pod};

use crate::sim::Sim;

type Check = Result<(), String>;

fn ensure(right: bool, wrong: impl FnOnce() -> String) -> Check {
    if right { Ok(()) } else { Err(wrong()) }
}

/// EC2, annotations, VLAN ids, links and maps agree, and nothing is left over; `pool`: free branches there are.
pub(crate) fn check(sim: &mut Sim, pool: usize) -> Check {
    let pods: Vec<Pod> = sim.node.live().cloned().collect();
    for pod in &pods {
        whole(sim, pod).map_err(|wrong| format!("{}: {wrong}", pod.name))?;
    }
    vlans(sim)?;
    nothing_over(sim, &pods, pool)?;
    kernel(sim, &pods)?;
    node(sim)
}

/// A pod has what its annotation says, and EC2 says the same.
fn whole(sim: &Sim, pod: &Pod) -> Check {
    let Some(Ok(branch)) = &pod.branch else { return Err("it has no annotation".into()) };
    let id = &branch.interface_id;
    let eni = sim.ec2.interfaces().get(id).ok_or_else(|| format!("{id} is not in EC2"))?;
    let at = sim.ec2.associations().get(id).ok_or_else(|| format!("{id} is not on the trunk"))?;
    let groups = GroupSet::of([format!("sg-{}", pod.namespace)]);
    ensure(eni.groups == groups, || format!("{id} has {}", eni.groups))?;
    ensure(eni.tags.get(POD_UID_TAG) == Some(&pod.uid), || format!("{id} is tagged {:?}", eni.tags))?;
    ensure(at.vlan_id == branch.vlan_id, || format!("VLAN {} and {}", at.vlan_id, branch.vlan_id))?;
    ensure(branch.association_id.as_ref() == Some(&at.id), || format!("association {:?}", branch.association_id))?;
    ensure(eni.addresses.iter().any(|addr| Some(*addr) == branch.private_ip.map(Into::into)), || "addresses".into())?;
    ensure(sim.node.wired().get(&pod.uid) == Some(&id), || "it is not wired".into())
}

fn vlans(sim: &Sim) -> Check {
    let mut seen = BTreeSet::new();
    for at in sim.ec2.associations().values() {
        ensure(seen.insert(at.vlan_id), || format!("VLAN {} twice", at.vlan_id))?;
        let tag = sim.ec2.interfaces().get(&at.branch_id).and_then(|eni| eni.tags.get(VLAN_TAG));
        ensure(tag == Some(&at.vlan_id.to_string()), || format!("{} is tagged {tag:?}", at.branch_id))?;
    }
    Ok(())
}

/// One trunk, one branch for each pod, and the pool.
fn nothing_over(sim: &Sim, pods: &[Pod], pool: usize) -> Check {
    let all = sim.ec2.interfaces().values();
    let ours: Vec<&NetworkInterface> =
        all.filter(|eni| eni.tags.get(OWNER_TAG).is_some_and(|owner| owner == OWNER)).collect();
    let (branches, trunks): (Vec<&NetworkInterface>, Vec<_>) =
        ours.into_iter().partition(|eni| eni.tags.contains_key(POD_UID_TAG));
    let tied = |eni: &&NetworkInterface| eni.attachment.as_ref().is_some_and(|at| at.delete_on_termination);
    ensure(trunks.len() == 1 && trunks.iter().all(tied), || format!("trunks {trunks:?}"))?;
    let holders: Vec<&str> = branches.iter().map(|eni| eni.tags[POD_UID_TAG].as_str()).collect();
    let free = holders.iter().filter(|uid| uid.is_empty()).count();
    ensure(free == pool, || format!("{free} free branches instead of {pool}"))?;
    ensure(branches.len() == pods.len() + pool, || format!("holders {holders:?}"))?;
    let clean = |eni: &&NetworkInterface| !eni.tags[POD_UID_TAG].is_empty() || eni.groups == GroupSet::of(["sg-node"]);
    ensure(branches.iter().all(clean), || "a free branch has a pod's groups".into())?;
    let on_trunk = branches.iter().all(|eni| sim.ec2.associations().contains_key(&eni.id));
    ensure(on_trunk, || "a branch is beside the trunk".into())
}

fn kernel(sim: &mut Sim, pods: &[Pod]) -> Check {
    let desired = Desired::from(&sim.observed());
    let lacks = sim.node.lacks(&desired);
    ensure(lacks.is_empty(), || format!("the kernel lacks {lacks:?}"))?;
    let enforced: BTreeSet<&EndpointId> = sim.node.installed.endpoints.keys().collect();
    let wired = sim.node.wired();
    ensure(wired.len() == pods.len() && enforced.len() == pods.len(), || {
        format!("{} pods, {} wired, {} enforced", pods.len(), wired.len(), enforced.len())
    })
}

fn node(sim: &Sim) -> Check {
    let node = sim.node.cluster.node.as_ref().ok_or("no node")?;
    let limit = sim.ec2.branch_limit.to_string();
    ensure(node.branch_capacity == Some(limit), || format!("capacity {:?}", node.branch_capacity))?;
    ensure(node.labels.contains_key("vpc.amazonaws.com/has-trunk-attached"), || "no label".into())?;
    ensure(matches!(sim.node.cluster.cni_node, CniNodeFacts::There(_)), || "no CNINode".into())
}
