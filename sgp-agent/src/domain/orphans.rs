//! Orphans: interfaces of ours that nobody looks after any more. A node's agent looks after what carries its
//! instance's tag; these are what is left where the node, its trunk, the pod or the whole cluster is gone.
//!
//! Nothing in use is an orphan, and nothing without our owner tag and the cluster's. What looks lost may only be
//! on its way, so it goes at the second sighting.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::NetworkInterface;
use super::tags::{INSTANCE_TAG, OWNER, OWNER_TAG, POD_TAG, POD_UID_TAG, TRUNK_TAG, cluster_tag, holder};

/// What is alive, and what may not be.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Interfaces with our owner tag, by id.
    pub interfaces: BTreeMap<String, NetworkInterface>,
    /// Branches that are on some trunk.
    pub associated: BTreeSet<String>,
    /// Instances of the cluster's Nodes.
    pub instances: BTreeSet<String>,
    /// UIDs of all pods that have not ended.
    pub pods: BTreeSet<String>,
}

/// Why an interface is an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its instance is no node of the cluster.
    NoNode,
    /// The trunk it was made for is gone, and its pod too.
    NoTrunk,
    /// No pod has it, and it is not on the trunk.
    NoPod,
}

/// An interface that nobody looks after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// `eni-…`
    pub interface: String,
    /// Why.
    pub why: Why,
    /// `i-…` it was made for.
    pub instance: String,
    /// `namespace/name` of the pod that had it last, or empty.
    pub pod: String,
}

impl Why {
    /// For people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NoNode => "its instance is no node of the cluster",
            Self::NoTrunk => "its trunk is gone, and no pod has it",
            Self::NoPod => "no pod has it, and it is on no trunk",
        }
    }
}

/// The orphans of a cluster, by interface.
pub fn orphans(census: &Census, cluster_name: &str) -> Vec<Orphan> {
    let ours = |eni: &&NetworkInterface| {
        let owner = eni.tags.get(OWNER_TAG).is_some_and(|owner| owner == OWNER);
        owner && eni.tags.get(&cluster_tag(cluster_name)).is_some_and(|value| value == "owned")
    };
    census.interfaces.values().filter(ours).filter_map(|eni| orphan(eni, census)).collect()
}

fn orphan(eni: &NetworkInterface, census: &Census) -> Option<Orphan> {
    let in_use = eni.attachment.is_some() || census.associated.contains(&eni.id) || eni.status == "in-use";
    if in_use {
        return None;
    }
    let text = |key: &str| eni.tags.get(key).cloned().unwrap_or_default();
    let (instance, pod) = (text(INSTANCE_TAG), text(POD_TAG));
    let why = why(eni, &instance, census)?;
    Some(Orphan { interface: eni.id.clone(), why, instance, pod })
}

fn why(eni: &NetworkInterface, instance: &str, census: &Census) -> Option<Why> {
    if !census.instances.contains(instance) {
        return Some(Why::NoNode);
    }
    // A trunk that waits for its slot, and the branch of a pod that lives, are the agent's of that node.
    let is_branch = eni.tags.contains_key(POD_UID_TAG);
    if !is_branch || holder(eni).is_some_and(|uid| census.pods.contains(uid)) {
        return None;
    }
    let trunk = eni.tags.get(TRUNK_TAG);
    let trunk_lives = trunk.is_some_and(|id| census.interfaces.contains_key(id));
    Some(if trunk_lives { Why::NoPod } else { Why::NoTrunk })
}

/// What was seen when; kept between sweeps by whoever sweeps.
#[derive(Clone, Debug, Default)]
pub struct Sightings(BTreeMap<String, (Why, u64)>);

impl Sightings {
    /// Notes what is an orphan now (`now_s`, any clock), and gives those that were already, for the same reason,
    /// at least `apart_s` seconds ago. One that was none in between begins anew.
    pub fn second(&mut self, seen: &[Orphan], now_s: u64, apart_s: u64) -> Vec<Orphan> {
        let now: BTreeMap<&String, Why> = seen.iter().map(|orphan| (&orphan.interface, orphan.why)).collect();
        self.0.retain(|id, (why, _)| now.get(id) == Some(why));
        let mut again = Vec::new();
        for orphan in seen {
            let (_, since) = *self.0.entry(orphan.interface.clone()).or_insert((orphan.why, now_s));
            if now_s > since && now_s >= since + apart_s {
                again.push(orphan.clone());
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::observed::Attachment;
    use crate::domain::tags::common;

    fn branch(instance: &str, uid: &str) -> NetworkInterface {
        let mut tags = common("prod", instance);
        tags.insert(POD_UID_TAG.into(), uid.into());
        tags.insert(TRUNK_TAG.into(), "eni-trunk".into());
        NetworkInterface { id: "eni-1".into(), tags, status: "available".into(), ..NetworkInterface::default() }
    }

    fn census(eni: NetworkInterface) -> Census {
        let trunk = NetworkInterface { id: "eni-trunk".into(), ..NetworkInterface::default() };
        Census {
            interfaces: [(eni.id.clone(), eni), ("eni-trunk".into(), trunk)].into(),
            instances: ["i-1".to_owned()].into(),
            pods: ["u-1".to_owned()].into(),
            ..Census::default()
        }
    }

    fn whys(census: &Census) -> Vec<Why> {
        orphans(census, "prod").into_iter().map(|orphan| orphan.why).collect()
    }

    #[test]
    fn what_has_lost_its_node_its_trunk_or_its_pod_is_an_orphan() {
        assert_eq!(whys(&census(branch("i-1", "u-1"))), []);
        assert_eq!(whys(&census(branch("i-gone", "u-1"))), [Why::NoNode]);
        assert_eq!(whys(&census(branch("i-1", "u-gone"))), [Why::NoPod]);
        assert_eq!(whys(&census(branch("i-1", ""))), [Why::NoPod]);
        let mut trunkless = census(branch("i-1", "u-gone"));
        trunkless.interfaces.remove("eni-trunk");
        assert_eq!(whys(&trunkless), [Why::NoTrunk]);
    }

    #[test]
    fn nothing_in_use_and_nothing_of_another_owner_or_cluster_is_an_orphan() {
        let attached = NetworkInterface { attachment: Some(Attachment::default()), ..branch("i-gone", "") };
        assert_eq!(whys(&census(attached)), []);
        let mut associated = census(branch("i-gone", ""));
        associated.associated.insert("eni-1".into());
        assert_eq!(whys(&associated), []);
        for (key, value) in [(OWNER_TAG.to_owned(), "amazon-vpc-cni"), (cluster_tag("prod"), "shared")] {
            let mut other = branch("i-gone", "");
            other.tags.insert(key, value.into());
            assert_eq!(whys(&census(other)), []);
        }
    }

    #[test]
    fn an_orphan_goes_at_the_second_sighting_and_not_if_it_was_seen_alive_in_between() {
        let lost = orphans(&census(branch("i-gone", "")), "prod");
        let mut sightings = Sightings::default();
        assert_eq!(sightings.second(&lost, 0, 60), []);
        assert_eq!(sightings.second(&lost, 59, 60), []);
        assert_eq!(sightings.second(&lost, 60, 60), lost);
        assert_eq!(sightings.second(&[], 61, 60), []);
        assert_eq!(sightings.second(&lost, 200, 60), []);
    }
}
