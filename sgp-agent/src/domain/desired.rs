//! Desired: what the kernel should hold, computed from what was observed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use sgp_common::Addr;
use sgp_common::addr::{UNSPECIFIED, v4_mapped};
use sgp_common::endpoint::{Endpoint, EndpointName, Timeouts, settings};
use sgp_common::limits::VLAN_IDS_MAX;
use sgp_common::policy::{Answer, RuleKey, Selector};
use sgp_common::snat::SnatPolicy;

use super::branches::{POD_TAG, POD_UID_TAG, VLAN_TAG};
use super::compile::{Context, compile, padded};
use super::early::{self, EarlyPlan};
use super::enforcement::{Enforcement, RelatedIcmp, Revoked, SnatJudges};
use super::groups::{EndpointId, GroupSet, GroupSetId, RuleName};
use super::leaving::{self, NodePlan};
use super::membership::{self, Peers};
use super::memo::Memo;
use super::observed::{CloudFacts, LinkFacts, NetworkInterface, Observed, Scope};
use super::prefix::Prefix;
use super::settings::{Settings, Snat};
use super::wiring::{Alias, STRICT_PREFIX, branch_interface};
use super::{shortcut, stack_nets};

/// What the node should enforce.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Compiled policies by group set.
    pub policies: BTreeMap<GroupSetId, Arc<Policy>>,
    /// Group set of every known address.
    pub peers: Peers,
    /// Endpoints whose interfaces stand.
    pub endpoints: BTreeMap<EndpointId, EndpointPlan>,
    /// The node's own way out, as long as it is known.
    pub node: Option<NodePlan>,
    /// What drops frames on the trunk early, if that is wanted.
    pub early: Option<EarlyPlan>,
    /// Destinations of which first packets take the host stack; none where all do.
    pub stack_nets: BTreeSet<Prefix>,
    /// What revisions say of who is a member of what: a hash, or 0 where members do not count.
    pub members: u64,
    /// Bits of `Endpoint::settings` that standard-mode pods have.
    pub of_standard: u32,
    /// What could not be had, and why: an object's name and a sentence. The old state of it is kept.
    pub refused: Vec<Refusal>,
    /// Group sets and endpoints that are wanted but not computable now: what is installed for them stays.
    pub keep: Keep,
}

/// What a plan must not remove although `Desired` lacks it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// A source has not delivered its first snapshot: remove nothing.
    pub everything: bool,
    /// Policies refused in their new form.
    pub policies: BTreeSet<GroupSetId>,
    /// Endpoints whose interfaces stand but of which too little is known now. Their programs stay: an
    /// interface of a pod without programs would be open.
    pub endpoints: BTreeSet<EndpointId>,
}

/// One thing refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `pod ns/name`, `security group sg-…`, `group set sg-a,sg-b`.
    pub object: String,
    /// Why, and the way out.
    pub reason: String,
}

/// Compiled form of a group set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// First 64 bits of SHA-256 over the trie and the rule names; also stands in the trie itself.
    pub digest: u64,
    /// The trie: (prefix length, selector) -> rules, inheritance already applied.
    pub trie: BTreeMap<(u32, Selector), Answer>,
    /// The rules behind the bits, by their whole names: the kernel's map has room for 32 bytes of each.
    pub names: BTreeMap<RuleKey, RuleName>,
}

/// An endpoint and the interfaces its programs belong on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// Map value.
    pub endpoint: Endpoint,
    /// Names for people.
    pub name: EndpointName,
    /// All addresses of the branch, secondary ones too.
    pub addresses: BTreeSet<Addr>,
    /// Name of the pod's host veth; its index is in `endpoint`.
    pub host_interface: String,
    /// Name of the branch interface; its index is in `endpoint`.
    pub branch_interface: String,
}

impl Desired {
    /// Computes what should be from what is known.
    pub fn from(observed: &Observed) -> Self {
        Self::remembering(observed, &mut Memo::default())
    }

    /// Likewise; what was compiled before and is not different is not compiled again.
    pub fn remembering(observed: &Observed, memo: &mut Memo) -> Self {
        let (Some(cloud), Some(links), true) = (&observed.cloud, &observed.links, observed.cluster.is_some()) else {
            return Self { keep: Keep { everything: true, ..Keep::default() }, ..Self::default() };
        };
        if cloud.scope == Scope::Node && observed.published.is_none() {
            return Self { keep: Keep { everything: true, ..Keep::default() }, ..Self::default() };
        }
        let mut peers = observed.published.as_ref().map(|published| published.peers.clone()).unwrap_or_default();
        peers.extend(own_peers(cloud));
        let mut desired = Self { peers, of_standard: of_standard(&observed.settings), ..Self::default() };
        for (link, alias) in links.iter().filter_map(|link| Some((link, Alias::parse(link.alias.as_deref()?)?))) {
            match endpoint(link, &alias, cloud, links) {
                Ok((id, plan)) => drop(desired.endpoints.insert(id, plan)),
                Err(reason) => {
                    desired.keep.endpoints.insert(EndpointId::of(&alias.interface_id));
                    desired.refused.push(Refusal { object: format!("interface {}", link.name), reason });
                }
            }
        }
        desired.node = leaving::plan(cloud, links, &observed.settings, judges(&observed.enforcement));
        desired.compile_policies(observed, cloud, memo);
        let stack_nets = stack_nets::plan(observed).unwrap_or_else(|refusal| {
            desired.refused.push(refusal);
            None
        });
        desired.tell(observed, stack_nets.is_some());
        desired.stack_nets = stack_nets.unwrap_or_default();
        match early::plan(cloud, links, &observed.enforcement, desired.endpoints.values()) {
            Ok(plan) => desired.early = plan,
            Err(refusal) => desired.refused.push(refusal),
        }
        desired
    }

    /// Tells every endpoint the operator's choices.
    fn tell(&mut self, observed: &Observed, straight: bool) {
        let enforcement = &observed.enforcement;
        if enforcement.revoked == Revoked::IsCut {
            self.members = membership::hash(&self.peers);
        }
        for plan in self.endpoints.values_mut() {
            let standard = !plan.host_interface.starts_with(STRICT_PREFIX);
            let of = &plan.endpoint;
            let shortcut = match shortcut::is_open(observed, of.host_ifindex, of.branch_ifindex, &of.router) {
                true if straight => settings::SHORTCUT | settings::STRAIGHT,
                true => settings::SHORTCUT,
                false => 0,
            };
            plan.endpoint.settings = bits(enforcement) | shortcut | if standard { self.of_standard } else { 0 };
        }
    }

    /// A policy that cannot be compiled stays as it is installed. One that has no room for the group sets of before has to do
    /// without them.
    fn compile_policies(&mut self, observed: &Observed, cloud: &CloudFacts, memo: &mut Memo) {
        let group_sets = observed.group_sets();
        let known = &group_sets | &observed.former_group_sets;
        let context = |group_sets| Context { groups: &cloud.groups, prefix_lists: &cloud.prefix_lists, group_sets };
        let pods = self.endpoints.values().map(|plan| plan.endpoint.group_set);
        let used: BTreeSet<u64> = pods.chain(leaving::group_sets(self.node.as_ref())).collect();
        let is_used = |set: &&GroupSet| used.contains(&set.id().0);
        memo.retain(|set| is_used(&set));
        for set in group_sets.iter().filter(is_used) {
            let policy = memo.compile(set, &context(&known));
            match policy.or_else(|_| compile(set, &context(&group_sets)).map(Arc::new)) {
                Ok(policy) => drop(self.policies.insert(set.id(), policy)),
                Err(reason) => {
                    self.refused.push(Refusal { object: format!("group set {set}"), reason });
                    self.keep.policies.insert(set.id());
                }
            }
        }
    }
}

/// The group set of every private address EC2 told this node of.
pub fn own_peers(cloud: &CloudFacts) -> BTreeMap<Addr, GroupSetId> {
    let of = |eni: &NetworkInterface| {
        let set = eni.groups.id();
        eni.members().map(move |addr| (addr, set)).collect::<Vec<_>>()
    };
    cloud.interfaces.values().filter(|eni| !eni.groups.0.is_empty()).flat_map(of).collect()
}

fn of_standard(told: &Settings) -> u32 {
    let snat = if told.snat == Snat::External { 0 } else { settings::SNAT };
    snat | if told.node_ports { settings::NODE_PORTS } else { 0 }
}

fn judges(enforcement: &Enforcement) -> SnatPolicy {
    match enforcement.snat_policy {
        SnatJudges::Node => SnatPolicy::Node,
        SnatJudges::Pod => SnatPolicy::Pod,
        SnatJudges::Both => SnatPolicy::Both,
    }
}

fn bits(enforcement: &Enforcement) -> u32 {
    let related = match enforcement.related_icmp {
        RelatedIcmp::NeedsRule => 0,
        RelatedIcmp::PassesByFlow => settings::RELATED_ICMP,
    };
    let revoked = match enforcement.revoked {
        Revoked::LivesOn => 0,
        Revoked::IsCut => settings::CUT_ON_REVOKE,
    };
    related | revoked
}

/// The endpoint behind a host veth. It stands for as long as the veth does, whatever became of its pod:
/// enforcement ends with CNI DEL, not before.
fn endpoint(
    link: &LinkFacts,
    alias: &Alias,
    cloud: &CloudFacts,
    links: &[LinkFacts],
) -> Result<(EndpointId, EndpointPlan), String> {
    let id = &alias.interface_id;
    let eni = cloud.interfaces.get(id).ok_or_else(|| format!("EC2 does not know its branch {id}"))?;
    let vlan_id = eni.tags.get(VLAN_TAG).and_then(|id| id.parse().ok());
    let vlan_id: u16 = vlan_id.ok_or_else(|| format!("branch {id} has no VLAN id in its tag {VLAN_TAG}"))?;
    if vlan_id == 0 || u32::from(vlan_id) >= VLAN_IDS_MAX {
        return Err(format!(
            "branch {id} has the VLAN id {vlan_id} in its tag {VLAN_TAG}; 1 to {} are known",
            VLAN_IDS_MAX - 1
        ));
    }
    let branch = branch_interface(vlan_id);
    let branch_link = links.iter().find(|link| link.name == branch);
    let branch_link = branch_link.ok_or_else(|| format!("branch {id} has no interface {branch} on this node"))?;
    let endpoint = Endpoint {
        group_set: eni.groups.id().0,
        ipv4: first(&eni.addresses, IpAddr::is_ipv4),
        ipv6: first(&eni.addresses, IpAddr::is_ipv6),
        router: cloud.subnet_cidr(&eni.subnet_id).map_or(UNSPECIFIED, |net| offset(&net, 1)),
        resolver: cloud.vpc_cidrs.iter().find_map(v4).map_or(UNSPECIFIED, |net| offset(&net, 2)),
        branch_ifindex: branch_link.index,
        host_ifindex: link.index,
        timeouts: timeouts(eni),
        settings: 0,
        vlan_id,
        pod_mac: alias.mac,
    };
    let plan = EndpointPlan {
        endpoint,
        name: name(eni, alias),
        addresses: eni.addresses.iter().copied().map(mapped).collect(),
        host_interface: link.name.clone(),
        branch_interface: branch,
    };
    Ok((EndpointId::of(id), plan))
}

fn name(eni: &NetworkInterface, alias: &Alias) -> EndpointName {
    let pod = eni.tags.get(POD_TAG).map_or("", String::as_str);
    let (namespace, pod) = pod.split_once('/').unwrap_or_default();
    let uid = eni.tags.get(POD_UID_TAG).unwrap_or(&alias.uid);
    EndpointName { interface_id: padded(&eni.id), namespace: padded(namespace), pod: padded(pod), uid: padded(uid) }
}

pub(super) fn timeouts(eni: &NetworkInterface) -> Timeouts {
    let given = eni.timeouts;
    Timeouts { tcp_established_s: given.tcp_established_s, udp_s: given.udp_s, udp_stream_s: given.udp_stream_s }
}

pub(super) fn first(addresses: &[IpAddr], of_family: impl Fn(&IpAddr) -> bool) -> Addr {
    addresses.iter().copied().find(of_family).map_or(UNSPECIFIED, mapped)
}

/// v4-mapped, as maps hold it.
pub fn mapped(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn v4(net: &IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(v4) => Some(*v4),
        IpNet::V6(_) => None,
    }
}

/// The n-th address of a network: EC2 reserves base + 1 for the router, VPC base + 2 for DNS.
pub(super) fn offset(net: &Ipv4Net, n: u32) -> Addr {
    v4_mapped((u32::from(net.network()) + n).to_be_bytes())
}
