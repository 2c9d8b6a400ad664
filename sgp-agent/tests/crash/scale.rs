//! AWS's own scale test (facts 7.1), in virtual time: a thousand pods at once on the nodes of one account, and all of these
//! nodes ending at once.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use sgp_agent::domain::branches::{BranchSettings, POD_UID_TAG};
use sgp_agent::domain::observed::NetworkInterface;
use sgp_agent::domain::orphans::{Census, Sightings, orphans};

use crate::burst::Pace;
use crate::mishaps::Mishaps;
use crate::sim::Sim;
use crate::{aws, tell};

const PODS: u32 = 1000;
/// Of 107 branches each.
const NODES: u32 = 18;
/// How far one node is ahead of the others, at most.
const APART: Duration = Duration::from_secs(1);
/// AWS's limit for its own controller.
const LIMIT: Duration = Duration::from_secs(330);
/// Time between two sweeps of the controller (`sgp-agent controller --sweep`).
const SWEEP_S: u64 = 60;

/// Nodes at rest, at the same time, before EC2 as it throttles one account.
fn nodes() -> Vec<Sim> {
    let settings = BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, ..BranchSettings::default() };
    let mut nodes: Vec<Sim> = (0..NODES).map(|_| Sim::new(settings.clone(), 107, Mishaps::default())).collect();
    let account = Rc::clone(&nodes[0].buckets);
    for node in &mut nodes {
        (node.pace, node.node_lags, node.buckets) = (Pace::Modelled, Duration::from_secs(2), Rc::clone(&account));
        node.run_to_rest().expect("it has its trunk");
    }
    let begun = nodes.iter().map(|node| node.now).max().expect("nodes");
    nodes.iter_mut().for_each(|node| node.run_until(begun).expect("it rests"));
    nodes
}

/// Runs all nodes side by side until so many pods have their annotation; gives how long that took.
fn run(nodes: &mut [Sim], pods: usize) -> Duration {
    let begun = nodes[0].now;
    let mut until = begun;
    while nodes.iter().map(|node| node.annotated.len()).sum::<usize>() < pods {
        until += APART;
        assert!(until - begun < LIMIT * 2, "{} s are not enough", LIMIT.as_secs() * 2);
        nodes.iter_mut().for_each(|node| node.run_until(until).expect("it goes on"));
    }
    nodes.iter().flat_map(|node| node.annotated.values()).max().copied().unwrap_or_default() - begun
}

#[test]
fn a_thousand_pods_at_once_and_the_end_of_all_their_nodes() {
    let mut nodes = nodes();
    for pod in 0..PODS {
        nodes[(pod % NODES) as usize].node.create(&format!("a-{pod}"));
    }
    let last = run(&mut nodes, PODS as usize);
    let throttled: usize = nodes.iter().map(|node| node.throttled).sum();
    let by_aws = aws::burst(PODS);
    tell(&format!(
        "{PODS} pods at once on {NODES} nodes of one account: {:.0} s ({throttled} calls throttled), AWS's algorithm {:.0} s ({} throttled)",
        last.as_secs_f64(),
        by_aws.last.as_secs_f64(),
        by_aws.throttled
    ));
    assert!(last < LIMIT, "{last:?}");
    swept(&nodes);
}

/// All instances end: their trunks go with them, and no branch is left after two minutes.
fn swept(nodes: &[Sim]) {
    let left = nodes.iter().enumerate().flat_map(|(number, node)| {
        let branches = node.ec2.interfaces().values().filter(|eni| eni.tags.contains_key(POD_UID_TAG));
        let alone = |eni: &NetworkInterface| NetworkInterface { status: "available".into(), ..eni.clone() };
        branches.map(move |eni| (format!("{}-{number}", eni.id), alone(eni)))
    });
    let mut census = Census { interfaces: left.collect::<BTreeMap<_, _>>(), ..Census::default() };
    for (id, eni) in &mut census.interfaces {
        eni.id.clone_from(id);
    }
    let before = census.interfaces.len();
    let (mut sightings, mut now_s) = (Sightings::default(), 0);
    while !census.interfaces.is_empty() && now_s < 3600 {
        now_s += SWEEP_S;
        for orphan in sightings.second(&orphans(&census, "prod"), now_s, SWEEP_S - 1) {
            census.interfaces.remove(&orphan.interface);
        }
    }
    tell(&format!("their nodes end: {before} branches are swept after {now_s} s"));
    assert!(before == PODS as usize && now_s <= 120, "{before} branches, {now_s} s");
}
