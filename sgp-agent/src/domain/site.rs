//! Where trunk and branches of this node are made, and whether they can be (facts 1.8, 2.2).

use std::net::IpAddr;

use super::cloud_steps::{Family, Purpose};
use super::groups::GroupSet;
use super::observed::{CloudFacts, ClusterFacts, CniNodeFacts, NodeFacts, Subnet};

/// Something to say once, for as long as it holds: an event on its object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The node, or a pod.
    pub about: Purpose,
    /// How bad it is.
    pub severity: Severity,
    /// Reason of the event, one of AWS's own (facts 1.7).
    pub reason: &'static str,
    /// Its text.
    pub message: String,
}

/// Type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Where new interfaces are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Subnet.
    pub subnet: Subnet,
    /// Groups of the trunk, and of branches that no policy says groups for.
    pub groups: GroupSet,
}

impl Site {
    /// Addresses a new interface asks for.
    pub fn family(&self) -> Family {
        if self.subnet.v6_cidr.is_some() { Family::Dual } else { Family::V4 }
    }
}

/// What an event says of a trunk that cannot be had, before it says why (facts 1.7).
pub const TRUNK_FAILED: &str = "The node failed initializing trunk interface";

const AUTO_MODE: (&str, &str) = ("eks.amazonaws.com/compute-type", "auto");
/// Label by which VPC CNI is told of an ENIConfig before all others.
const EXTERNAL_ENI_CONFIG: &str = "vpc.amazonaws.com/externalEniConfig";
/// Label that AWS's controller reads.
const CONTROLLERS_ENI_CONFIG: &str = "vpc.amazonaws.com/eniConfig";

/// Where VPC CNI, with custom networking on, finds the name of a node's ENIConfig (facts 1.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EniConfigKeys {
    /// Key of an annotation of the Node.
    pub annotation: String,
    /// Key of a label of the Node, which counts after the annotation.
    pub label: String,
}

/// The site of this node.
///
/// # Errors
/// Why it gets neither trunk nor branches.
pub fn site(cluster: &ClusterFacts, cloud: &CloudFacts, keys: Option<&EniConfigKeys>) -> Result<Site, Notice> {
    supported(cluster.node.as_ref(), cloud)?;
    let site = match eni_config_name(cluster, keys) {
        None => Site { subnet: own_subnet(cloud), groups: cloud.instance.primary_groups.clone() },
        Some(name) => custom(&name, cluster, cloud)?,
    };
    let only_v6 = |node: &NodeFacts| !node.addresses.is_empty() && node.addresses.iter().all(IpAddr::is_ipv6);
    if site.subnet.v6_cidr.is_none() && cluster.node.as_ref().is_some_and(only_v6) {
        return Err(unsupported(format!(
            "The node is of an IPv6 cluster, and subnet {} has no IPv6 CIDR for branches: give it one",
            site.subnet.id
        )));
    }
    Ok(site)
}

fn supported(node: Option<&NodeFacts>, cloud: &CloudFacts) -> Result<(), Notice> {
    let instance = &cloud.instance;
    let label = |key: &str| node.and_then(|node| node.labels.get(key)).map(String::as_str);
    if label(AUTO_MODE.0) == Some(AUTO_MODE.1) {
        return Err(unsupported("The node is of EKS Auto Mode, which looks after its interfaces itself".into()));
    }
    if let Some(os) = label("kubernetes.io/os").filter(|os| *os != "linux") {
        return Err(unsupported(format!("Security groups for pods are for Linux nodes; this one runs {os}")));
    }
    match (instance.known_type, instance.branch_limit) {
        (false, 0) => Err(unsupported(format!(
            "The instance type {} is not supported yet by the vpc resource controller: the table of instance types does not have it (sgp-agent run --instance-limits FILE)",
            instance.instance_type
        ))),
        (true, 0) => Err(unsupported(format!(
            "The instance type {} is not supported for trunk interface (Security Group for Pods): use a Nitro type that carries branches",
            instance.instance_type
        ))),
        _ => Ok(()),
    }
}

fn unsupported(message: String) -> Notice {
    Notice { about: Purpose::Node, severity: Severity::Warning, reason: "Unsupported", message }
}

fn own_subnet(cloud: &CloudFacts) -> Subnet {
    let instance = &cloud.instance;
    let described = cloud.subnets.get(&instance.subnet_id).cloned();
    described.unwrap_or_else(|| Subnet {
        id: instance.subnet_id.clone(),
        cidr: instance.subnet_cidr,
        v6_cidr: instance.subnet_v6_cidr,
        free_addresses: None,
    })
}

/// Name of the ENIConfig that applies: as VPC CNI picks it where custom networking is on (`keys`), else as AWS's controller
/// finds it. What CNI wrote into CNINode is the last to count, since nobody but CNI changes it there.
pub fn eni_config_name(cluster: &ClusterFacts, keys: Option<&EniConfigKeys>) -> Option<String> {
    let node = cluster.node.as_ref();
    let label = |key: &str| node.and_then(|node| node.labels.get(key)).cloned();
    let annotation = |key: &str| node.and_then(|node| node.annotations.get(key)).cloned();
    let by_cni = keys.map(|keys| [label(EXTERNAL_ENI_CONFIG), annotation(&keys.annotation), label(&keys.label)]);
    let feature = match &cluster.cni_node {
        CniNodeFacts::There(cni_node) => cni_node.features.get("CustomNetworking").cloned(),
        CniNodeFacts::Missing | CniNodeFacts::NoSuchKind => None,
    };
    let all = by_cni.into_iter().flatten().chain([label(CONTROLLERS_ENI_CONFIG), feature]);
    all.flatten().find(|name| !name.is_empty())
}

/// A policy's groups win over the ENIConfig's; these are for the trunk.
fn custom(name: &str, cluster: &ClusterFacts, cloud: &CloudFacts) -> Result<Site, Notice> {
    let node = cluster.node.as_ref().map_or("", |node| node.name.as_str());
    let missing = |what: String| Notice {
        about: Purpose::Node,
        severity: Severity::Warning,
        reason: "EniConfigNameNotFound",
        message: format!("couldn't find custom networking eniconfig name for node {node}, error: {what}"),
    };
    let config = cluster
        .eni_configs
        .get(name)
        .ok_or_else(|| missing(format!("resource was not found: there is no ENIConfig {name}")))?;
    let subnet = cloud.subnets.get(&config.subnet_id).cloned();
    let subnet = subnet.or_else(|| Some(own_subnet(cloud)).filter(|own| own.id == config.subnet_id));
    let subnet =
        subnet.ok_or_else(|| missing(format!("EC2 does not know subnet {} of ENIConfig {name}", config.subnet_id)))?;
    let groups = Some(&config.groups).filter(|groups| !groups.0.is_empty());
    Ok(Site { subnet, groups: groups.unwrap_or(&cloud.instance.primary_groups).clone() })
}
