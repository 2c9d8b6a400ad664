//! The pool: branches that no pod has. A warm one is claimed by the next pod; one whose pod ended rests for the
//! cool-down and is then as good as a warm one; what is more than wanted leaves the trunk and goes.

use std::collections::{BTreeMap, BTreeSet};

use super::branches::{Carrier, groups_wanted};
use super::branches::{CloudStep, Planner, Purpose, Severity, has_addresses_of};
use super::groups::GroupSet;
use super::observed::{CloudFacts, NetworkInterface, Pod};
use super::site::Site;
use super::tags::{POD_UID_TAG, holder, our_branches};

/// The pool never takes the last addresses of a subnet.
const LEAVES_ADDRESSES: u32 = 8;
/// A cool-down in the ConfigMap is never shorter (facts 1.8), in seconds.
const COOLDOWN_MIN_S: i64 = 30;

/// Our branches, by what they are good for.
pub(super) struct Stock<'a> {
    /// By pod UID.
    pub(super) claimed: BTreeMap<String, &'a NetworkInterface>,
    /// Nobody's, and fit for the next pod; those on the trunk first.
    free: Vec<&'a NetworkInterface>,
    /// Nobody's, and of no use here: another subnet, another trunk, another address family.
    useless: Vec<&'a NetworkInterface>,
    /// Whether a pod waits for room.
    pub(super) wanted: bool,
}

impl<'a> Stock<'a> {
    /// Takes a free branch for a pod: the one it is being claimed for, else one with its groups already, else
    /// any that is not being claimed for another.
    pub(super) fn take(
        &mut self,
        pod: &Pod,
        groups: &GroupSet,
        underway: &[CloudStep],
        cloud: &CloudFacts,
    ) -> Option<&'a NetworkInterface> {
        let claims: BTreeMap<&String, &str> = underway.iter().filter_map(claim).collect();
        let on_trunk = |eni: &NetworkInterface| cloud.associations.contains_key(&eni.id);
        let rank = |eni: &&NetworkInterface| match claims.get(&eni.id) {
            Some(uid) if *uid == pod.uid => Some(0),
            Some(_) => None,
            None if on_trunk(eni) && eni.groups == *groups => Some(1),
            None if on_trunk(eni) => Some(2),
            None => Some(3),
        };
        let ranked = self.free.iter().enumerate().filter_map(|(at, eni)| Some((rank(eni)?, at)));
        let (_, best) = ranked.min()?;
        Some(self.free.remove(best))
    }
}

/// Which branch a running step claims, and for which pod.
fn claim(step: &CloudStep) -> Option<(&String, &str)> {
    let CloudStep::Tag { branch, tags, .. } = step else { return None };
    tags.get(POD_UID_TAG).map(|uid| (branch, uid.as_str()))
}

impl<'a> Planner<'a> {
    /// Sorts our branches. One whose pod is gone and whose wiring is gone too rests first.
    pub(super) fn stock(&mut self, site: &Site, trunk: &str) -> Stock<'a> {
        let mut stock = Stock { claimed: self.claims(), free: Vec::new(), useless: Vec::new(), wanted: false };
        let claimed: BTreeSet<&String> = stock.claimed.values().map(|eni| &eni.id).collect();
        let cloud = self.cloud;
        let others: Vec<&'a NetworkInterface> = our_branches(cloud).filter(|eni| !claimed.contains(&eni.id)).collect();
        for branch in others {
            if self.held.contains(&branch.id) || !self.rested(branch) {
                continue;
            }
            let elsewhere = cloud.associations.get(&branch.id).is_some_and(|at| at.trunk_id != trunk);
            let fit = branch.subnet_id == site.subnet.id && has_addresses_of(site, branch) && !elsewhere;
            let shelf = if fit { &mut stock.free } else { &mut stock.useless };
            shelf.push(branch);
        }
        stock.free.sort_by_key(|eni| (!cloud.associations.contains_key(&eni.id), &eni.id));
        stock
    }

    /// The branch of each live pod. Where two are tagged with one pod, the annotated one is the pod's, then the
    /// one on the trunk; a pod that shall have none any more, and was not told of one, has none.
    fn claims(&self) -> BTreeMap<String, &'a NetworkInterface> {
        let mut claims: BTreeMap<String, &'a NetworkInterface> = BTreeMap::new();
        let rank = |pod: &Pod, eni: &NetworkInterface| {
            let annotated = matches!(&pod.branch, Some(Ok(branch)) if branch.interface_id == eni.id);
            (annotated, self.cloud.associations.contains_key(&eni.id))
        };
        for eni in our_branches(self.cloud) {
            let Some(pod) = holder(eni).and_then(|uid| self.cluster.pods.get(uid)) else { continue };
            let wants = groups_wanted(pod, self.cluster, &self.cloud.instance.primary_groups).is_some();
            if pod.ended || pod.branch.is_none() && !wants {
                continue;
            }
            let better = claims.get(&pod.uid).is_none_or(|known| rank(pod, eni) > rank(pod, known));
            if better {
                claims.insert(pod.uid.clone(), eni);
            }
        }
        claims
    }

    /// Whether a branch without a pod is cool. One that is nobody's by its tags has rested already, and so has
    /// the second one of a pod, which was never used.
    fn rested(&mut self, branch: &NetworkInterface) -> bool {
        let lives = |uid: &str| self.cluster.pods.get(uid).is_some_and(|pod| !pod.ended);
        if holder(branch).is_none_or(lives) {
            return true;
        }
        let since = self.memory.ended_s.get(&branch.id).copied().unwrap_or(self.now_s);
        self.plan.resting.insert(branch.id.clone());
        let due = since + self.cooldown_s();
        if self.now_s < due {
            self.look_in(due - self.now_s);
        }
        self.now_s >= due
    }

    /// Seconds a branch rests: what the ConfigMap says, where it says a number.
    fn cooldown_s(&self) -> u64 {
        self.cooldown_written().unwrap_or(self.settings.cooldown_s)
    }

    fn cooldown_written(&self) -> Option<u64> {
        let written = self.cluster.cooldown.as_ref()?.trim().parse::<i64>().ok()?;
        Some(written.max(COOLDOWN_MIN_S).unsigned_abs())
    }

    /// AWS's words (facts 1.7), on every node, whenever the ConfigMap gets another number.
    pub(super) fn say_cooldown(&mut self) {
        if let Some(seconds) = self.cooldown_written() {
            let message = format!("Branch ENI cool down period has been updated to {}", go_duration(seconds));
            self.say_of_node(Severity::Normal, "BranchENICoolDownPeriodUpdated", message);
        }
    }

    /// Keeps as many free branches as wanted: makes what lacks, frees what rested, lets go of the rest.
    pub(super) fn keep_stock(&mut self, mut carrier: Carrier<'_>) {
        let free = std::mem::take(&mut carrier.stock.free);
        let in_use = carrier.used.saturating_sub(free.len() + self.pool_coming());
        let target = self.pool_target(in_use);
        // While a pod waits for room that only other branches can give, none is kept for its own sake.
        let (kept, surplus) = free.split_at(free.len().min(target));
        let mut gone: Vec<CloudStep> =
            surplus.iter().chain(&carrier.stock.useless).map(|eni| self.let_go(eni)).collect();
        if carrier.stock.wanted {
            self.plan.steps.append(&mut gone);
        }
        for branch in kept {
            self.tag(branch, None, Purpose::Pool, &mut carrier);
            // With its last pod's groups it would stand in the way of whoever deletes them.
            if branch.groups != carrier.site.groups {
                let (branch, groups) = (branch.id.clone(), carrier.site.groups.clone());
                self.plan.steps.push(CloudStep::SetGroups { purpose: Purpose::Pool, branch, groups });
            }
            if !self.cloud.associations.contains_key(&branch.id) {
                self.associate(branch, Purpose::Pool, &mut carrier);
            }
        }
        self.fill(target.saturating_sub(kept.len()), &mut carrier);
        self.plan.steps.append(&mut gone);
    }

    /// Nobody asks for a branch where no policy is: then none is kept.
    fn pool_target(&self, in_use: usize) -> usize {
        if self.cluster.policies.is_empty() {
            return 0;
        }
        (self.settings.warm as usize).max((self.settings.minimum as usize).saturating_sub(in_use))
    }

    fn pool_coming(&self) -> usize {
        self.memory.underway.iter().filter(|step| makes_for_pool(step)).count()
    }

    fn fill(&mut self, lacking: usize, carrier: &mut Carrier<'_>) {
        let limit = self.cloud.instance.branch_limit as usize;
        let addresses = carrier.site.subnet.free_addresses;
        let enough = addresses.is_none_or(|free| free as usize > lacking + LEAVES_ADDRESSES as usize);
        let missing = if enough { lacking.saturating_sub(self.pool_coming()) } else { 0 };
        for _ in 0..missing {
            if carrier.used >= limit {
                return;
            }
            let Some(vlan_id) = carrier.vlans.take() else { return };
            carrier.used += 1;
            let step = self.new_branch(None, carrier.site.groups.clone(), vlan_id, carrier);
            self.plan.steps.push(step);
        }
    }

    fn let_go(&self, branch: &NetworkInterface) -> CloudStep {
        match self.cloud.associations.get(&branch.id) {
            // Where EC2 does not tell associations to this role, deleting ends them, as AWS's controller does.
            Some(association) if !association.id.is_empty() => {
                CloudStep::Disassociate { branch: branch.id.clone(), association: association.id.clone() }
            }
            _ => CloudStep::Delete { interface: branch.id.clone() },
        }
    }
}

/// As Go writes a duration: `1m30s`.
fn go_duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

fn makes_for_pool(step: &CloudStep) -> bool {
    matches!(step, CloudStep::CreateBranch { purpose: Purpose::Pool, .. })
}
