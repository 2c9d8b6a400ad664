//! VLAN ids of the trunk: lowest free first; what a branch has on the trunk is its own, whatever tags say.

use std::collections::{BTreeMap, BTreeSet};

use super::cloud_steps::CloudStep;
use super::observed::{CloudFacts, NetworkInterface};
use super::tags::{INSTANCE_TAG, VLAN_IDS, VLAN_TAG, our_branches, vlan_of};

/// Which ids are taken, and which branch that is not on the trunk yet has which.
pub(super) struct Vlans {
    taken: BTreeSet<u16>,
    reserved: BTreeMap<String, u16>,
}

impl Vlans {
    /// From what EC2 says and what is being created now.
    pub(super) fn of(cloud: &CloudFacts, trunk: &str, underway: &[CloudStep]) -> Self {
        let on_trunk = cloud.associations.values().filter(|at| at.trunk_id == trunk);
        let mut taken: BTreeSet<u16> = on_trunk.map(|at| at.vlan_id).collect();
        let ours: BTreeSet<&String> = our_branches(cloud).map(|eni| &eni.id).collect();
        let here = |eni: &&NetworkInterface| eni.tags.get(INSTANCE_TAG) == Some(&cloud.instance.id);
        let strangers = cloud.interfaces.values().filter(here).filter(|eni| !ours.contains(&eni.id));
        taken.extend(strangers.filter_map(vlan_of));
        let mut vlans = Self { taken, reserved: BTreeMap::new() };
        // Two that claim one id were made by two agents, one of which knew too little: the first keeps it.
        let waiting: Vec<&NetworkInterface> =
            our_branches(cloud).filter(|eni| !cloud.associations.contains_key(&eni.id)).collect();
        for branch in &waiting {
            if let Some(id) = vlan_of(branch).filter(|id| vlans.taken.insert(*id)) {
                vlans.reserved.insert(branch.id.clone(), id);
            }
        }
        vlans.taken.extend(underway.iter().filter_map(creating));
        vlans
    }

    /// The lowest free id, which is taken from now on.
    pub(super) fn take(&mut self) -> Option<u16> {
        let id = VLAN_IDS.into_iter().find(|id| !self.taken.contains(id))?;
        self.taken.insert(id);
        Some(id)
    }

    /// The id a branch shall have that is not on the trunk yet.
    pub(super) fn of_branch(&mut self, branch: &NetworkInterface) -> Option<u16> {
        if let Some(id) = self.reserved.get(&branch.id) {
            return Some(*id);
        }
        let id = self.take()?;
        self.reserved.insert(branch.id.clone(), id);
        Some(id)
    }
}

fn creating(step: &CloudStep) -> Option<u16> {
    let CloudStep::CreateBranch { interface, .. } = step else { return None };
    interface.tags.get(VLAN_TAG)?.parse().ok()
}
