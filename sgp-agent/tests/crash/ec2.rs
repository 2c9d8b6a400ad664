//! EC2 as the crash tests see it: one call, one change, its checks and its error codes, and descriptions that lag
//! behind. Modelled after what `xtask/src/cluster/cloud/ec2.py` and the facts (section 2) say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sgp_agent::domain::answers::Answer;
use sgp_agent::domain::branches::{CloudStep, INSTANCE_TAG, OWNER_TAG, POD_UID_TAG};
use sgp_agent::domain::cloud_steps::{Family, NewInterface};
use sgp_agent::domain::failure::Failure;
use sgp_agent::domain::groups::{GroupSet, SecurityGroup};
use sgp_agent::domain::observed::{Association, Attachment, CloudFacts, Instance, NetworkInterface, Scope, Subnet};

use crate::mishaps::TrunkCalls;

/// Groups there are.
pub(crate) const GROUPS: [&str; 3] = ["sg-node", "sg-a", "sg-b"];
/// The node's instance.
pub(crate) const INSTANCE: &str = "i-0123456789abcdef0";
/// The node's subnet.
pub(crate) const SUBNET: &str = "subnet-1";

/// What EC2 holds.
#[derive(Clone, Default)]
struct State {
    interfaces: BTreeMap<String, NetworkInterface>,
    associations: BTreeMap<String, Association>,
    /// Interfaces that the account of the trunk calls may attach.
    permitted: BTreeSet<String>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Ec2 {
    state: State,
    /// What was there from when on, for descriptions that lag.
    versions: Vec<(Duration, State)>,
    tokens: BTreeMap<String, String>,
    next: u32,
    /// How far descriptions lag behind.
    pub(crate) lag: Duration,
    pub(crate) branch_limit: u32,
    pub(crate) interface_limit: u32,
    /// Whose the trunk calls are.
    pub(crate) trunk_calls: TrunkCalls,
}

fn refused(code: &str, message: &str) -> Failure {
    Failure::of(code, 400, message)
}

impl Ec2 {
    /// An instance with its primary interface and no trunk.
    pub(crate) fn new(branch_limit: u32) -> Self {
        let mut ec2 = Self { next: 1, branch_limit, interface_limit: 4, ..Self::default() };
        let attachment = Attachment {
            id: "eni-attach-0".into(),
            instance_id: INSTANCE.into(),
            status: "attached".into(),
            ..Attachment::default()
        };
        let primary = NetworkInterface {
            id: "eni-primary".into(),
            mac: "02:00:00:00:00:00".into(),
            addresses: vec!["10.0.0.9".parse().expect("an address")],
            groups: GroupSet::of(["sg-node"]),
            interface_type: "interface".into(),
            status: "in-use".into(),
            attachment: Some(attachment),
            subnet_id: SUBNET.into(),
            ..NetworkInterface::default()
        };
        ec2.state.interfaces.insert(primary.id.clone(), primary);
        ec2.versions.push((Duration::ZERO, ec2.state.clone()));
        ec2
    }

    /// Interfaces as they are, whatever descriptions say.
    pub(crate) fn interfaces(&self) -> &BTreeMap<String, NetworkInterface> {
        &self.state.interfaces
    }

    /// Associations by branch, likewise.
    pub(crate) fn associations(&self) -> &BTreeMap<String, Association> {
        &self.state.associations
    }

    /// Deletes an interface behind everybody's back.
    pub(crate) fn lose(&mut self, id: &str, now: Duration) {
        self.state.interfaces.remove(id);
        self.state.associations.remove(id);
        self.versions.push((now, self.state.clone()));
    }

    /// A free branch of this node that another controller made.
    pub(crate) fn stranger(&mut self, now: Duration) -> NetworkInterface {
        let tags = [
            (OWNER_TAG.to_owned(), "eks-vpc-resource-controller".to_owned()),
            (INSTANCE_TAG.to_owned(), INSTANCE.to_owned()),
            (POD_UID_TAG.to_owned(), String::new()),
        ];
        let (id, subnet_id, status) = ("eni-stranger".to_owned(), SUBNET.to_owned(), "available".to_owned());
        let stranger = NetworkInterface { id, subnet_id, status, tags: tags.into(), ..NetworkInterface::default() };
        self.state.interfaces.insert(stranger.id.clone(), stranger.clone());
        self.versions.push((now, self.state.clone()));
        stranger
    }

    /// What a description that is asked for now says.
    pub(crate) fn describe(&mut self, now: Duration) -> CloudFacts {
        let seen = now.saturating_sub(self.lag);
        // Older versions are never asked for again: time does not run backwards.
        let newest = self.versions.iter().rposition(|(at, _)| *at <= seen).unwrap_or(0);
        self.versions.drain(..newest);
        let state = self.versions[0].1.clone();
        let attached = state.interfaces.values().filter_map(|eni| eni.attachment.as_ref());
        let device_indexes: BTreeSet<u32> = attached.map(|at| at.device_index).collect();
        let group = |id: &str| (id.to_owned(), SecurityGroup { id: id.into(), vpc_id: "vpc-1".into(), rules: vec![] });
        let cidr = "10.0.0.0/16".parse().expect("a CIDR");
        let (id, free_addresses) = (SUBNET.to_owned(), Some(60_000));
        let subnet = Subnet { id, cidr: Some(cidr), free_addresses, ..Subnet::default() };
        CloudFacts {
            scope: Scope::Vpc,
            instance: Instance {
                id: INSTANCE.into(),
                instance_type: "m5.xlarge".into(),
                subnet_id: SUBNET.into(),
                subnet_cidr: Some(cidr),
                vpc_id: "vpc-1".into(),
                primary_groups: GroupSet::of(["sg-node"]),
                device_indexes,
                known_type: true,
                branch_limit: self.branch_limit,
                interface_limit: self.interface_limit,
                ..Instance::default()
            },
            groups: GROUPS.iter().map(|id| group(id)).collect(),
            interfaces: state.interfaces,
            associations: state.associations,
            permitted: state.permitted,
            vpc_cidrs: vec![cidr.into()],
            subnets: [(SUBNET.to_owned(), subnet)].into(),
            ..CloudFacts::default()
        }
    }

    /// One call.
    pub(crate) fn apply(&mut self, step: &CloudStep, now: Duration) -> Result<Answer, Failure> {
        let answer = match step {
            CloudStep::CreateTrunk { interface } => self.create(interface, "trunk"),
            CloudStep::CreateBranch { interface, .. } => self.create(interface, "interface"),
            CloudStep::AttachTrunk { trunk, device_index } => self.attach(trunk, *device_index),
            CloudStep::TieTrunk { trunk, attachment } => self.tie(trunk, attachment),
            CloudStep::Tag { branch, tags, .. } => {
                self.interface(branch).map(|eni| eni.tags.extend(tags.clone())).map(|()| Answer::Done)
            }
            CloudStep::SetGroups { branch, groups, .. } => known(groups).and_then(|()| {
                self.interface(branch)?.groups = groups.clone();
                Ok(Answer::Done)
            }),
            CloudStep::Permit { interface, .. } => self.permit(interface),
            CloudStep::Associate { branch, trunk, vlan_id, .. } => self.associate(branch, trunk, *vlan_id),
            CloudStep::Disassociate { branch, association } => Ok(self.disassociate(branch, association)),
            CloudStep::Delete { interface } => self.delete(interface),
            other => panic!("{} is not for EC2", other.key()),
        }?;
        self.versions.push((now, self.state.clone()));
        Ok(answer)
    }

    fn interface(&mut self, id: &str) -> Result<&mut NetworkInterface, Failure> {
        let missing =
            || refused("InvalidNetworkInterfaceID.NotFound", &format!("The networkInterface ID '{id}' does not exist"));
        self.state.interfaces.get_mut(id).ok_or_else(missing)
    }

    fn permit(&mut self, id: &str) -> Result<Answer, Failure> {
        self.interface(id)?;
        self.state.permitted.insert(id.to_owned());
        Ok(Answer::Done)
    }

    fn create(&mut self, wanted: &NewInterface, kind: &str) -> Result<Answer, Failure> {
        known(&wanted.groups)?;
        if let Some(made) = self.tokens.get(&wanted.token).and_then(|id| self.state.interfaces.get(id)) {
            return Ok(Answer::Created(Box::new(made.clone())));
        }
        let number = self.next;
        self.next += 1;
        let made = NetworkInterface {
            id: format!("eni-{number:04}"),
            mac: format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256),
            addresses: vec![format!("10.0.{}.{}", 1 + number / 200, 10 + number % 200).parse().expect("an address")],
            groups: wanted.groups.clone(),
            interface_type: kind.to_owned(),
            status: "available".into(),
            tags: wanted.tags.clone(),
            subnet_id: wanted.subnet_id.clone(),
            ..NetworkInterface::default()
        };
        assert_eq!(wanted.family, Family::V4, "this subnet has no IPv6");
        self.tokens.insert(wanted.token.clone(), made.id.clone());
        self.state.interfaces.insert(made.id.clone(), made.clone());
        Ok(Answer::Created(Box::new(made)))
    }

    fn attach(&mut self, trunk: &str, device_index: u32) -> Result<Answer, Failure> {
        let taken = |eni: &NetworkInterface| eni.attachment.as_ref().is_some_and(|at| at.device_index == device_index);
        if self.state.interfaces.values().any(taken) {
            return Err(refused(
                "InvalidParameterValue",
                "Instance already has an interface attached at that device index",
            ));
        }
        let eni = self.interface(trunk)?;
        if eni.attachment.is_some() {
            return Err(refused("InvalidNetworkInterface.InUse", "Interface is in use"));
        }
        let attachment = Attachment {
            id: format!("eni-attach-{device_index}"),
            instance_id: INSTANCE.into(),
            device_index,
            network_card: 0,
            status: "attached".into(),
            delete_on_termination: false,
        };
        (eni.attachment, eni.status) = (Some(attachment.clone()), "in-use".into());
        Ok(Answer::Attached(Attachment { status: "attaching".into(), ..attachment }))
    }

    fn tie(&mut self, trunk: &str, attachment: &str) -> Result<Answer, Failure> {
        let at = self.interface(trunk)?.attachment.as_mut().filter(|at| at.id == attachment);
        at.ok_or_else(|| refused("InvalidAttachmentID.NotFound", attachment))?.delete_on_termination = true;
        Ok(Answer::Done)
    }

    fn associate(&mut self, branch: &str, trunk: &str, vlan_id: u16) -> Result<Answer, Failure> {
        if self.interface(trunk)?.attachment.is_none() {
            return Err(refused("InvalidParameterValue", "not an attached trunk interface"));
        }
        let may = |id: &str| self.trunk_calls == TrunkCalls::Own || self.state.permitted.contains(id);
        if !may(trunk) || !may(branch) {
            return Err(refused("AuthFailure", "The trunk account may not attach it"));
        }
        if self.state.associations.contains_key(branch) {
            return Err(refused("Resource.AlreadyAssociated", branch));
        }
        if self.state.associations.values().any(|at| at.vlan_id == vlan_id) {
            return Err(refused("InvalidParameterValue", &format!("VLAN {vlan_id} is in use")));
        }
        if self.state.associations.len() >= self.branch_limit as usize {
            return Err(refused("AttachmentLimitExceeded", "The trunk carries no more branches"));
        }
        let eni = self.interface(branch)?;
        (eni.status, eni.interface_type) = ("in-use".into(), "branch".into());
        self.next += 1;
        let association = Association {
            id: format!("trunk-assoc-{:04}", self.next),
            trunk_id: trunk.to_owned(),
            branch_id: branch.to_owned(),
            vlan_id,
        };
        self.state.associations.insert(branch.to_owned(), association.clone());
        Ok(Answer::Associated(association))
    }

    /// One that is gone already is as good as taken off, as in `io::ec2::steps`.
    fn disassociate(&mut self, branch: &str, association: &str) -> Answer {
        if self.state.associations.get(branch).is_some_and(|at| at.id == association) {
            self.state.associations.remove(branch);
            if let Some(eni) = self.state.interfaces.get_mut(branch) {
                eni.status = "available".into();
            }
        }
        Answer::Done
    }

    fn delete(&mut self, id: &str) -> Result<Answer, Failure> {
        let used = self.state.associations.contains_key(id);
        let attached = self.state.interfaces.get(id).is_some_and(|eni| eni.attachment.is_some());
        if used || attached {
            return Err(refused("InvalidParameterValue", &format!("Network interface '{id}' is currently in use.")));
        }
        self.state.interfaces.remove(id);
        Ok(Answer::Done)
    }
}

fn known(groups: &GroupSet) -> Result<(), Failure> {
    match groups.0.iter().find(|id| !GROUPS.contains(&id.as_str())) {
        Some(id) => {
            Err(refused("InvalidSecurityGroupID.NotFound", &format!("The security group '{id}' does not exist")))
        }
        None => Ok(()),
    }
}
