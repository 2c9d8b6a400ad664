//! The API server, the container runtime with its CNI plugin, and the kernel of one node, as the crash tests see
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sgp_agent::domain::annotation;
use sgp_agent::domain::answers::Answer;
use sgp_agent::domain::branches::{CloudStep, POD_UID_TAG, annotation_of};
use sgp_agent::domain::desired::Desired;
use sgp_agent::domain::failure::{Failure, FailureKind};
use sgp_agent::domain::groups::{EndpointId, GroupSet};
use sgp_agent::domain::installed::Installed;
use sgp_agent::domain::observed::{
    ClusterFacts, CniNodeFacts, LabelSelector, LinkFacts, NodeFacts, Pod, SecurityGroupPolicy,
};
use sgp_agent::domain::plan::Step;
use sgp_agent::domain::wiring::{Alias, Mode, branch_interface, host_interface};
use sgp_common::addr::UNSPECIFIED;
use sgp_common::trunk::NOTHING;

use crate::ec2::Ec2;

/// A pod's wiring: what the CNI plugin made.
struct Wire {
    interface: String,
    vlan_id: u16,
    links: [LinkFacts; 2],
}

/// See the module.
pub(crate) struct Node {
    pub(crate) cluster: ClusterFacts,
    pub(crate) installed: Installed,
    wires: BTreeMap<String, Wire>,
    next_index: u32,
    /// How long a branch must have had no pod, and since when each has had none.
    pub(crate) cooldown: Duration,
    unwired: BTreeMap<String, Duration>,
    /// Pods may have other groups than their namespace's policy began with.
    pub(crate) wider: bool,
    /// What must never happen and did.
    pub(crate) wrongs: Vec<String>,
}

impl Node {
    /// A node without pods; policies give every pod in namespace `a` the group `sg-a`, in `b` `sg-b`.
    pub(crate) fn new(cooldown: Duration) -> Self {
        let policy = |name: &str| SecurityGroupPolicy {
            namespace: name.to_owned(),
            name: name.to_owned(),
            pod_selector: Some(LabelSelector::default()),
            service_account_selector: None,
            group_ids: vec![format!("sg-{name}")],
        };
        let node = NodeFacts { name: "node-1".into(), uid: "n-1".into(), ..NodeFacts::default() };
        let cluster = ClusterFacts {
            policies: vec![policy("a"), policy("b")],
            node: Some(node),
            cni_node: CniNodeFacts::Missing,
            ..ClusterFacts::default()
        };
        Self {
            cluster,
            installed: Installed::default(),
            wires: BTreeMap::new(),
            next_index: 10,
            cooldown,
            unwired: BTreeMap::new(),
            wider: false,
            wrongs: Vec::new(),
        }
    }

    /// Creates a pod, named `<namespace>-<something>`; its UID is unique.
    pub(crate) fn create(&mut self, name: &str) {
        self.next_index += 1;
        let (namespace, _) = name.split_once('-').expect("a pod's name begins with its namespace");
        let uid = format!("uid-{name}-{}", self.next_index);
        let pod = Pod { uid: uid.clone(), namespace: namespace.into(), name: name.into(), ..Pod::default() };
        self.cluster.pods.insert(uid, pod);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.cluster.pods.retain(|_, pod| pod.name != name);
    }

    /// The pod's containers end by themselves.
    pub(crate) fn end(&mut self, name: &str) {
        for pod in self.cluster.pods.values_mut().filter(|pod| pod.name == name) {
            pod.ended = true;
        }
    }

    /// Pods that shall have a branch.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Pod> {
        self.cluster.pods.values().filter(|pod| !pod.ended)
    }

    /// Branch of each wired pod.
    pub(crate) fn wired(&self) -> BTreeMap<&String, &String> {
        self.wires.iter().map(|(uid, wire)| (uid, &wire.interface)).collect()
    }

    /// How many branches have had a pod so far.
    pub(crate) fn branches_ever_wired(&self) -> usize {
        let now = self.wires.values().map(|wire| &wire.interface);
        now.chain(self.unwired.keys()).collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn links(&self) -> Vec<LinkFacts> {
        self.wires.values().flat_map(|wire| wire.links.clone()).collect()
    }

    /// One call to the API server.
    pub(crate) fn apply(&mut self, step: &CloudStep) -> Result<Answer, Failure> {
        match step {
            CloudStep::Annotate { uid, name, branch, .. } => {
                let pod = self.cluster.pods.get_mut(uid).ok_or_else(|| not_found(name))?;
                pod.branch = Some(annotation::parse(&annotation_of(branch).1));
            }
            CloudStep::LabelNode { key, value } => {
                self.cluster.node.as_mut().expect("the node").labels.insert(key.clone(), value.clone());
            }
            CloudStep::Advertise { branches } => {
                self.cluster.node.as_mut().expect("the node").branch_capacity = Some(branches.to_string());
            }
            CloudStep::WriteCniNode { wanted } => self.cluster.cni_node = CniNodeFacts::There(wanted.clone()),
            other => panic!("{} is not for the API server", other.key()),
        }
        Ok(Answer::Done)
    }

    /// The runtime starts what is ready and stops what is gone, through the CNI plugin, which believes an
    /// annotation as far as EC2 agrees with it.
    pub(crate) fn run_pods(&mut self, ec2: &Ec2, now: Duration) {
        let gone: Vec<String> = self.wires.keys().filter(|uid| !self.runs(uid)).cloned().collect();
        for uid in gone {
            let wire = self.wires.remove(&uid).expect("it was wired");
            self.unwired.insert(wire.interface, now);
        }
        let ready: Vec<Pod> = self.live().filter(|pod| !self.wires.contains_key(&pod.uid)).cloned().collect();
        for pod in ready {
            let Some(Ok(branch)) = &pod.branch else { continue };
            let Some(eni) = ec2.interfaces().get(&branch.interface_id) else { continue };
            let vlan_id = ec2.associations().get(&eni.id).map(|at| at.vlan_id);
            let agrees = eni.tags.get(POD_UID_TAG) == Some(&pod.uid) && eni.mac == branch.mac;
            if agrees && vlan_id == Some(branch.vlan_id) {
                self.judge(&pod, &eni.groups, &eni.id, branch.vlan_id);
                if self.unwired.get(&eni.id).is_some_and(|since| now < *since + self.cooldown) {
                    self.wrongs.push(format!("{} was wired to {}, which is not cool", pod.name, eni.id));
                }
                self.wire(&pod, &eni.id, branch.vlan_id);
            }
        }
    }

    fn runs(&self, uid: &str) -> bool {
        self.cluster.pods.get(uid).is_some_and(|pod| !pod.ended)
    }

    fn judge(&mut self, pod: &Pod, groups: &GroupSet, interface: &str, vlan_id: u16) {
        let wanted = GroupSet::of([format!("sg-{}", pod.namespace)]);
        if *groups != wanted && !self.wider {
            self.wrongs.push(format!("{} was wired with {groups}", pod.name));
        }
        if self.wires.values().any(|wire| wire.interface == interface || wire.vlan_id == vlan_id) {
            self.wrongs.push(format!("{} was wired to {interface}, VLAN {vlan_id}, of another pod", pod.name));
        }
        if self.installed.endpoints.contains_key(&EndpointId::of(interface)) {
            self.wrongs.push(format!("{} was wired to {interface}, whose endpoint was still there", pod.name));
        }
    }

    fn wire(&mut self, pod: &Pod, interface: &str, vlan_id: u16) {
        let alias = Alias { interface_id: interface.to_owned(), uid: pod.uid.clone(), mac: [2, 0, 0, 0, 0, 1] };
        let mut link = |name: String, alias: Option<String>| {
            self.next_index += 1;
            LinkFacts { name, index: self.next_index, mac: [2; 6], alias, ..LinkFacts::default() }
        };
        let host = link(host_interface(Mode::Standard, "eni", &pod.namespace, &pod.name), Some(alias.write()));
        let branch = link(branch_interface(vlan_id), None);
        let wire = Wire { interface: interface.to_owned(), vlan_id, links: [host, branch] };
        self.wires.insert(pod.uid.clone(), wire);
    }

    /// One change of the kernel's state.
    pub(crate) fn change(&mut self, step: &Step) {
        let kernel = &mut self.installed;
        match step {
            Step::RemovePeer(addr) => drop(kernel.peers.remove(addr)),
            Step::PutPolicy(id, policy) => drop(kernel.policies.insert(*id, policy.digest)),
            Step::PutPeer(addr, set) => drop(kernel.peers.insert(*addr, *set)),
            Step::PutRevision(id, revision) => drop(kernel.revisions.insert(*id, *revision)),
            Step::PutEndpoint(id, plan) => {
                kernel.names.insert(*id, plan.name);
                kernel.endpoints.insert(*id, plan.endpoint);
                kernel.local.retain(|addr, owner| owner != id || plan.endpoint.owns(addr));
                let addresses = [plan.endpoint.ipv4, plan.endpoint.ipv6];
                kernel.local.extend(addresses.into_iter().filter(|addr| *addr != UNSPECIFIED).map(|addr| (addr, *id)));
            }
            Step::PutNode(plan) => {
                kernel.endpoints.insert(plan.id, plan.endpoint);
                (kernel.node, kernel.excluded) = (Some(plan.node), plan.excluded.clone());
            }
            Step::PutInterface(index, interface) => drop(kernel.interfaces.insert(*index, *interface)),
            Step::PutStackNet(net) => drop(kernel.stack_nets.insert(*net)),
            Step::RemoveStackNet(net) => drop(kernel.stack_nets.remove(net)),
            Step::PutVlan(id, NOTHING) => drop(kernel.vlans.remove(id)),
            Step::PutVlan(id, told) => drop(kernel.vlans.insert(*id, *told)),
            Step::Attach(link) | Step::AttachEarly(link, _) => {
                kernel.links.retain(|old| (&old.interface, old.program) != (&link.interface, link.program));
                kernel.links.insert(link.clone());
            }
            Step::TakeOver(_) => kernel.predecessor = None,
            Step::Detach(link) => drop(kernel.links.remove(link)),
            Step::RemoveInterface(index) => drop(kernel.interfaces.remove(index)),
            Step::RemoveEndpoint(id) => {
                kernel.endpoints.remove(id);
                kernel.names.remove(id);
                kernel.local.retain(|_, owner| owner != id);
            }
            Step::RemovePolicy(id) => {
                kernel.policies.remove(id);
                kernel.revisions.remove(id);
            }
        }
    }

    /// Steps that the kernel lacks.
    pub(crate) fn lacks(&self, desired: &Desired) -> Vec<Step> {
        sgp_agent::domain::plan::plan(desired, &self.installed)
    }
}

fn not_found(name: &str) -> Failure {
    Failure { kind: FailureKind::Refused, code: "NotFound".into(), message: format!("pods {name:?} not found") }
}
