//! Trunk and branches: what to ask EC2 for next, from what it and Kubernetes say now.
//!
//! Level-triggered: every interface carries in its tags whose it is (facts 2.5, and our own two), so that
//! any step can be the last one before the machine dies and the next agent goes on from the facts alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::annotation;
use super::desired::Refusal;
use super::groups::GroupSet;
use super::matching::groups_of;
use super::observed::{BranchAnnotation, CloudFacts, ClusterFacts, NetworkInterface, Observed, Pod};
use super::wiring::Alias;

/// Tag: VLAN id of a branch, decimal.
pub const VLAN_TAG: &str = "vpcresources.k8s.aws/vlan-id";
/// Tag: the trunk of a branch.
pub const TRUNK_TAG: &str = "vpcresources.k8s.aws/trunk-eni-id";
/// Tag: who looks after an interface.
pub const OWNER_TAG: &str = "eks:eni:owner";
/// Value of the owner tag on interfaces that are ours; AWS's own controller uses another.
pub const OWNER: &str = "sgp-agent";
/// Tag: the node's instance.
pub const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";
/// Tag of our own: UID of the pod a branch was made for.
pub const POD_UID_TAG: &str = "sgp.dev/pod-uid";
/// Tag of our own: `namespace/name` of that pod.
pub const POD_TAG: &str = "sgp.dev/pod";
/// VLAN ids of a trunk (facts 2.6).
pub const VLAN_IDS: std::ops::RangeInclusive<u16> = 1..=120;

/// How branches are made on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSettings {
    /// Name in the tag `kubernetes.io/cluster/<name>`.
    pub cluster_name: String,
    /// Seconds a branch rests after its pod ended: kube-proxy rules and ARP entries for its address age out.
    pub cooldown_s: u64,
}

/// One call, or a few that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudStep {
    /// Create the trunk and attach it at the highest free device index.
    CreateTrunk {
        /// Device index to attach it at.
        device_index: u32,
        /// Tags.
        tags: BTreeMap<String, String>,
    },
    /// Attach a trunk that an earlier agent created and did not come to attach.
    AttachTrunk {
        /// `eni-…`
        trunk: String,
        /// Device index to attach it at.
        device_index: u32,
    },
    /// Create a branch.
    CreateBranch {
        /// Whose it is: `namespace/name`.
        pod: String,
        /// Pod UID; makes the call idempotent.
        uid: String,
        /// Its groups.
        groups: GroupSet,
        /// Tags.
        tags: BTreeMap<String, String>,
    },
    /// Put a branch on the trunk.
    Associate {
        /// Whose it is: `namespace/name`.
        pod: String,
        /// `eni-…`
        branch: String,
        /// `eni-…`
        trunk: String,
        /// VLAN id.
        vlan_id: u16,
    },
    /// Write the pod's annotation.
    Annotate {
        /// Pod UID the patch is guarded by.
        uid: String,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What to write.
        branch: BranchAnnotation,
    },
    /// Take a branch off its trunk.
    Disassociate {
        /// `eni-…`
        branch: String,
        /// `trunk-assoc-…`
        association: String,
    },
    /// Delete an interface of ours.
    Delete {
        /// `eni-…`
        interface: String,
    },
}

/// What to do, and what cannot be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudPlan {
    /// Independent of each other; each is planned again until the facts show it done.
    pub steps: Vec<CloudStep>,
    /// By pod.
    pub refused: Vec<Refusal>,
    /// Branches that rest now: their pod ended, the cool-down runs.
    pub resting: BTreeSet<String>,
}

/// Plans the next steps. `ended_s` says since when (seconds, any clock) each branch has been without a pod;
/// a branch that is not in it has just been found so.
pub fn cloud_plan(
    observed: &Observed,
    settings: &BranchSettings,
    ended_s: &BTreeMap<String, u64>,
    now_s: u64,
) -> CloudPlan {
    let (Some(cluster), Some(cloud), Some(links)) = (&observed.cluster, &observed.cloud, &observed.links) else {
        return CloudPlan::default();
    };
    let aliases = links.iter().filter_map(|link| Alias::parse(link.alias.as_deref()?));
    let wired = aliases.map(|alias| alias.interface_id).collect();
    let (plan, vlans) = (CloudPlan::default(), used_vlans(cloud));
    let mut planner = Planner { cluster, cloud, settings, plan, vlans, wired };
    planner.release(ended_s, now_s);
    match planner.cloud.trunk().map(|trunk| trunk.id.clone()) {
        Some(trunk) => planner.provide(&trunk),
        None => planner.make_trunk(),
    }
    planner.plan
}

struct Planner<'a> {
    cluster: &'a ClusterFacts,
    cloud: &'a CloudFacts,
    settings: &'a BranchSettings,
    plan: CloudPlan,
    vlans: BTreeSet<u16>,
    /// Branches whose host veth still stands.
    wired: BTreeSet<String>,
}

impl Planner<'_> {
    fn make_trunk(&mut self) {
        let wanted =
            self.cluster.pods.values().filter(|pod| wants_branch(pod) && !groups_of(pod, self.cluster).0.is_empty());
        let pods: Vec<String> = wanted.map(pod_name).collect();
        let instance = &self.cloud.instance;
        if instance.branch_limit == 0 {
            let reason = format!(
                "instance type {} of {} is not supported for trunk interface (Security Group for Pods): use a Nitro type that carries branches",
                instance.instance_type, instance.id
            );
            self.plan.refused.extend(pods.into_iter().map(|pod| Refusal { object: pod, reason: reason.clone() }));
            return;
        }
        let Some(device_index) =
            (1..instance.interface_limit).rev().find(|index| !instance.device_indexes.contains(index))
        else {
            let reason = format!("no free device index found on {} for the trunk: detach an interface", instance.id);
            self.plan.refused.extend(pods.into_iter().map(|pod| Refusal { object: pod, reason: reason.clone() }));
            return;
        };
        let pending = |eni: &&NetworkInterface| eni.interface_type == "trunk" && self.is_ours(eni);
        self.plan.steps.extend(match self.cloud.interfaces.values().find(pending) {
            Some(eni) if eni.attachment.is_some() => None,
            Some(eni) => Some(CloudStep::AttachTrunk { trunk: eni.id.clone(), device_index }),
            None => Some(CloudStep::CreateTrunk { device_index, tags: self.tags() }),
        });
    }

    fn is_ours(&self, eni: &NetworkInterface) -> bool {
        eni.tags.get(OWNER_TAG).is_some_and(|owner| owner == OWNER)
            && eni.tags.get(INSTANCE_TAG) == Some(&self.cloud.instance.id)
    }

    fn is_our_branch(&self, eni: &NetworkInterface) -> bool {
        self.is_ours(eni) && eni.tags.contains_key(POD_UID_TAG)
    }

    fn tags(&self) -> BTreeMap<String, String> {
        let tags = [
            (OWNER_TAG.to_owned(), OWNER.to_owned()),
            (format!("kubernetes.io/cluster/{}", self.settings.cluster_name), "owned".to_owned()),
            (INSTANCE_TAG.to_owned(), self.cloud.instance.id.clone()),
        ];
        tags.into()
    }

    fn provide(&mut self, trunk: &str) {
        for pod in self.cluster.pods.values().filter(|pod| wants_branch(pod)) {
            match &pod.branch {
                Some(Err(reason)) => self.refuse(pod, reason.clone()),
                Some(Ok(branch)) if !self.cloud.interfaces.contains_key(&branch.interface_id) => {
                    self.refuse(pod, format!("its annotation names {}, which EC2 does not know", branch.interface_id));
                }
                Some(Ok(_)) => {}
                None => self.provide_pod(pod, trunk),
            }
        }
    }

    fn provide_pod(&mut self, pod: &Pod, trunk: &str) {
        let groups = groups_of(pod, self.cluster);
        let branch =
            self.cloud.interfaces.values().find(|eni| self.is_our_branch(eni) && eni.tags[POD_UID_TAG] == pod.uid);
        match branch {
            Some(branch) => self.finish(pod, branch, trunk),
            None if groups.0.is_empty() => {}
            None => self.create(pod, groups, trunk),
        }
    }

    /// Checks what EC2 would refuse, so that a pod is told at once; a group that comes to be lets it go on.
    fn create(&mut self, pod: &Pod, groups: GroupSet, trunk: &str) {
        if let Some(unknown) = groups.0.iter().find(|id| !self.cloud.groups.contains_key(*id)) {
            let code = "creating network interface, InvalidSecurityGroupID.NotFound";
            return self.refuse(pod, format!("{code}: The securityGroup ID '{unknown}' does not exist"));
        }
        let branches = self.cloud.interfaces.values().filter(|eni| self.is_our_branch(eni)).count();
        let planned = self.plan.steps.iter().filter(|step| matches!(step, CloudStep::CreateBranch { .. })).count();
        let (limit, used) = (self.cloud.instance.branch_limit as usize, branches + planned);
        let free = VLAN_IDS.into_iter().find(|id| !self.vlans.contains(id));
        let (Some(vlan_id), true) = (free, used < limit) else {
            let kind = &self.cloud.instance.instance_type;
            return self.refuse(
                pod,
                format!(
                    "this node ({kind}) carries {limit} branches at most and has {used}: it waits for one to be deleted"
                ),
            );
        };
        self.vlans.insert(vlan_id);
        let mut tags = self.tags();
        tags.insert(VLAN_TAG.to_owned(), vlan_id.to_string());
        tags.insert(TRUNK_TAG.to_owned(), trunk.to_owned());
        tags.insert(POD_UID_TAG.to_owned(), pod.uid.clone());
        tags.insert(POD_TAG.to_owned(), pod_name(pod));
        self.plan.steps.push(CloudStep::CreateBranch { pod: pod_name(pod), uid: pod.uid.clone(), groups, tags });
    }

    fn finish(&mut self, pod: &Pod, branch: &NetworkInterface, trunk: &str) {
        let Some(vlan_id) = vlan_of(branch) else {
            return self.refuse(pod, format!("its branch {} has no VLAN id in its tag {VLAN_TAG}", branch.id));
        };
        let step = match self.cloud.associations.get(&branch.id) {
            None => {
                CloudStep::Associate { pod: pod_name(pod), branch: branch.id.clone(), trunk: trunk.to_owned(), vlan_id }
            }
            Some(association) => CloudStep::Annotate {
                uid: pod.uid.clone(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                branch: self.describe(branch, vlan_id, &association.id),
            },
        };
        self.plan.steps.push(step);
    }

    fn describe(&self, branch: &NetworkInterface, vlan_id: u16, association: &str) -> BranchAnnotation {
        let v4 = |addr: &IpAddr| if let IpAddr::V4(v4) = addr { Some(*v4) } else { None };
        let v6 = |addr: &IpAddr| if let IpAddr::V6(v6) = addr { Some(*v6) } else { None };
        BranchAnnotation {
            interface_id: branch.id.clone(),
            mac: branch.mac.clone(),
            private_ip: branch.addresses.iter().find_map(v4),
            ipv6_addr: branch.addresses.iter().find_map(v6),
            vlan_id,
            subnet_cidr: self.cloud.instance.subnet_cidr,
            subnet_v6_cidr: self.cloud.instance.subnet_v6_cidr,
            association_id: Some(association.to_owned()),
        }
    }

    /// Branches of pods that ended or are gone, and whose wiring is gone too, rest for the cool-down, then leave
    /// the trunk, then go. Only interfaces with our owner tag are ever touched.
    fn release(&mut self, ended_s: &BTreeMap<String, u64>, now_s: u64) {
        let branches: Vec<&NetworkInterface> =
            self.cloud.interfaces.values().filter(|eni| self.is_our_branch(eni)).collect();
        for branch in branches {
            let pod = self.cluster.pods.get(&branch.tags[POD_UID_TAG]);
            if pod.is_some_and(|pod| !pod.ended) || self.wired.contains(&branch.id) {
                continue;
            }
            self.plan.resting.insert(branch.id.clone());
            let since = ended_s.get(&branch.id).copied().unwrap_or(now_s);
            if now_s < since + self.settings.cooldown_s {
                continue;
            }
            self.plan.steps.push(match self.cloud.associations.get(&branch.id) {
                Some(association) => {
                    CloudStep::Disassociate { branch: branch.id.clone(), association: association.id.clone() }
                }
                None => CloudStep::Delete { interface: branch.id.clone() },
            });
        }
    }

    fn refuse(&mut self, pod: &Pod, reason: String) {
        self.plan.refused.push(Refusal { object: pod_name(pod), reason });
    }
}

fn wants_branch(pod: &Pod) -> bool {
    !pod.host_network && !pod.ended
}

/// `namespace/name`.
pub fn pod_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn vlan_of(eni: &NetworkInterface) -> Option<u16> {
    eni.tags.get(VLAN_TAG)?.parse().ok().filter(|id| VLAN_IDS.contains(id))
}

fn used_vlans(cloud: &CloudFacts) -> BTreeSet<u16> {
    let tagged = cloud.interfaces.values().filter(|eni| eni.tags.get(INSTANCE_TAG) == Some(&cloud.instance.id));
    let trunk = cloud.trunk().map(|trunk| &trunk.id);
    let here = cloud.associations.values().filter(|association| Some(&association.trunk_id) == trunk);
    tagged.filter_map(vlan_of).chain(here.map(|association| association.vlan_id)).collect()
}

/// Key and text of the annotation that a step writes.
pub fn annotation_of(branch: &BranchAnnotation) -> (&'static str, String) {
    (annotation::POD_ENI, annotation::write(branch))
}
