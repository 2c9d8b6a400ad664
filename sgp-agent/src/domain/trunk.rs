//! The trunk: found, made, attached, tied to its instance, or taken back (facts 2.3, 2.10).

use super::answers::token;
use super::branches::Planner;
use super::cloud_steps::{CloudStep, Family, NewInterface, Purpose};
use super::observed::{Attachment, NetworkInterface};
use super::site::Site;
use super::tags;

/// Where the trunk stands.
pub(super) enum Trunk {
    /// Attached: branches can be put on it.
    Stands(String),
    /// On its way.
    Coming,
    /// It cannot be had, and why.
    Impossible(String),
}

impl<'a> Planner<'a> {
    /// Plans what the trunk lacks. One that somebody else attached is as good as ours.
    pub(super) fn trunk(&mut self, site: &Site) -> Trunk {
        let pending: Vec<&'a NetworkInterface> = self.pending_trunks().collect();
        if let Some(trunk) = self.cloud.trunk() {
            let (id, attachment) = (trunk.id.clone(), trunk.attachment.clone());
            let ours = tags::is_ours(trunk, &self.cloud.instance.id);
            if let Some(at) = attachment.filter(|at| ours && !at.delete_on_termination) {
                self.plan.steps.push(CloudStep::TieTrunk { trunk: id.clone(), attachment: at.id });
            }
            if ours {
                self.permit(&id);
            }
            self.take_back(pending.iter().filter(|eni| eni.attachment.is_none() && eni.id != id));
            return Trunk::Stands(id);
        }
        if pending.iter().any(|eni| eni.attachment.is_some()) || self.is_half_described() {
            self.look_in(1);
            return Trunk::Coming;
        }
        let Some(device_index) = self.free_device_index() else {
            // A trunk that found no slot would only cost an address.
            self.take_back(pending.iter());
            return Trunk::Impossible(self.no_slot());
        };
        match pending.split_first() {
            Some((first, more)) => {
                self.permit(&first.id);
                self.plan.steps.push(CloudStep::AttachTrunk { trunk: first.id.clone(), device_index });
                self.take_back(more.iter());
            }
            None => self.create_trunk(site),
        }
        Trunk::Coming
    }

    /// Whoever puts branches on a trunk must be permitted to attach the trunk too (facts 2.3).
    fn permit(&mut self, trunk: &str) {
        let account = self.settings.trunk_account.clone();
        if let Some(account) = account.filter(|_| !self.cloud.permitted.contains(trunk)) {
            self.plan.steps.push(CloudStep::Permit { purpose: Purpose::Node, interface: trunk.to_owned(), account });
        }
    }

    /// Whether EC2 does not say of an interface here what it is, as of an instance that is going away: it may be a trunk.
    fn is_half_described(&self) -> bool {
        let here = |at: &Attachment| at.instance_id == self.cloud.instance.id;
        let attached = |eni: &&NetworkInterface| eni.attachment.as_ref().is_some_and(here);
        self.cloud.interfaces.values().filter(attached).any(|eni| eni.interface_type.is_empty())
    }

    /// Trunks of our making that are not attached, or not yet.
    fn pending_trunks(&self) -> impl Iterator<Item = &'a NetworkInterface> + use<'a> {
        let cloud = self.cloud;
        let pending = |eni: &&NetworkInterface| {
            let attached = |at: &Attachment| at.status == "attached" && at.instance_id == cloud.instance.id;
            let ours = eni.interface_type == "trunk" && tags::is_ours(eni, &cloud.instance.id);
            ours && !eni.attachment.as_ref().is_some_and(attached)
        };
        cloud.interfaces.values().filter(move |eni| pending(eni))
    }

    fn take_back<'e>(&mut self, trunks: impl Iterator<Item = &'e &'e NetworkInterface>) {
        let deletes: Vec<CloudStep> = trunks.map(|eni| CloudStep::Delete { interface: eni.id.clone() }).collect();
        self.plan.steps.extend(deletes);
    }

    /// The highest free one, since VPC CNI fills from the lowest.
    fn free_device_index(&self) -> Option<u32> {
        let instance = &self.cloud.instance;
        (1..instance.interface_limit).rev().find(|index| !instance.device_indexes.contains(index))
    }

    fn no_slot(&self) -> String {
        let instance = &self.cloud.instance;
        format!(
            "no free device index found on {}: all {} interfaces of {} are taken and the trunk needs one; keep one free (VPC CNI: MAX_ENI={}) and detach one",
            instance.id,
            instance.interface_limit,
            instance.instance_type,
            instance.interface_limit.saturating_sub(1)
        )
    }

    fn create_trunk(&mut self, site: &Site) {
        let instance = &self.cloud.instance.id;
        let seed = format!("trunk-{instance}");
        let wish = [site.subnet.id.as_str(), &site.groups.to_string()];
        let interface = NewInterface {
            subnet_id: site.subnet.id.clone(),
            groups: site.groups.clone(),
            family: Family::V4,
            tags: tags::common(&self.settings.cluster_name, instance),
            token: token(&seed, &wish, self.memory.answers.created(&seed)),
        };
        self.plan.steps.push(CloudStep::CreateTrunk { interface });
    }
}
