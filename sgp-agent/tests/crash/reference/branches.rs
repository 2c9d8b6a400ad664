//! Branches, call by call.

use std::collections::BTreeSet;
use std::time::Duration;

use sgp_agent::domain::branches::{BranchSettings, CloudStep, Memory, POD_UID_TAG, VLAN_TAG, cloud_plan};
use sgp_agent::domain::failure::Failure;
use sgp_agent::domain::observed::{NetworkInterface, Observed, Pod};

use super::trunk::names;
use super::{Case, case};
use crate::mishaps::{Effect, Fault, Mishaps, Scope};
use crate::sim::Sim;

const TRUNK: &str = "trunk_test";
const PROVIDER: &str = "provider_test";

pub(super) const CASES: [Case; 19] = [
    case(TRUNK, "CreateAndAssociate: two pods", "VLANs 1 2", || format!("VLANs {}", vlans(&with(&["a-1", "a-2"])))),
    case(TRUNK, "VLAN ids: the lowest free one", "VLANs 1 3 then 1 2 3", || {
        let mut sim = with(&["a-1", "a-2", "a-3"]);
        let second =
            sim.node.live().find(|pod| pod.branch.as_ref().is_some_and(|b| b.as_ref().is_ok_and(|b| b.vlan_id == 2)));
        let second = second.expect("VLAN 2").name.clone();
        sim.node.delete(&second);
        rest(&mut sim);
        let before = vlans(&sim);
        sim.node.create("b-4");
        rest(&mut sim);
        format!("VLANs {before} then {}", vlans(&sim))
    }),
    case(TRUNK, "InitTrunk: a trunk with branches: their VLANs are taken", "VLANs 1 2 3", || {
        let mut sim = with(&["a-1", "a-2"]);
        sim.restart();
        sim.node.create("b-3");
        rest(&mut sim);
        format!("VLANs {}", vlans(&sim))
    }),
    case(TRUNK, "VLAN ids: all 120 are taken", "the 121st waits, and has VLAN 7 once that is free", || {
        let mut sim = Sim::new(settings(), 200, Mishaps::default());
        (0..121).for_each(|number| sim.node.create(&format!("a-{number}")));
        let soon = sim.now + Duration::from_secs(300);
        sim.run_until(soon).expect("it goes on");
        let vlan_of = |pod: &Pod| pod.branch.as_ref().and_then(|branch| Some(branch.as_ref().ok()?.vlan_id));
        let waits: Vec<String> =
            sim.node.live().filter(|pod| pod.branch.is_none()).map(|pod| pod.name.clone()).collect();
        let seventh = sim.node.live().find(|pod| vlan_of(pod) == Some(7)).map(|pod| pod.name.clone());
        let told = sim.refused.len() == 1 && sim.refused.values().all(|reason| reason.contains("it waits"));
        sim.node.delete(&seventh.expect("VLAN 7"));
        rest(&mut sim);
        match (&waits[..], told) {
            ([last], true) => {
                let vlan_id = sim.node.live().find(|pod| pod.name == *last).and_then(vlan_of);
                format!("the 121st waits, and has VLAN {} once that is free", vlan_id.unwrap_or_default())
            }
            _ => format!("{waits:?} wait, {:?}", sim.refused),
        }
    }),
    case(TRUNK, "deleteENI: missing association skips disassociate", "Delete", || {
        surplus(|observed| {
            let associations = &mut observed.cloud.as_mut().expect("a cloud").associations;
            associations.values_mut().for_each(|at| at.id.clear());
        })
    }),
    case(TRUNK, "DeleteCooledDown: no timestamp", "Disassociate", || surplus(|_| {})),
    case(TRUNK, "DeleteCooledDown: off the trunk already", "Delete", || {
        surplus(|observed| observed.cloud.as_mut().expect("a cloud").associations.clear())
    }),
    case(TRUNK, "empty groups: the instance's", "sg-node", || {
        let mut sim = node();
        sim.node.cluster.policies.clear();
        sim.node.create("c-1");
        sim.node.cluster.pods.values_mut().for_each(|pod| pod.requested = 1);
        groups_of_first(&mut sim)
    }),
    case(
        TRUNK,
        "associate fails: the same branch again, nothing left (AWS: deleted and made anew)",
        "1 creation, 1 branch",
        || failing("AssociateTrunkInterface", 0),
    ),
    case(TRUNK, "associate fails for minutes", "1 creation, 1 branch", || failing("AssociateTrunkInterface", 180)),
    case(TRUNK, "create fails", "2 creations, 1 branch", || failing("CreateNetworkInterface", 0)),
    case(TRUNK, "Reconcile: a branch whose pod is unknown", "resting, then gone", || {
        let mut sim = with(&["a-1"]);
        sim.node.delete("a-1");
        let soon = sim.now + Duration::from_secs(30);
        sim.run_until(soon).expect("30 s");
        let resting = sim.ec2.associations().len();
        rest(&mut sim);
        if resting == 1 && branches(&sim).is_empty() {
            "resting, then gone".into()
        } else {
            format!("{resting} rested")
        }
    }),
    case(TRUNK, "Reconcile: nothing changed", "no call", || {
        let mut sim = with(&["a-1"]);
        let asked = sim.asked.len();
        rest(&mut sim);
        if sim.asked.len() == asked { "no call".into() } else { format!("{:?}", &sim.asked[asked..]) }
    }),
    case(TRUNK, "DeleteCooledDown: 59 s after its pod, 62 s after", "1 then 0", || {
        let mut sim = with(&["a-1"]);
        sim.node.delete("a-1");
        let deleted = sim.now;
        sim.run_until(deleted + Duration::from_secs(59)).expect("59 s");
        let before = branches(&sim).len();
        sim.run_until(deleted + Duration::from_secs(62)).expect("62 s");
        format!("{before} then {}", branches(&sim).len())
    }),
    case(
        TRUNK,
        "deleteENI fails: tried until it works (AWS: dropped after three, VLAN id lost)",
        "no branch, VLAN 1 free",
        || deleting("DeleteNetworkInterface"),
    ),
    case(TRUNK, "disassociate fails: tried until it works", "no branch, VLAN 1 free", || {
        deleting("DisassociateTrunkInterface")
    }),
    case(PROVIDER, "annotate: success", "ResourceAllocated", || {
        let sim = with(&["a-1"]);
        if sim.node.live().all(|pod| matches!(pod.branch, Some(Ok(_)))) {
            "ResourceAllocated".into()
        } else {
            "none".into()
        }
    }),
    case(PROVIDER, "already annotated", "no call", || {
        let mut sim = with(&["a-1"]);
        let asked = sim.asked.len();
        rest(&mut sim);
        format!("{} call", if sim.asked.len() == asked { "no" } else { "a" })
    }),
    case(
        PROVIDER,
        "annotate fails (AWS: to the front of the delete queue; ours: tried again)",
        "1 creation, 1 branch",
        || {
            let mut sim = broken(|step| matches!(step, CloudStep::Annotate { .. }), 60);
            sim.node.create("a-1");
            rest(&mut sim);
            creations(&sim)
        },
    ),
];

/// What is planned for a branch that is nobody's, and more than are kept.
fn surplus(change: fn(&mut Observed)) -> String {
    let mut sim = with(&["a-1"]);
    let mut observed = sim.observed();
    observed.cluster.as_mut().expect("a cluster").pods.clear();
    observed.links.as_mut().expect("links").clear();
    let interfaces = &mut observed.cloud.as_mut().expect("a cloud").interfaces;
    for tag in interfaces.values_mut().filter_map(|eni| eni.tags.get_mut(POD_UID_TAG)) {
        tag.clear();
    }
    change(&mut observed);
    names(&cloud_plan(&observed, &BTreeSet::new(), &settings(), &Memory::default(), 0))
}

fn settings() -> BranchSettings {
    BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, ..BranchSettings::default() }
}

/// A node with its trunk.
pub(super) fn node() -> Sim {
    let mut sim = Sim::new(settings(), 18, Mishaps::default());
    rest(&mut sim);
    sim
}

pub(super) fn rest(sim: &mut Sim) {
    sim.run_to_rest().expect("it rests");
}

pub(super) fn with(pods: &[&str]) -> Sim {
    let mut sim = node();
    pods.iter().for_each(|pod| sim.node.create(pod));
    rest(&mut sim);
    sim
}

pub(super) fn branches(sim: &Sim) -> Vec<&NetworkInterface> {
    sim.ec2.interfaces().values().filter(|eni| eni.tags.contains_key(POD_UID_TAG) && eni.id != "eni-stranger").collect()
}

fn vlans(sim: &Sim) -> String {
    let mut ids: Vec<&str> = branches(sim).iter().map(|eni| eni.tags[VLAN_TAG].as_str()).collect();
    ids.sort_unstable();
    ids.join(" ")
}

fn groups_of_first(sim: &mut Sim) -> String {
    sim.node.wider = true;
    rest(sim);
    branches(sim).first().map_or("none".into(), |eni| eni.groups.to_string())
}

pub(super) fn creations(sim: &Sim) -> String {
    let created = sim.asked.iter().filter(|(_, step)| matches!(step, CloudStep::CreateBranch { .. })).count();
    let pods = sim.node.live().filter(|pod| pod.branch.is_some()).count();
    assert_eq!(pods, branches(sim).len(), "as many branches as pods");
    format!("{created} creation{}, {pods} branch", if created == 1 { "" } else { "s" })
}

/// A node on which the first call of a kind that a pod needs fails, for so many seconds.
fn broken(is: fn(&CloudStep) -> bool, lasting_s: u64) -> Sim {
    let mut undisturbed = with(&["a-1"]);
    undisturbed.node.delete("a-1");
    rest(&mut undisturbed);
    let from = undisturbed.asked.iter().position(|(_, step)| is(step)).expect("the call");
    let failure = Failure::of("InternalError", 500, "as documented");
    let lasting = Duration::from_secs(lasting_s);
    let fault = Some(Fault { from, scope: Scope::Kind, lasting, failure, effect: Effect::None });
    let mut sim = Sim::new(settings(), 18, Mishaps { fault, ..Mishaps::default() });
    rest(&mut sim);
    sim
}

fn failing(action: &'static str, lasting_s: u64) -> String {
    let is: fn(&CloudStep) -> bool = match action {
        "AssociateTrunkInterface" => |step| matches!(step, CloudStep::Associate { .. }),
        _ => |step| matches!(step, CloudStep::CreateBranch { .. }),
    };
    let mut sim = broken(is, lasting_s);
    sim.node.create("a-1");
    rest(&mut sim);
    creations(&sim)
}

fn deleting(action: &'static str) -> String {
    let is: fn(&CloudStep) -> bool = match action {
        "DeleteNetworkInterface" => |step| matches!(step, CloudStep::Delete { .. }),
        _ => |step| matches!(step, CloudStep::Disassociate { .. }),
    };
    let mut sim = broken(is, 180);
    sim.node.create("a-1");
    rest(&mut sim);
    sim.node.delete("a-1");
    rest(&mut sim);
    let left = branches(&sim).len();
    sim.node.create("b-1");
    rest(&mut sim);
    format!("{} branch, VLAN {} free", if left == 0 { "no" } else { "a" }, vlans(&sim))
}
