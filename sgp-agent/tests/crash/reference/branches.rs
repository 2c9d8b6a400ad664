//! Branches, from their pod's creation to their deletion.

use std::time::Duration;

use sgp_agent::domain::branches::{BranchSettings, CloudStep, POD_UID_TAG, VLAN_TAG};
use sgp_agent::domain::failure::Failure;
use sgp_agent::domain::observed::NetworkInterface;

use super::{Case, case};
use crate::sim::{Effect, Fault, Mishaps, Scope, Sim};

const TRUNK: &str = "trunk_test";
const PROVIDER: &str = "provider_test";
const COOLDOWN: &str = "cooldown_test";
const PERPODSG: &str = "perpodsg_test";
const JOB: &str = "job_test";

pub(super) const CASES: [Case; 28] = [
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
    case(COOLDOWN, "ConfigMap says 90: at 61 s and at 93 s", "1 then 0", || cooled(Some("90"), 61, 93)),
    case(COOLDOWN, "ConfigMap is absent: the agent's 60", "1 then 0", || cooled(None, 58, 63)),
    case(COOLDOWN, "ConfigMap says nonsense: the agent's 60", "1 then 0", || cooled(Some("soon"), 58, 63)),
    case(COOLDOWN, "ConfigMap says 5: never below 30", "1 then 0", || cooled(Some("5"), 28, 33)),
    case(PERPODSG, "ten replicas: groups of the policy, address of the branch", "10 right", || {
        let sim = with(&["a-1", "a-2", "a-3", "a-4", "a-5", "a-6", "a-7", "a-8", "a-9", "a-10"]);
        let right = branches(&sim).iter().filter(|eni| eni.groups.to_string() == "sg-a").count();
        format!("{right} right")
    }),
    case(PERPODSG, "gone within twice the cool-down", "0 branches", || {
        let mut sim = with(&["a-1", "b-1"]);
        sim.node.delete("a-1");
        sim.node.delete("b-1");
        let end = sim.now + Duration::from_secs(120);
        sim.run_until(end).expect("120 s");
        format!("{} branches", branches(&sim).len())
    }),
    case(PERPODSG, "a policy gets another group: new pods only", "sg-a then sg-a,sg-b", || {
        let mut sim = with(&["a-1"]);
        let policy = sim.node.cluster.policies.iter_mut().find(|policy| policy.name == "a").expect("the policy");
        policy.group_ids.push("sg-b".into());
        rest(&mut sim);
        let old = branches(&sim)[0].groups.to_string();
        sim.node.wider = true;
        sim.node.create("a-2");
        rest(&mut sim);
        format!("{old} then {}", branches(&sim).iter().map(|eni| eni.groups.to_string()).max().unwrap_or_default())
    }),
    case(PERPODSG, "a pod no policy matches", "no annotation", || {
        let sim = with(&["c-1"]);
        if sim.node.live().all(|pod| pod.branch.is_none()) { "no annotation".into() } else { "annotated".into() }
    }),
    case(PERPODSG, "created while the agent is down", "1 creation, 1 branch", || {
        let mut sim = node();
        sim.node.create("a-1");
        sim.restart();
        rest(&mut sim);
        creations(&sim)
    }),
    case(
        JOB,
        "a completed job loses its branch, a running one keeps it, across a restart",
        "b-1 keeps 1 branch",
        || {
            let mut sim = with(&["a-1", "b-1"]);
            sim.node.end("a-1");
            sim.restart();
            rest(&mut sim);
            let left: Vec<String> = branches(&sim).iter().map(|eni| eni.groups.to_string()).collect();
            if left == ["sg-b"] { "b-1 keeps 1 branch".into() } else { format!("{left:?}") }
        },
    ),
    case(JOB, "deleted while the agent is down", "0 branches", || {
        let mut sim = with(&["a-1"]);
        sim.node.delete("a-1");
        sim.restart();
        rest(&mut sim);
        format!("{} branches", branches(&sim).len())
    }),
    case("client_wrapper_test", "the same name with another UID is another pod", "another branch", || {
        let mut sim = with(&["a-1"]);
        let first = branches(&sim)[0].tags[POD_UID_TAG].clone();
        sim.node.delete("a-1");
        sim.node.create("a-1");
        let soon = sim.now + Duration::from_secs(10);
        sim.run_until(soon).expect("10 s");
        let two = branches(&sim).len() == 2 && sim.node.live().all(|pod| pod.uid != first && pod.branch.is_some());
        if two { "another branch".into() } else { "the same branch".into() }
    }),
    case(
        "worker_test",
        "NotFound: asked again (AWS: not requeued)",
        "1 branch after 10 minutes without the group",
        || {
            let mut sim = node();
            sim.node.cluster.policies[0].group_ids = vec!["sg-gone".into()];
            sim.node.create("a-1");
            let later = sim.now + Duration::from_secs(600);
            sim.run_until(later).expect("10 minutes");
            let waited = branches(&sim).len();
            sim.node.cluster.policies[0].group_ids = vec!["sg-a".into()];
            rest(&mut sim);
            format!("{} branch after 10 minutes without the group", branches(&sim).len() - waited)
        },
    ),
    case("integration/ec2api", "a free branch of another owner is neither used nor deleted", "left as it was", || {
        let mut sim = node();
        let stranger = sim.ec2.stranger(sim.now);
        sim.node.create("a-1");
        rest(&mut sim);
        sim.node.delete("a-1");
        rest(&mut sim);
        if sim.ec2.interfaces().get(&stranger.id) == Some(&stranger) {
            "left as it was".into()
        } else {
            "touched".into()
        }
    }),
];

fn settings() -> BranchSettings {
    BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, ..BranchSettings::default() }
}

/// A node with its trunk.
fn node() -> Sim {
    let mut sim = Sim::new(settings(), 18, Mishaps::default());
    rest(&mut sim);
    sim
}

fn rest(sim: &mut Sim) {
    sim.run_to_rest().expect("it rests");
}

fn with(pods: &[&str]) -> Sim {
    let mut sim = node();
    pods.iter().for_each(|pod| sim.node.create(pod));
    rest(&mut sim);
    sim
}

fn branches(sim: &Sim) -> Vec<&NetworkInterface> {
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

fn creations(sim: &Sim) -> String {
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

/// Branches left so many seconds after their pod ended, with this in the ConfigMap.
fn cooled(written: Option<&str>, before_s: u64, after_s: u64) -> String {
    let mut sim = with(&["a-1"]);
    sim.node.cluster.cooldown = written.map(str::to_owned);
    sim.node.cooldown = Duration::from_secs(before_s);
    sim.node.delete("a-1");
    let deleted = sim.now;
    sim.run_until(deleted + Duration::from_secs(before_s)).expect("it goes on");
    let before = branches(&sim).len();
    sim.run_until(deleted + Duration::from_secs(after_s)).expect("it goes on");
    format!("{before} then {}", branches(&sim).len())
}
