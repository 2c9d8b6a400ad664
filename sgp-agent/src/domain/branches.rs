//! Trunk and branches: what to ask EC2 and the API server for next, from what they say now.
//!
//! Level-triggered: every interface carries in its tags whose it is (`tags`), so that any step can be the last
//! one before the machine dies and the next agent goes on from the facts alone. A pod's branch is claimed by
//! its tags, has the pod's groups and is on the trunk before the annotation is written; what of it lacks is
//! planned at once, since the calls do not depend on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::annotation;
use super::answers::Answers;
use super::cloud_steps::Family;
use super::desired::Refusal;
use super::groups::{EndpointId, GroupSet};
use super::matching::groups_of;
use super::observed::{BranchAnnotation, CloudFacts, ClusterFacts, NetworkInterface, Observed, Pod};
use super::pool::Stock;
use super::site::{EniConfigKeys, Site, site};
use super::tags::{holder, our_branches};
use super::trunk::Trunk;
use super::vlans::Vlans;
use super::wiring::Alias;

pub use super::cloud_steps::{CloudStep, Purpose};
pub use super::site::{Notice, Severity, TRUNK_FAILED};
pub use super::tags::{
    INSTANCE_TAG, OWNER, OWNER_TAG, POD_TAG, POD_UID_TAG, TRUNK_TAG, Tags, VLAN_IDS, VLAN_TAG, of_pod, pod_name,
};

/// The most groups an interface can ever have: the quota's upper end (EC2 quotas; its default is 5, and what
/// lies between EC2 itself refuses).
const GROUPS_MAX: usize = 16;

/// How branches are made on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BranchSettings {
    /// Name in the tag `kubernetes.io/cluster/<name>`.
    pub cluster_name: String,
    /// Seconds a branch rests after its pod ended: kube-proxy rules and ARP entries for its address age out.
    pub cooldown_s: u64,
    /// Branches kept ready beyond those that pods have.
    pub warm: u32,
    /// Branches kept at least, pods' and ready ones together.
    pub minimum: u32,
    /// Account that must be permitted to attach interfaces, where it is another one (facts 0.1).
    pub trunk_account: Option<String>,
    /// What a change of policies or labels means for pods that have their branch.
    pub running: RunningPods,
    /// Custom networking as VPC CNI is told of it; `None` where that is off.
    pub custom_networking: Option<EniConfigKeys>,
    /// Tells this start of the agent from others, in client tokens of branches that are for no pod.
    pub incarnation: String,
}

/// What a change of policies or labels means for pods that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunningPods {
    /// Nothing, as on AWS.
    #[default]
    KeepGroups,
    /// Their branches get the groups that a new pod would get. One that no policy matches any more keeps what it has:
    /// a new one would have no branch at all.
    FollowPolicies,
}

/// What an agent knows beside the facts. Losing it costs time, never a branch.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when (seconds, any clock) each branch has been without a pod.
    pub ended_s: BTreeMap<String, u64>,
    /// Steps that run now.
    pub underway: Vec<CloudStep>,
    /// What EC2 answered.
    pub answers: Answers,
}

/// What to do, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudPlan {
    /// Most urgent first. Independent of each other; each is planned again until the facts show it done.
    pub steps: Vec<CloudStep>,
    /// By pod.
    pub refused: Vec<Refusal>,
    /// What to say once.
    pub notices: Vec<Notice>,
    /// Branches that rest now: their pod ended, the cool-down runs.
    pub resting: BTreeSet<String>,
    /// In how many seconds something is due without anybody's doing: the end of a cool-down, or EC2's.
    pub look_in_s: Option<u64>,
}

/// The groups a pod's branch shall have; `None` for a pod that gets no branch. One that requests a branch
/// without a policy gets the node's own groups, as on AWS.
pub fn groups_wanted(pod: &Pod, cluster: &ClusterFacts, node_groups: &GroupSet) -> Option<GroupSet> {
    if pod.host_network || pod.ended {
        return None;
    }
    let matched = groups_of(pod, cluster);
    match (matched.0.is_empty(), pod.requested) {
        (false, _) => Some(matched),
        (true, 0) => None,
        (true, _) => Some(node_groups.clone()),
    }
}

/// Plans the next steps. `enforced`: endpoints the kernel still holds; their branches are not given on.
pub fn cloud_plan(
    observed: &Observed,
    enforced: &BTreeSet<EndpointId>,
    settings: &BranchSettings,
    memory: &Memory,
    now_s: u64,
) -> CloudPlan {
    let (Some(cluster), Some(cloud), Some(links)) = (&observed.cluster, &observed.cloud, &observed.links) else {
        return CloudPlan::default();
    };
    let aliases = links.iter().filter_map(|link| Alias::parse(link.alias.as_deref()?));
    let wired: BTreeSet<String> = aliases.map(|alias| alias.interface_id).collect();
    let still = |eni: &&NetworkInterface| wired.contains(&eni.id) || enforced.contains(&EndpointId::of(&eni.id));
    let held = our_branches(cloud).filter(still).map(|eni| eni.id.clone()).collect();
    let plan = CloudPlan::default();
    let mut planner = Planner { cluster, cloud, settings, memory, plan, held, now_s };
    planner.plan_node();
    planner.plan
}

pub(super) struct Planner<'a> {
    pub(super) cluster: &'a ClusterFacts,
    pub(super) cloud: &'a CloudFacts,
    pub(super) settings: &'a BranchSettings,
    pub(super) memory: &'a Memory,
    pub(super) plan: CloudPlan,
    /// Branches whose host veth still stands, or whose endpoint the kernel still holds.
    pub(super) held: BTreeSet<String>,
    pub(super) now_s: u64,
}

/// A node that has a trunk, while its branches are planned.
pub(super) struct Carrier<'a> {
    pub(super) trunk: String,
    pub(super) site: Site,
    pub(super) vlans: Vlans,
    pub(super) stock: Stock<'a>,
    /// Branches that exist, are being created or are planned.
    pub(super) used: usize,
}

impl Planner<'_> {
    fn plan_node(&mut self) {
        let site = match site(self.cluster, self.cloud, self.settings.custom_networking.as_ref()) {
            Ok(site) => site,
            Err(notice) => {
                self.refuse_all(&notice.message);
                return self.plan.notices.push(notice);
            }
        };
        match self.trunk(&site) {
            Trunk::Stands(trunk) => self.branches(trunk, site),
            Trunk::Coming => {}
            Trunk::Impossible(reason) => {
                self.refuse_all(&reason);
                self.say_of_node(Severity::Warning, "NodeTrunkFailedInit", format!("{TRUNK_FAILED}: {reason}"));
            }
        }
    }

    pub(super) fn say_of_node(&mut self, severity: Severity, reason: &'static str, message: String) {
        self.plan.notices.push(Notice { about: Purpose::Node, severity, reason, message });
    }

    fn refuse_all(&mut self, reason: &str) {
        let groups = &self.cloud.instance.primary_groups;
        let pods = self.cluster.pods.values().filter(|pod| pod.branch.is_none());
        let wanting = pods.filter(|pod| groups_wanted(pod, self.cluster, groups).is_some());
        let refusals = wanting.map(|pod| Refusal { object: pod_name(pod), reason: reason.to_owned() });
        self.plan.refused.extend(refusals.collect::<Vec<_>>());
    }

    fn branches(&mut self, trunk: String, site: Site) {
        let vlans = Vlans::of(self.cloud, &trunk, &self.memory.underway);
        let stock = self.stock(&site, &trunk);
        let used = self.used(&trunk);
        let mut carrier = Carrier { trunk, site, vlans, stock, used };
        self.node_object();
        self.say_cooldown();
        for pod in self.cluster.pods.values() {
            match &pod.branch {
                Some(Err(reason)) if !pod.host_network && !pod.ended => self.refuse(pod, reason.clone()),
                Some(Ok(branch)) if !pod.ended => self.keep(pod, branch, &mut carrier),
                Some(_) => {}
                None => self.provide(pod, &mut carrier),
            }
        }
        self.keep_stock(carrier);
    }

    /// Branches on the trunk, whoever made them, and those of ours that are not on it yet.
    fn used(&self, trunk: &str) -> usize {
        let on_trunk = self.cloud.associations.values().filter(|at| at.trunk_id == trunk).map(|at| &at.branch_id);
        let all: BTreeSet<&String> = on_trunk.chain(our_branches(self.cloud).map(|eni| &eni.id)).collect();
        let coming = self.memory.underway.iter().filter(|step| matches!(step, CloudStep::CreateBranch { .. }));
        all.len() + coming.count()
    }

    /// A pod that has its annotation keeps its branch, and one that fell off the trunk is put back.
    fn keep(&mut self, pod: &Pod, annotated: &BranchAnnotation, carrier: &mut Carrier<'_>) {
        let Some(eni) = self.cloud.interfaces.get(&annotated.interface_id) else {
            let id = &annotated.interface_id;
            return self.refuse(pod, format!("its annotation names {id}, which EC2 does not know"));
        };
        let ours = our_branches(self.cloud).any(|ours| ours.id == eni.id) && holder(eni) == Some(&pod.uid);
        if ours && !self.cloud.associations.contains_key(&eni.id) {
            self.associate(eni, purpose(pod), carrier);
        }
        if ours && self.settings.running == RunningPods::FollowPolicies {
            self.follow_policies(pod, eni);
        }
    }

    /// One call: EC2 and, by its answer, the data path replace all groups at once, policies first.
    fn follow_policies(&mut self, pod: &Pod, branch: &NetworkInterface) {
        let groups = groups_of(pod, self.cluster);
        if pod.host_network || groups.0.is_empty() || branch.groups == groups {
            return;
        }
        match self.check(&groups) {
            Ok(()) => {
                let (purpose, branch) = (purpose(pod), branch.id.clone());
                self.plan.steps.push(CloudStep::SetGroups { purpose, branch, groups });
            }
            Err(reason) => self.refuse(pod, format!("it keeps its groups {}: {reason}", branch.groups)),
        }
    }

    fn provide(&mut self, pod: &Pod, carrier: &mut Carrier<'_>) {
        let Some(groups) = groups_wanted(pod, self.cluster, &carrier.site.groups) else { return };
        if let Err(reason) = self.check(&groups) {
            return self.refuse(pod, reason);
        }
        self.announce(pod, &groups);
        let creating = self.memory.underway.iter().find(|step| creates_for(step, &pod.uid));
        match (carrier.stock.claimed.get(&pod.uid).copied(), creating) {
            (Some(branch), _) => self.finish(pod, &groups, branch, carrier),
            (None, Some(step)) => self.plan.steps.push(step.clone()),
            (None, None) => match carrier.stock.take(pod, &groups, &self.memory.underway, self.cloud) {
                Some(branch) => self.finish(pod, &groups, branch, carrier),
                None => self.create(pod, groups, carrier),
            },
        }
    }

    /// What EC2 would refuse, so that a pod is told at once; a group that comes to be lets it go on.
    fn check(&self, groups: &GroupSet) -> Result<(), String> {
        let code = "creating network interface, ";
        if groups.0.len() > GROUPS_MAX {
            return Err(format!(
                "{code}SecurityGroupsPerInterfaceLimitExceeded: its policies name {} groups, and an interface has {GROUPS_MAX} at most: {groups}",
                groups.0.len()
            ));
        }
        for id in &groups.0 {
            let vpc = &self.cloud.instance.vpc_id;
            match self.cloud.groups.get(id) {
                None => {
                    return Err(format!(
                        "{code}InvalidSecurityGroupID.NotFound: The securityGroup ID '{id}' does not exist"
                    ));
                }
                Some(group) if group.vpc_id != *vpc && !group.vpc_id.is_empty() && !vpc.is_empty() => {
                    return Err(format!(
                        "{code}InvalidParameterValue: security group '{id}' is of {}, and this node of {vpc}",
                        group.vpc_id
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn announce(&mut self, pod: &Pod, groups: &GroupSet) {
        let matched = !groups_of(pod, self.cluster).0.is_empty();
        let ids: Vec<&str> = groups.0.iter().map(String::as_str).collect();
        let (severity, message) = if matched {
            (Severity::Normal, format!("Pod will get the following Security Groups [{}]", ids.join(" ")))
        } else {
            let text = "Pod will get the instance security group as the pod didn't match any Security Group from SecurityGroupPolicy";
            (Severity::Warning, text.to_owned())
        };
        self.plan.notices.push(Notice { about: purpose(pod), severity, reason: "SecurityGroupRequested", message });
    }

    fn create(&mut self, pod: &Pod, groups: GroupSet, carrier: &mut Carrier<'_>) {
        let (limit, used) = (self.cloud.instance.branch_limit as usize, carrier.used);
        let vlan_id = if used < limit { carrier.vlans.take() } else { None };
        let Some(vlan_id) = vlan_id else {
            carrier.stock.wanted = true;
            let kind = &self.cloud.instance.instance_type;
            let reason = format!(
                "this node ({kind}) carries {limit} branches at most and has {used}: it waits for one to be free again"
            );
            return self.refuse(pod, reason);
        };
        carrier.used += 1;
        let step = self.new_branch(Some(pod), groups, vlan_id, carrier);
        self.plan.steps.push(step);
    }

    pub(super) fn look_in(&mut self, seconds: u64) {
        self.plan.look_in_s = Some(self.plan.look_in_s.map_or(seconds, |known| known.min(seconds)));
    }

    fn refuse(&mut self, pod: &Pod, reason: String) {
        self.plan.refused.push(Refusal { object: pod_name(pod), reason });
    }
}

pub(super) fn purpose(pod: &Pod) -> Purpose {
    Purpose::Pod { uid: pod.uid.clone(), name: pod_name(pod) }
}

fn creates_for(step: &CloudStep, wanted: &str) -> bool {
    matches!(step, CloudStep::CreateBranch { purpose: Purpose::Pod { uid, .. }, .. } if uid == wanted)
}

/// Key and text of the annotation that a step writes.
pub fn annotation_of(branch: &BranchAnnotation) -> (&'static str, String) {
    (annotation::POD_ENI, annotation::write(branch))
}

/// A family's addresses are there where the site has that family.
pub(super) fn has_addresses_of(site: &Site, branch: &NetworkInterface) -> bool {
    site.family() == Family::V4 || branch.addresses.iter().any(IpAddr::is_ipv6)
}
