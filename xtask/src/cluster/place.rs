//! Where a cluster lives on this machine: its number, directory, namespaces and addresses.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use crate::shape::{Family, Machine, Mode, Shape};

/// Directory of all clusters.
pub(crate) const CLUSTERS: &str = "/run/sgp-dev";
/// A host outside the VPC (RFC 5737).
pub(crate) const INTERNET: &str = "203.0.113.10";
/// Likewise (RFC 3849).
pub(crate) const INTERNET_V6: &str = "2001:db8:ffff::10";
/// The VPC's router for IPv6, in every subnet (facts 3.1).
pub(crate) const ROUTER_V6: &str = "fe80:ec2::1";
/// As many clusters as the address plan has room for.
const CLUSTERS_MAX: u8 = 64;

/// One cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    /// Its name.
    pub(crate) name: String,
    /// Its number: the second octet of its addresses is 64 + this.
    pub(crate) index: u8,
    /// Number of nodes.
    pub(crate) nodes: u8,
    /// How its agents wire new pods.
    pub(crate) mode: Mode,
    /// Family of pods and Services.
    pub(crate) family: Family,
    /// Instance type of the nodes.
    #[serde(default)]
    pub(crate) machine: Machine,
    /// The process it does not outlive, for a demo's or a test's; a cluster to work with has none.
    #[serde(default)]
    pub(crate) owner: Option<i32>,
    /// What EC2 made, once it is made.
    pub(crate) cloud: Option<Cloud>,
}

/// Ids in EC2.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cloud {
    /// The VPC.
    pub(crate) vpc: String,
    /// The cluster's own security group.
    pub(crate) cluster_group: String,
    /// Instance of each node.
    pub(crate) instances: std::collections::BTreeMap<String, Instance>,
}

/// What EC2 made for a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// `i-…`
    pub(crate) id: String,
    /// MAC address of its primary interface.
    pub(crate) mac: String,
}

/// Makes the directory of a number; false where somebody has it.
fn claims(directory: &Path) -> Result<bool> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("{} cannot be made", directory.display()))
        }
        made => Ok(made.is_ok()),
    }
}

impl Place {
    /// Takes the first free number. Two clusters started in the same instant cannot get the same one: making
    /// the number's directory is the claim.
    pub(crate) fn claim(name: &str, shape: Shape, owner: Option<i32>) -> Result<Self> {
        let Shape { nodes, mode, family, machine } = shape;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        ensure!(
            !name.is_empty() && name.len() <= 8 && name.chars().all(plain),
            "a cluster's name has 1 to 8 lower-case letters and digits; {name:?} has not"
        );
        ensure!((1..=20).contains(&nodes), "a cluster has 1 to 20 nodes, not {nodes}");
        ensure!(
            !dir_of(name).exists(),
            "cluster {name} is there already: `cargo xtask dev down --cluster {name}` first"
        );
        fs::create_dir_all(format!("{CLUSTERS}/numbers")).context("making /run/sgp-dev")?;
        for index in 0..CLUSTERS_MAX {
            if claims(&number_dir(index))? {
                let name = name.to_owned();
                let place = Self { name, index, nodes, mode, family, machine, owner, cloud: None };
                if let Err(error) = fs::create_dir(place.dir()) {
                    // Somebody starts a cluster of this name in the same moment.
                    drop(fs::remove_dir(number_dir(index)));
                    return Err(error).with_context(|| format!("making the directory of cluster {}", place.name));
                }
                place.save()?;
                return Ok(place);
            }
        }
        bail!("{CLUSTERS_MAX} clusters are up on this machine already")
    }

    /// Whether whoever it was made for was stopped before taking it down: killed, or its session ended.
    pub(crate) fn is_orphan(&self) -> bool {
        self.owner.is_some_and(|pid| {
            // A number given anew to another program is no owner.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() != "sgp-dev"
        })
    }

    /// Reads the record of a cluster.
    pub(crate) fn load(name: &str) -> Result<Self> {
        let path = dir_of(name).join("cluster.json");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("there is no cluster {name}: `cargo xtask dev up --cluster {name}` makes one"))?;
        serde_json::from_str(&text).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// Writes the record.
    pub(crate) fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("writing the cluster's record")?;
        fs::write(self.dir().join("cluster.json"), text).context("writing the cluster's record")
    }

    /// What it is like.
    pub(crate) fn shape(&self) -> Shape {
        Shape { nodes: self.nodes, mode: self.mode, family: self.family, machine: self.machine }
    }

    /// Gives directory and number back.
    pub(crate) fn forget(&self) {
        // Whatever is left is nothing that runs; the next claim of the name says so.
        drop(fs::remove_dir_all(self.dir()));
        drop(fs::remove_dir(number_dir(self.index)));
    }

    /// Directory of everything of this cluster.
    pub(crate) fn dir(&self) -> PathBuf {
        dir_of(&self.name)
    }

    /// Names of the nodes.
    pub(crate) fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("n{number}")).collect()
    }

    /// Name of a network namespace: `router`, `cp`, `inet` or a node.
    pub(crate) fn netns(&self, what: &str) -> String {
        format!("sgp-{}-{what}", self.name)
    }

    /// An IPv4 address of the VPC.
    pub(crate) fn address(&self, third: u8, last: u8) -> String {
        format!("10.{}.{third}.{last}", 64 + self.index)
    }

    /// An IPv6 address of the VPC, in the subnet of the same number.
    pub(crate) fn address_v6(&self, subnet: u8, last: u8) -> String {
        let cluster = 64 + u16::from(self.index);
        Ipv6Addr::new(0x2001, 0xdb8, cluster, subnet.into(), 0, 0, 0, last.into()).to_string()
    }

    /// An address of the VPC, of the pods' family.
    pub(crate) fn address_of(&self, family: Family, subnet: u8, last: u8) -> String {
        match family {
            Family::V4 => self.address(subnet, last),
            Family::V6 => self.address_v6(subnet, last),
        }
    }

    /// Service addresses, the same in every cluster: they never leave a node.
    pub(crate) fn services(&self) -> &'static str {
        if self.family == Family::V4 { "172.20.0.0/16" } else { "fd00:5e4::/112" }
    }

    /// Service of the API server.
    pub(crate) fn api_service(&self) -> &'static str {
        if self.family == Family::V4 { "172.20.0.1" } else { "fd00:5e4::1" }
    }

    /// Cluster DNS.
    pub(crate) fn dns(&self) -> &'static str {
        if self.family == Family::V4 { "172.20.0.10" } else { "fd00:5e4::a" }
    }

    /// A host outside the VPC, of the pods' family.
    pub(crate) fn internet(&self) -> &'static str {
        if self.family == Family::V4 { INTERNET } else { INTERNET_V6 }
    }

    /// Subnet of a node, counted from 1: they take turns.
    pub(crate) fn subnet_of(node: u8) -> u8 {
        (node - 1) % 2
    }

    /// Primary IPv4 address of a node, counted from 1.
    pub(crate) fn node_address(&self, node: u8) -> String {
        self.address(Self::subnet_of(node), 10 + node)
    }

    /// Its IPv6 address, in a cluster of that family.
    pub(crate) fn node_address_v6(&self, node: u8) -> String {
        self.address_v6(Self::subnet_of(node), 10 + node)
    }

    /// What its Node object says: of the family of the pods.
    pub(crate) fn internal_ip(&self, node: u8) -> String {
        self.address_of(self.family, Self::subnet_of(node), 10 + node)
    }

    /// Where API server and EC2 listen.
    pub(crate) fn control_plane(&self) -> String {
        self.address(250, 10)
    }

    /// Pins of a node's agent.
    pub(crate) fn bpf_dir(&self, node: &str) -> String {
        format!("/sys/fs/bpf/sgp-{}-{node}", self.name)
    }

    /// Directory of a node.
    pub(crate) fn node_dir(&self, node: &str) -> PathBuf {
        self.dir().join(node)
    }

    /// What `dev up` prints, and what every process of the cluster is given.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("KUBECONFIG", self.dir().join("kubeconfig").display().to_string()),
            ("AWS_ENDPOINT_URL", format!("http://{}:5000", self.control_plane())),
            ("AWS_REGION", "us-west-2".to_owned()),
            ("AWS_DEFAULT_REGION", "us-west-2".to_owned()),
            ("AWS_ACCESS_KEY_ID", "sgp-dev".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "sgp-dev".to_owned()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn dir_of(name: &str) -> PathBuf {
    Path::new(CLUSTERS).join(name)
}

fn number_dir(index: u8) -> PathBuf {
    Path::new(CLUSTERS).join("numbers").join(index.to_string())
}
