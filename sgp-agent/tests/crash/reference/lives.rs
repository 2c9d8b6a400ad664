//! Pods and their branches, from creation to the end of the cool-down.

use std::time::Duration;

use sgp_agent::domain::branches::POD_UID_TAG;
use sgp_agent::domain::observed::{NetworkInterface, SecurityGroupPolicy};
use sgp_agent::domain::orphans::{Census, Sightings, orphans};

use super::branches::{branches, creations, node, rest, with};
use super::{Case, case};

const COOLDOWN: &str = "cooldown_test";
const PERPODSG: &str = "perpodsg_test";
const JOB: &str = "job_test";
/// What no test of AWS's covers (facts 7.4).
const OWN: &str = "facts 7.4";

pub(super) const CASES: [Case; 17] = [
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
    case(OWN, "the policy is edited between admission and creation", "sg-b", || {
        edited(|policy| policy.group_ids = vec!["sg-b".into()])
    }),
    case(OWN, "the policy is gone by then: the node's groups", "sg-node", || edited(|policy| policy.group_ids.clear())),
    case("node_test", "a node ends: its branches are orphans, and go at the second look", "0 then 2 of 2", || {
        let sim = with(&["a-1", "b-1"]);
        let of_branch = |eni: &&NetworkInterface| eni.tags.contains_key(POD_UID_TAG);
        let left = sim.ec2.interfaces().values().filter(of_branch).cloned();
        let left = left.map(|eni| (eni.id.clone(), NetworkInterface { status: "available".into(), ..eni }));
        let seen = orphans(&Census { interfaces: left.collect(), ..Census::default() }, "prod");
        let mut sightings = Sightings::default();
        let (first, second) = (sightings.second(&seen, 60, 59), sightings.second(&seen, 120, 59));
        format!("{} then {} of {}", first.len(), second.len(), seen.len())
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

/// Groups of a pod whose policy changes after it was admitted.
fn edited(change: fn(&mut SecurityGroupPolicy)) -> String {
    let mut sim = node();
    sim.node.create("a-1");
    sim.node.cluster.pods.values_mut().for_each(|pod| pod.requested = 1);
    sim.node.wider = true;
    sim.node.cluster.policies.iter_mut().filter(|policy| policy.name == "a").for_each(change);
    rest(&mut sim);
    branches(&sim).first().map_or("none".into(), |eni| eni.groups.to_string())
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
