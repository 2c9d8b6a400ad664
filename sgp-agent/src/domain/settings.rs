//! What the node is set to, by the environment variables of AWS's VPC CNI (facts 4): names, defaults and
//! tolerance are theirs, so that a node's settings need not be written twice.

use std::collections::BTreeMap;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use sgp_common::addr::Family;

use super::wiring::{Mode, STRICT_PREFIX};

/// Names of the variables.
pub mod variable {
    /// `strict` or `standard`.
    pub const MODE: &str = "POD_SECURITY_GROUP_ENFORCING_MODE";
    /// Whether pods have IPv4 addresses.
    pub const IPV4: &str = "ENABLE_IPv4";
    /// Whether pods have IPv6 addresses, and no IPv4.
    pub const IPV6: &str = "ENABLE_IPv6";
    /// Whether the node looks a packet's socket up only after it is routed.
    pub const NO_EARLY_DEMUX: &str = "DISABLE_TCP_EARLY_DEMUX";
    /// MTU of the node's interfaces.
    pub const ENI_MTU: &str = "AWS_VPC_ENI_MTU";
    /// MTU of pods' veths.
    pub const POD_MTU: &str = "POD_MTU";
    /// First characters of a standard-mode host veth's name.
    pub const VETH_PREFIX: &str = "AWS_VPC_K8S_CNI_VETHPREFIX";
    /// Networks that the node reaches by its own routes, whoever asks.
    pub const EXTERNAL_SERVICES: &str = "AWS_EXTERNAL_SERVICE_CIDRS";
    /// Whether somebody outside the node translates addresses.
    pub const EXTERNAL_SNAT: &str = "AWS_VPC_K8S_CNI_EXTERNALSNAT";
    /// Networks reached without translation, beside the VPC's.
    pub const EXCLUDE_SNAT: &str = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS";
    /// How source ports are chosen.
    pub const RANDOMIZE_SNAT: &str = "AWS_VPC_K8S_CNI_RANDOMIZESNAT";
    /// Bit of connection and packet mark.
    pub const MARK: &str = "AWS_VPC_K8S_CNI_CONNMARK";
    /// Whether replies of NodePort connections leave by the interface these came in by.
    pub const NODE_PORTS: &str = "AWS_VPC_CNI_NODE_PORT_SUPPORT";
}

/// The settings of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How new pods are wired.
    pub mode: Mode,
    /// The one family of the cluster's pods.
    pub family: Family,
    /// `net.ipv4.tcp_early_demux`; TCP probes of strict pods need it off (facts 3.4).
    pub early_demux: bool,
    /// Bytes, of primary interface and trunk.
    pub eni_mtu: u32,
    /// Bytes, of pods' veths.
    pub pod_mtu: u32,
    /// At most four characters.
    pub veth_prefix: String,
    /// To these, everybody goes by the table `main`.
    pub external_services: Vec<Ipv4Net>,
    /// Who translates what standard-mode pods send out of the VPC.
    pub snat: Snat,
    /// Bit or bits of the packet mark that mean "by the node's own interface".
    pub mark: u32,
    /// Replies of NodePort connections leave by the interface these came in by.
    pub node_ports: bool,
}

/// Who translates source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snat {
    /// Nobody here: everything of a pod leaves by its branch.
    External,
    /// This node, for all but these destinations and the VPC's.
    Node {
        /// Beside the VPC's CIDRs; networks, host bits cleared.
        exclude: Vec<Ipv4Net>,
        /// How a source port is chosen.
        ports: SnatPorts,
    },
}

/// How a translated flow gets its source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnatPorts {
    /// From a random number generator.
    Prng,
    /// From a hash over the flow and a secret.
    HashRandom,
    /// The pod's own, where it is free.
    Keep,
}

impl Settings {
    /// Reads variables by name; one that is empty counts as unset. With the settings come sentences about
    /// what was not understood and left at its default, as AWS leaves it.
    ///
    /// # Errors
    /// A sentence that names the variable, where AWS would not start either.
    pub fn read(given: &BTreeMap<&str, String>) -> Result<(Self, Vec<String>), String> {
        let mut given = Given { texts: given, warnings: Vec::new() };
        let family = given.family()?;
        let eni_mtu = given.mtu(variable::ENI_MTU, family, MTU_MAX)?;
        let settings = Self {
            mode: given.mode()?,
            family,
            early_demux: !given.flag(variable::NO_EARLY_DEMUX, false),
            eni_mtu,
            pod_mtu: given.mtu(variable::POD_MTU, family, eni_mtu)?,
            veth_prefix: given.veth_prefix()?,
            external_services: given.networks(variable::EXTERNAL_SERVICES),
            snat: given.snat(family),
            mark: given.mark(),
            node_ports: given.flag(variable::NODE_PORTS, true),
        };
        Ok((settings, given.warnings))
    }

    /// Destinations that a standard-mode pod reaches by its branch and under its own address; all others it
    /// reaches by the primary interface, under the node's.
    pub fn by_branch(&self, vpc_cidrs: &[IpNet]) -> Vec<IpNet> {
        match (&self.snat, self.mode) {
            (Snat::Node { exclude, .. }, Mode::Standard) => {
                vpc_cidrs.iter().copied().chain(exclude.iter().map(|net| IpNet::V4(*net))).collect()
            }
            _ => vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
        }
    }

    /// Whether marked packets go by the table `main` (rule 1024): NodePort replies, and what is translated.
    pub fn follows_mark(&self) -> bool {
        self.node_ports || matches!(self.snat, Snat::Node { .. })
    }
}

impl Default for Settings {
    /// What AWS sets where nothing is said.
    fn default() -> Self {
        Self {
            mode: Mode::Strict,
            family: Family::V4,
            early_demux: true,
            eni_mtu: MTU_MAX,
            pod_mtu: MTU_MAX,
            veth_prefix: "eni".into(),
            external_services: Vec::new(),
            snat: Snat::Node { exclude: Vec::new(), ports: SnatPorts::Prng },
            mark: MARK,
            node_ports: true,
        }
    }
}

/// The largest MTU of a VPC.
const MTU_MAX: u32 = 9001;
/// Bit 7: kube-proxy has 0xc000, Calico 0xffff0000.
const MARK: u32 = 0x80;
/// Interface names have at most 15 characters, of which the pod's hash takes 11.
const PREFIX_MAX: usize = 4;

/// The variables, and what was wrong with them so far.
struct Given<'a> {
    texts: &'a BTreeMap<&'a str, String>,
    warnings: Vec<String>,
}

impl Given<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.texts.get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn mode(&self) -> Result<Mode, String> {
        match self.text(variable::MODE).as_deref() {
            None | Some("strict") => Ok(Mode::Strict),
            Some("standard") => Ok(Mode::Standard),
            Some(other) => Err(format!("{} is {other:?}: set it to strict or standard", variable::MODE)),
        }
    }

    fn family(&mut self) -> Result<Family, String> {
        let v6 = self.flag(variable::IPV6, false);
        let v4 = self.flag(variable::IPV4, !v6);
        match (v4, v6) {
            (true, false) => Ok(Family::V4),
            (false, true) => Ok(Family::V6),
            (both, _) => Err(format!(
                "{} and {} are both {both}: a cluster's pods have one family, so set exactly one of them to true",
                variable::IPV4,
                variable::IPV6
            )),
        }
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        self.text(name).map_or(Ok(default), |text| truth(name, &text, default)).unwrap_or_else(|warning| {
            self.warnings.push(warning);
            default
        })
    }

    fn mtu(&self, name: &str, family: Family, default: u32) -> Result<u32, String> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let least = if family == Family::V6 { 1280 } else { 576 };
        let valid = text.parse().ok().filter(|mtu| (least..=MTU_MAX).contains(mtu));
        valid.ok_or_else(|| format!("{name} is {text:?}: set it to a number from {least} to {MTU_MAX}, or not at all"))
    }

    fn veth_prefix(&self) -> Result<String, String> {
        let Some(text) = self.text(variable::VETH_PREFIX) else { return Ok("eni".into()) };
        let refused = |why: &str| Err(format!("{} is {text:?}: {why}", variable::VETH_PREFIX));
        if text.len() > PREFIX_MAX {
            return refused("interface names have room for at most 4 characters of it");
        }
        if ["eth", "lo", STRICT_PREFIX].contains(&text.as_str()) {
            return refused("interfaces that are no pod's begin so; choose another");
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return refused("an interface name has letters, digits, '-', '_' and '.'");
        }
        Ok(text)
    }

    /// IPv4 networks; other items are left out.
    fn networks(&mut self, name: &str) -> Vec<Ipv4Net> {
        let text = self.text(name).unwrap_or_default();
        let mut networks = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match Ipv4Net::from_str(item) {
                Ok(network) => networks.push(network.trunc()),
                Err(_) => self.warnings.push(format!("{name} names {item:?}, which is no IPv4 CIDR; it is left out")),
            }
        }
        networks
    }

    fn snat(&mut self, family: Family) -> Snat {
        let external = self.flag(variable::EXTERNAL_SNAT, false);
        if external || family == Family::V6 {
            return Snat::External;
        }
        Snat::Node { exclude: self.networks(variable::EXCLUDE_SNAT), ports: self.ports() }
    }

    fn ports(&mut self) -> SnatPorts {
        match self.text(variable::RANDOMIZE_SNAT).as_deref() {
            None | Some("prng") => SnatPorts::Prng,
            Some("hashrandom") => SnatPorts::HashRandom,
            Some("none") => SnatPorts::Keep,
            Some(other) => {
                let name = variable::RANDOMIZE_SNAT;
                self.warnings
                    .push(format!("{name} is {other:?}, none of prng, hashrandom and none; it is taken for prng"));
                SnatPorts::Prng
            }
        }
    }

    fn mark(&mut self) -> u32 {
        let Some(text) = self.text(variable::MARK) else { return MARK };
        c_integer(&text).filter(|mark| *mark != 0).unwrap_or_else(|| {
            let name = variable::MARK;
            self.warnings
                .push(format!("{name} is {text:?}, no number from 1 to 0xffffffff; it is taken for {MARK:#x}"));
            MARK
        })
    }
}

/// What a variable says, as Go's `strconv.ParseBool` reads it, which is what AWS reads them with.
///
/// # Errors
/// A warning for who set it: what is neither true nor false is taken for the default.
pub fn truth(name: &str, text: &str, default: bool) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{name} is {text:?}, neither true nor false; it is taken for {default}")),
    }
}

/// `128`, `0x80`, `0b1000_0000`, `0o200` or `0200`, as Go's `strconv.ParseInt` with base 0 reads them.
fn c_integer(text: &str) -> Option<u32> {
    let text = text.to_ascii_lowercase();
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x', ..] => (&text[2..], 16),
        [b'0', b'b', ..] => (&text[2..], 2),
        [b'0', b'o', ..] => (&text[2..], 8),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text.as_str(), 10),
    };
    // Rust takes a sign that Go does not, and Go underscores that Rust does not.
    if digits.starts_with('+') { None } else { u32::from_str_radix(&digits.replace('_', ""), radix).ok() }
}

#[cfg(test)]
mod tests;
