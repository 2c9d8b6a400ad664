//! What one branch lacks, and how a new one is made.

use std::net::IpAddr;

use super::answers::token;
use super::branches::{Carrier, Planner, purpose};
use super::cloud_steps::{CloudStep, NewInterface, Purpose};
use super::groups::GroupSet;
use super::observed::{Association, BranchAnnotation, NetworkInterface, Pod, Subnet};
use super::site::Site;
use super::tags::{TRUNK_TAG, VLAN_TAG, common, of_pod};

impl Planner<'_> {
    pub(super) fn new_branch(
        &self,
        pod: Option<&Pod>,
        groups: GroupSet,
        vlan_id: u16,
        carrier: &Carrier<'_>,
    ) -> CloudStep {
        let seed = match pod {
            Some(pod) => pod.uid.clone(),
            None => format!("{}-{vlan_id}", self.settings.incarnation),
        };
        let mut tags = common(&self.settings.cluster_name, &self.cloud.instance.id);
        tags.extend(of_pod(pod));
        tags.insert(VLAN_TAG.to_owned(), vlan_id.to_string());
        tags.insert(TRUNK_TAG.to_owned(), carrier.trunk.clone());
        let created = self.memory.answers.created(&seed);
        let (subnet_id, family) = (carrier.site.subnet.id.clone(), carrier.site.family());
        let token = token(&seed, &[&subnet_id, &groups.to_string(), &format!("{family:?} {tags:?}")], created);
        let interface = NewInterface { subnet_id, groups, family, tags, token };
        CloudStep::CreateBranch { purpose: pod.map_or(Purpose::Pool, purpose), interface }
    }

    /// Whatever the pod's branch lacks; with nothing lacking, the annotation.
    pub(super) fn finish(
        &mut self,
        pod: &Pod,
        groups: &GroupSet,
        branch: &NetworkInterface,
        carrier: &mut Carrier<'_>,
    ) {
        let planned = self.plan.steps.len();
        self.tag(branch, Some(pod), purpose(pod), carrier);
        if branch.groups != *groups {
            let (branch, groups) = (branch.id.clone(), groups.clone());
            self.plan.steps.push(CloudStep::SetGroups { purpose: purpose(pod), branch, groups });
        }
        let Some(association) = self.cloud.associations.get(&branch.id) else {
            return self.associate(branch, purpose(pod), carrier);
        };
        if self.plan.steps.len() == planned {
            self.plan.steps.push(CloudStep::Annotate {
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                branch: describe(branch, association, self.subnet_of(branch, &carrier.site)),
            });
        }
    }

    /// Writes the tags that differ from what they should be.
    pub(super) fn tag(
        &mut self,
        branch: &NetworkInterface,
        pod: Option<&Pod>,
        purpose: Purpose,
        carrier: &mut Carrier<'_>,
    ) {
        let mut tags = of_pod(pod);
        let vlan_id = self.cloud.associations.get(&branch.id).map(|at| at.vlan_id);
        if let Some(vlan_id) = vlan_id.or_else(|| carrier.vlans.of_branch(branch)) {
            tags.insert(VLAN_TAG.to_owned(), vlan_id.to_string());
        }
        tags.insert(TRUNK_TAG.to_owned(), carrier.trunk.clone());
        tags.retain(|key, value| branch.tags.get(key) != Some(value));
        if !tags.is_empty() {
            self.plan.steps.push(CloudStep::Tag { purpose, branch: branch.id.clone(), tags });
        }
    }

    /// Puts a branch on the trunk; where another account does that, it must be permitted first.
    pub(super) fn associate(&mut self, branch: &NetworkInterface, purpose: Purpose, carrier: &mut Carrier<'_>) {
        let Some(vlan_id) = carrier.vlans.of_branch(branch) else { return };
        let waits =
            |step: &CloudStep| matches!(step, CloudStep::Permit { interface, .. } if *interface == carrier.trunk);
        if self.plan.steps.iter().any(waits) {
            return;
        }
        let interface = branch.id.clone();
        let step = match &self.settings.trunk_account {
            Some(account) if !self.cloud.permitted.contains(&interface) => {
                CloudStep::Permit { purpose, interface, account: account.clone() }
            }
            _ => CloudStep::Associate { purpose, branch: interface, trunk: carrier.trunk.clone(), vlan_id },
        };
        self.plan.steps.push(step);
    }

    /// A branch that was made before an ENIConfig changed is still in its old subnet.
    fn subnet_of<'s>(&'s self, branch: &NetworkInterface, site: &'s Site) -> &'s Subnet {
        self.cloud.subnets.get(&branch.subnet_id).unwrap_or(&site.subnet)
    }
}

fn describe(branch: &NetworkInterface, association: &Association, subnet: &Subnet) -> BranchAnnotation {
    let v4 = |addr: &IpAddr| if let IpAddr::V4(v4) = addr { Some(*v4) } else { None };
    let v6 = |addr: &IpAddr| if let IpAddr::V6(v6) = addr { Some(*v6) } else { None };
    BranchAnnotation {
        interface_id: branch.id.clone(),
        mac: branch.mac.clone(),
        private_ip: branch.addresses.iter().find_map(v4),
        ipv6_addr: branch.addresses.iter().find_map(v6),
        vlan_id: association.vlan_id,
        subnet_cidr: subnet.cidr,
        subnet_v6_cidr: subnet.v6_cidr,
        association_id: Some(association.id.clone()).filter(|id| !id.is_empty()),
    }
}
