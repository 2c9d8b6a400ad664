//! Observed: the facts we were told, as plain data. A source that has not delivered its first complete
//! snapshot is `None`, and as long as one is, nothing is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::enforcement::Enforcement;
use super::groups::{GroupSet, SecurityGroup};
pub use super::interface::{Attachment, NetworkInterface, Timeouts, delegated};
use super::membership::Published;
use super::settings::Settings;

pub use super::node_facts::{
    CniNode, CniNodeFacts, EniConfig, LinkFacts, NodeFacts, Queued, Scope, Subnet, Vlan, Wanted,
};

/// Everything known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// From Kubernetes.
    pub cluster: Option<ClusterFacts>,
    /// From EC2.
    pub cloud: Option<CloudFacts>,
    /// From the controller; needed where EC2 was asked of the node alone.
    pub published: Option<Arc<Published>>,
    /// From the node's own network namespace.
    pub links: Option<Vec<LinkFacts>>,
    /// From the operator.
    pub enforcement: Enforcement,
    /// From the operator, by AWS's environment variables.
    pub settings: Settings,
    /// Group sets that addresses may still carry in the kernel, because they did when the agent looked last. Policies go on
    /// knowing them for one round more: a peer that changes its groups is then, at every moment, a member of the old or of
    /// the new ones. Empty after a restart: what changed meanwhile may be judged as neither for as long as one round takes.
    pub former_group_sets: BTreeSet<GroupSet>,
    /// Addresses of the node itself; nobody asks where all packets or none take the host stack.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Interfaces, by index, at which others have programs: what goes past the host stack would pass by some of them.
    pub shared: BTreeSet<u32>,
}

impl Observed {
    /// Every group set that some address may carry.
    pub fn group_sets(&self) -> BTreeSet<GroupSet> {
        let published = self.published.iter().flat_map(|published| published.group_sets.iter().cloned());
        self.cloud.iter().flat_map(CloudFacts::group_sets).chain(published).collect()
    }
}

/// What Kubernetes says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Pods bound to this node, by UID.
    pub pods: BTreeMap<String, Pod>,
    /// SecurityGroupPolicies of all namespaces.
    pub policies: Vec<SecurityGroupPolicy>,
    /// ServiceAccounts by (namespace, name): their labels.
    pub service_accounts: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// This node's Node object; `None` while it is not there.
    pub node: Option<NodeFacts>,
    /// This node's CNINode.
    pub cni_node: CniNodeFacts,
    /// ENIConfigs by name (facts 1.8).
    pub eni_configs: BTreeMap<String, EniConfig>,
    /// Addresses that Services have; `None` where nobody asked, or it may not be known.
    pub services: Option<BTreeSet<IpNet>>,
    /// `branch-eni-cooldown` of the ConfigMap `kube-system/amazon-vpc-cni`, as it is written there.
    pub cooldown: Option<String>,
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Name of its ServiceAccount.
    pub service_account: String,
    /// It uses the node's own network: never gets a branch.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its branch can go. A deletion timestamp alone releases nothing (facts 1.6).
    pub ended: bool,
    /// How many branches its containers request as the resource `vpc.amazonaws.com/pod-eni` (facts 1.6).
    pub requested: u64,
    /// Its annotation `vpc.amazonaws.com/pod-eni`, if it has one: parsed, or why it cannot be.
    pub branch: Option<Result<BranchAnnotation, String>>,
}

/// The first element of the annotation `vpc.amazonaws.com/pod-eni` (facts 1.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchAnnotation {
    /// `eni-…`
    pub interface_id: String,
    /// The branch's MAC address, lower-case colon form.
    pub mac: String,
    /// Primary IPv4 address.
    pub private_ip: Option<Ipv4Addr>,
    /// Primary IPv6 address.
    pub ipv6_addr: Option<Ipv6Addr>,
    /// 1..=120.
    pub vlan_id: u16,
    /// IPv4 CIDR of the subnet.
    pub subnet_cidr: Option<Ipv4Net>,
    /// IPv6 CIDR of the subnet.
    pub subnet_v6_cidr: Option<Ipv6Net>,
    /// `trunk-assoc-…`; absent in annotations of old versions.
    pub association_id: Option<String>,
}

/// A SecurityGroupPolicy (facts 1.1, 1.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityGroupPolicy {
    /// Namespace it applies to.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `None` matches nothing, empty matches everything.
    pub pod_selector: Option<LabelSelector>,
    /// Likewise, on the labels of the pod's ServiceAccount.
    pub service_account_selector: Option<LabelSelector>,
    /// Group ids; empty makes the policy invalid and it is skipped.
    pub group_ids: Vec<String>,
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Every label must have this value.
    pub match_labels: BTreeMap<String, String>,
    /// Every expression must hold.
    pub match_expressions: Vec<Expression>,
}

/// One requirement of a label selector; `operator` is In, NotIn, Exists or DoesNotExist as written by the
/// user, so that a selector nobody can satisfy is known for what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expression {
    /// Label key.
    pub key: String,
    /// As written.
    pub operator: String,
    /// Values.
    pub values: Vec<String>,
}

/// What EC2 says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudFacts {
    /// This node's instance.
    pub instance: Instance,
    /// Groups that some known interface carries, that a rule references or that a policy names; those EC2 does not know are absent.
    pub groups: BTreeMap<String, SecurityGroup>,
    /// Prefix lists that rules reference, by `pl-…`.
    pub prefix_lists: BTreeMap<String, Vec<IpNet>>,
    /// Interfaces: all of this node, all with our tags, and all members of referenced groups.
    pub interfaces: BTreeMap<String, NetworkInterface>,
    /// Branch associations of this node's trunk, by branch interface id.
    pub associations: BTreeMap<String, Association>,
    /// CIDRs of the VPC.
    pub vpc_cidrs: Vec<IpNet>,
    /// The instance's own subnet, and those that ENIConfigs name and EC2 knows.
    pub subnets: BTreeMap<String, Subnet>,
    /// Interfaces that another account may attach, or was refused to (`--trunk-account`).
    pub permitted: BTreeSet<String>,
    /// Which interfaces were asked for.
    pub scope: Scope,
}

impl CloudFacts {
    /// Every group set that some known interface carries.
    pub fn group_sets(&self) -> BTreeSet<GroupSet> {
        self.interfaces.values().map(|eni| eni.groups.clone()).collect()
    }

    /// IPv4 CIDR of a subnet: with custom networking, a branch's is not the instance's.
    pub fn subnet_cidr(&self, subnet_id: &str) -> Option<Ipv4Net> {
        self.subnets.get(subnet_id).map_or(self.instance.subnet_cidr, |subnet| subnet.cidr)
    }

    /// This node's trunk, once it is attached.
    pub fn trunk(&self) -> Option<&NetworkInterface> {
        let attached = |eni: &&NetworkInterface| {
            let here = |at: &Attachment| at.instance_id == self.instance.id && at.status == "attached";
            eni.interface_type == "trunk" && eni.attachment.as_ref().is_some_and(here)
        };
        self.interfaces.values().find(attached)
    }
}

/// The instance the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// `i-…`
    pub id: String,
    /// For example `m5.xlarge`.
    pub instance_type: String,
    /// Subnet of the primary interface; trunk and branches are made there unless an ENIConfig says otherwise.
    pub subnet_id: String,
    /// Its IPv4 CIDR.
    pub subnet_cidr: Option<Ipv4Net>,
    /// Its IPv6 CIDR, if it has one.
    pub subnet_v6_cidr: Option<Ipv6Net>,
    /// VPC.
    pub vpc_id: String,
    /// Groups of the primary interface.
    pub primary_groups: GroupSet,
    /// Device indexes in use.
    pub device_indexes: BTreeSet<u32>,
    /// Whether the table of instance types has its type.
    pub known_type: bool,
    /// Branch interfaces the type can carry; 0 where it has no trunk (instance-limits.csv).
    pub branch_limit: u32,
    /// Interfaces the type can attach to its default card.
    pub interface_limit: u32,
}

/// A branch on a trunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Association {
    /// `trunk-assoc-…`
    pub id: String,
    /// `eni-…` of the trunk.
    pub trunk_id: String,
    /// `eni-…` of the branch.
    pub branch_id: String,
    /// VLAN id.
    pub vlan_id: u16,
}
