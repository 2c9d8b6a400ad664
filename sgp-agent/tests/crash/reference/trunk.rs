//! The trunk, and what the node says of it.

use std::collections::BTreeSet;
use std::time::Duration;

use sgp_agent::domain::branches::{BranchSettings, CloudPlan, CloudStep, Memory, OWNER_TAG, cloud_plan};
use sgp_agent::domain::failure::Failure;
use sgp_agent::domain::observed::{CniNodeFacts, Observed};

use super::{Case, case};
use crate::ec2::INSTANCE;
use crate::mishaps::{Effect, Fault, Mishaps, Scope};
use crate::sim::Sim;

const TRUNK: &str = "trunk_test";
const API: &str = "ec2/api/helper_test";
const INSTANCE_TEST: &str = "instance_test";

pub(super) const CASES: [Case; 24] = [
    case(TRUNK, "InitTrunk: absent", "CreateTrunk", || plan(|_| {})),
    case(TRUNK, "InitTrunk: describe fails", "nothing", || plan(|observed| observed.cloud = None)),
    case(INSTANCE_TEST, "the highest free device index of four", "attached at 3", || {
        let sim = made(|_| {});
        format!("attached at {}", index(&sim).unwrap_or_default())
    }),
    case(INSTANCE_TEST, "none is free", "refused: no free device index found", || {
        refused(|observed| cloud(observed).instance.device_indexes = (0..4).collect())
    }),
    case(INSTANCE_TEST, "an unknown type", "Unsupported: not supported yet", || {
        notice(|observed| (cloud(observed).instance.known_type, cloud(observed).instance.branch_limit) = (false, 0))
    }),
    case(
        "provider_test",
        "a type without trunk: told, capacity not advertised",
        "Unsupported: not supported for trunk",
        || notice(|observed| cloud(observed).instance.branch_limit = 0),
    ),
    case(TRUNK, "InitTrunk: one of ours is not attached (ours: attached, AWS: error)", "AttachTrunk", || {
        let mut sim = half_made();
        planned(&mut sim, |_| {})
    }),
    case(TRUNK, "InitTrunk: one on its way is waited for", "nothing", || {
        let mut sim = half_made();
        planned(&mut sim, |observed| {
            let trunk = cloud(observed).interfaces.values_mut().find(|eni| eni.interface_type == "trunk");
            trunk.expect("the trunk").attachment = Some(Default::default());
        })
    }),
    case(TRUNK, "InitTrunk: nil interface type (AWS: error; ours: it is waited for)", "nothing", || {
        planned(&mut made(|_| {}), |observed| {
            cloud(observed).interfaces.values_mut().for_each(|eni| eni.interface_type.clear());
        })
    }),
    case("provider_test", "trunk missing: the pod waits for it", "CreateTrunk, then 1 branch", || {
        let mut sim = Sim::new(settings(), 18, Mishaps::default());
        sim.node.create("a-1");
        let first = planned(&mut sim, |_| {});
        sim.run_to_rest().expect("it rests");
        format!("{first}, then {} branch", sim.ec2.associations().len())
    }),
    case(API, "attach fails once", "one trunk, attached and tied", || faulty("AttachNetworkInterface", 0)),
    case(API, "attach fails for minutes: nothing is left beside it", "one trunk, attached and tied", || {
        faulty("AttachNetworkInterface", 180)
    }),
    case(API, "delete-on-termination fails once", "one trunk, attached and tied", || {
        faulty("ModifyNetworkInterfaceAttribute", 0)
    }),
    case(API, "rollback: the slot is taken before it is attached", "Delete", || {
        let mut sim = half_made();
        planned(&mut sim, |observed| cloud(observed).instance.device_indexes = (0..4).collect())
    }),
    case(API, "create with tags", "owner, cluster and instance", || {
        let sim = made(|_| {});
        let tags = &trunk(&sim).expect("a trunk").tags;
        let right = tags.get(OWNER_TAG).map(String::as_str) == Some("sgp-agent")
            && tags.get("kubernetes.io/cluster/prod").map(String::as_str) == Some("owned")
            && tags.get("node.k8s.amazonaws.com/instance_id").map(String::as_str) == Some(INSTANCE);
        if right { "owner, cluster and instance".into() } else { format!("{tags:?}") }
    }),
    case(API, "trunk adds permission: another account is permitted with the attachment", "Permit AttachTrunk", || {
        planned_with(&mut half_made(), permitting(), |_| {})
    }),
    case(API, "another account is permitted before a branch is associated", "Permit", || {
        let mut sim = made(|settings| settings.trunk_account = Some("111122223333".into()));
        sim.node.create("a-1");
        let created = |sim: &Sim| sim.ec2.interfaces().len() == 3;
        while !created(&sim) {
            let next = sim.now + Duration::from_millis(100);
            sim.run_until(next).expect("it goes on");
        }
        let asked = sim.asked.iter().any(|(_, step)| matches!(step, CloudStep::Associate { .. }));
        if asked { "associated first".into() } else { planned_with(&mut sim, permitting(), |_| {}) }
    }),
    case("provider_test", "capacity is advertised once the trunk stands", "18", || {
        made(|_| {}).node.cluster.node.and_then(|node| node.branch_capacity).unwrap_or_default()
    }),
    case("provider_test", "NodeTrunkInitiated", "label true", || {
        let node = made(|_| {}).node.cluster.node.expect("the node");
        format!("label {}", node.labels["vpc.amazonaws.com/has-trunk-attached"])
    }),
    case("integration/cninode", "the CNINode follows the node", "SecurityGroupsForPods", || features(&made(|_| {}))),
    case("integration/cninode", "deleted by hand, it is made again", "SecurityGroupsForPods", || {
        let mut sim = made(|_| {});
        sim.node.cluster.cni_node = CniNodeFacts::Missing;
        sim.run_to_rest().expect("it rests");
        features(&sim)
    }),
    case("integration/cninode", "tags taken away are restored", "WriteCniNode", || {
        let mut sim = made(|_| {});
        if let CniNodeFacts::There(cni_node) = &mut sim.node.cluster.cni_node {
            cni_node.tags.clear();
        }
        planned(&mut sim, |_| {})
    }),
    case("node_test", "ENIConfig by label, and it is missing", "EniConfigNameNotFound", || {
        notice(|observed| {
            let node = observed.cluster.as_mut().expect("a cluster").node.as_mut().expect("the node");
            node.labels.insert("vpc.amazonaws.com/eniConfig".into(), "zone-a".into());
        })
    }),
    case("manager_test", "EKS Auto Mode: left alone", "Unsupported", || {
        notice(|observed| {
            let node = observed.cluster.as_mut().expect("a cluster").node.as_mut().expect("the node");
            node.labels.insert("eks.amazonaws.com/compute-type".into(), "auto".into());
        })
    }),
];

fn settings() -> BranchSettings {
    BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, ..BranchSettings::default() }
}

fn permitting() -> BranchSettings {
    BranchSettings { trunk_account: Some("111122223333".into()), ..settings() }
}

/// A node at rest, its trunk made.
fn made(change: fn(&mut BranchSettings)) -> Sim {
    let mut settings = settings();
    change(&mut settings);
    let mut sim = Sim::new(settings, 18, Mishaps::default());
    sim.run_to_rest().expect("it rests");
    sim
}

/// A node whose trunk is created and not attached.
fn half_made() -> Sim {
    let mut sim = Sim::new(settings(), 18, Mishaps::default());
    while trunk(&sim).is_none() {
        let next = sim.now + Duration::from_millis(10);
        sim.run_until(next).expect("it goes on");
    }
    sim
}

fn cloud(observed: &mut Observed) -> &mut sgp_agent::domain::observed::CloudFacts {
    observed.cloud.as_mut().expect("a cloud")
}

fn plan_of(sim: &mut Sim, settings: &BranchSettings, change: fn(&mut Observed)) -> CloudPlan {
    let mut observed = sim.observed();
    change(&mut observed);
    cloud_plan(&observed, &BTreeSet::new(), settings, &Memory::default(), 0)
}

/// Names of the planned steps.
pub(super) fn names(plan: &CloudPlan) -> String {
    let name = |step: &CloudStep| format!("{step:?}").split([' ', '{']).next().unwrap_or_default().to_owned();
    let names: Vec<String> = plan.steps.iter().map(name).collect();
    if names.is_empty() { "nothing".into() } else { names.join(" ") }
}

fn planned_with(sim: &mut Sim, settings: BranchSettings, change: fn(&mut Observed)) -> String {
    names(&plan_of(sim, &settings, change))
}

fn planned(sim: &mut Sim, change: fn(&mut Observed)) -> String {
    planned_with(sim, settings(), change)
}

/// On a node without a trunk.
fn plan(change: fn(&mut Observed)) -> String {
    planned(&mut Sim::new(settings(), 18, Mishaps::default()), change)
}

fn refused(change: fn(&mut Observed)) -> String {
    let mut sim = Sim::new(settings(), 18, Mishaps::default());
    sim.node.create("a-1");
    let plan = plan_of(&mut sim, &settings(), change);
    let reason = plan.refused.first().map_or("nothing", |refusal| refusal.reason.as_str());
    format!("refused: {}", reason.split(" on ").next().unwrap_or_default())
}

/// Reason of the notice, and the words of its message that tell.
fn notice(change: fn(&mut Observed)) -> String {
    let plan = plan_of(&mut Sim::new(settings(), 18, Mishaps::default()), &settings(), change);
    let Some(notice) = plan.notices.first() else { return "no notice".into() };
    let told = ["not supported yet", "not supported for trunk"].iter().find(|words| notice.message.contains(*words));
    told.map_or(notice.reason.to_owned(), |words| format!("{}: {words}", notice.reason))
}

fn trunk(sim: &Sim) -> Option<&sgp_agent::domain::observed::NetworkInterface> {
    sim.ec2.interfaces().values().find(|eni| eni.interface_type == "trunk")
}

fn index(sim: &Sim) -> Option<u32> {
    Some(trunk(sim)?.attachment.as_ref()?.device_index)
}

fn features(sim: &Sim) -> String {
    match &sim.node.cluster.cni_node {
        CniNodeFacts::There(cni_node) => cni_node.features.keys().cloned().collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

/// A kind of call fails from its first time on, for so many seconds; what stands in the end.
fn faulty(action: &str, lasting_s: u64) -> String {
    let undisturbed = made(|_| {});
    let from = undisturbed.asked.iter().position(|(_, step)| step.action() == Some(action)).expect("the call");
    let failure = Failure::of("InternalError", 500, "as documented");
    let lasting = Duration::from_secs(lasting_s);
    let fault = Some(Fault { from, scope: Scope::Kind, lasting, failure, effect: Effect::None });
    let mut sim = Sim::new(settings(), 18, Mishaps { fault, ..Mishaps::default() });
    sim.run_to_rest().expect("it rests");
    let ours: Vec<_> = sim.ec2.interfaces().values().filter(|eni| eni.tags.contains_key(OWNER_TAG)).collect();
    match ours[..] {
        [one] if one.attachment.as_ref().is_some_and(|at| at.delete_on_termination) => {
            "one trunk, attached and tied".into()
        }
        _ => format!("{ours:?}"),
    }
}
