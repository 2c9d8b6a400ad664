//! From the SDK's types to facts.

use anyhow::{Context, Result, bail};
use aws_sdk_ec2::types;
use ipnet::IpNet;
use sgp_common::Direction;
use sgp_common::packet::{ICMP, ICMPV6, TCP, UDP};

use super::required;
use crate::domain::groups::{GroupSet, Remote, Rule, Service};
use crate::domain::observed::{Association, Attachment, NetworkInterface};

pub(super) fn interface(eni: types::NetworkInterface) -> Result<NetworkInterface> {
    let id = required(eni.network_interface_id, "NetworkInterfaceId")?;
    let v4 = eni.private_ip_addresses.unwrap_or_default().into_iter().filter_map(|addr| addr.private_ip_address);
    let v6 = eni.ipv6_addresses.unwrap_or_default().into_iter().filter_map(|addr| addr.ipv6_address);
    let primary = eni.private_ip_address;
    let mut texts: Vec<String> = primary.iter().cloned().chain(v4).chain(v6).collect();
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    let addresses = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    Ok(NetworkInterface {
        mac: eni.mac_address.unwrap_or_default().to_lowercase(),
        addresses: addresses.with_context(|| format!("an address of {id}"))?,
        groups: GroupSet::of(eni.groups.unwrap_or_default().into_iter().filter_map(|group| group.group_id)),
        interface_type: eni.interface_type.map_or_else(String::new, |kind| kind.as_str().to_owned()),
        tags: eni.tag_set.unwrap_or_default().into_iter().filter_map(|tag| Some((tag.key?, tag.value?))).collect(),
        attachment: eni.attachment.map(attachment),
        subnet_id: eni.subnet_id.unwrap_or_default(),
        id,
    })
}

fn attachment(at: types::NetworkInterfaceAttachment) -> Attachment {
    Attachment {
        id: at.attachment_id.unwrap_or_default(),
        instance_id: at.instance_id.unwrap_or_default(),
        device_index: at.device_index.and_then(|index| index.try_into().ok()).unwrap_or_default(),
        status: at.status.map_or_else(String::new, |status| status.as_str().to_owned()),
        delete_on_termination: at.delete_on_termination.unwrap_or_default(),
    }
}

pub(super) fn association(given: types::TrunkInterfaceAssociation) -> Result<Association> {
    let vlan = required(given.vlan_id, "VlanId")?;
    Ok(Association {
        id: required(given.association_id, "AssociationId")?,
        trunk_id: required(given.trunk_interface_id, "TrunkInterfaceId")?,
        branch_id: required(given.branch_interface_id, "BranchInterfaceId")?,
        vlan_id: vlan.try_into().with_context(|| format!("{vlan} is no VLAN id"))?,
    })
}

pub(super) fn rule(given: types::SecurityGroupRule) -> Result<Rule> {
    let id = required(given.security_group_rule_id.clone(), "SecurityGroupRuleId")?;
    let context = || format!("security group rule {id}");
    Ok(Rule {
        group_id: required(given.group_id.clone(), "GroupId").with_context(context)?,
        direction: if given.is_egress.unwrap_or_default() { Direction::Outbound } else { Direction::Inbound },
        service: service(&given).with_context(context)?,
        remote: remote(given).with_context(context)?,
        id: id.clone(),
    })
}

fn remote(given: types::SecurityGroupRule) -> Result<Remote> {
    if let Some(cidr) = given.cidr_ipv4.or(given.cidr_ipv6).filter(|cidr| !cidr.is_empty()) {
        return cidr_of(&cidr).map(Remote::Cidr);
    }
    if let Some(list) = given.prefix_list_id.filter(|list| !list.is_empty()) {
        return Ok(Remote::PrefixList(list));
    }
    match given.referenced_group_info.and_then(|group| group.group_id) {
        Some(group) => Ok(Remote::Group(group)),
        None => bail!("neither a CIDR, nor a prefix list, nor a group"),
    }
}

/// Host bits are cleared, as EC2's own API does.
pub(super) fn cidr_of(text: &str) -> Result<IpNet> {
    let net: IpNet = text.parse().with_context(|| format!("{text:?} is no CIDR"))?;
    Ok(net.trunc())
}

/// Facts 5.1: -1 is everything; TCP and UDP have ports; ICMP has type and code, -1 meaning any; any other
/// protocol means all ports.
fn service(given: &types::SecurityGroupRule) -> Result<Service> {
    let text = given.ip_protocol.as_deref().unwrap_or("-1");
    let protocol = match text {
        "-1" => return Ok(Service::All),
        "tcp" => TCP,
        "udp" => UDP,
        "icmp" => ICMP,
        "icmpv6" => ICMPV6,
        number => number.parse().with_context(|| format!("{number:?} is no protocol"))?,
    };
    let (from, to) = (given.from_port.unwrap_or(-1), given.to_port.unwrap_or(-1));
    Ok(match protocol {
        TCP | UDP if from == -1 => Service::Ports { protocol, from: 0, to: u16::MAX },
        TCP | UDP => Service::Ports { protocol, from: port(from)?, to: port(to)? },
        ICMP | ICMPV6 => Service::Icmp { protocol, icmp_type: byte(from)?, code: byte(to)?.filter(|_| from != -1) },
        _ => Service::Protocol(protocol),
    })
}

fn port(number: i32) -> Result<u16> {
    number.try_into().with_context(|| format!("{number} is no port"))
}

fn byte(number: i32) -> Result<Option<u8>> {
    if number == -1 {
        return Ok(None);
    }
    number.try_into().map(Some).with_context(|| format!("{number} is no ICMP type or code"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(protocol: &str, from: i32, to: i32) -> types::SecurityGroupRule {
        types::SecurityGroupRule::builder()
            .security_group_rule_id("sgr-1")
            .group_id("sg-1")
            .ip_protocol(protocol)
            .from_port(from)
            .to_port(to)
            .cidr_ipv4("10.0.2.20/24")
            .build()
    }

    #[test]
    fn every_kind_of_protocol_becomes_its_service() {
        let icmp = |icmp_type, code| Service::Icmp { protocol: ICMP, icmp_type, code };
        for (protocol, from, to, expected) in [
            ("-1", -1, -1, Service::All),
            ("tcp", 80, 443, Service::Ports { protocol: TCP, from: 80, to: 443 }),
            ("17", 53, 53, Service::Ports { protocol: UDP, from: 53, to: 53 }),
            ("tcp", -1, -1, Service::Ports { protocol: TCP, from: 0, to: 65535 }),
            ("icmp", -1, -1, icmp(None, None)),
            ("icmp", 3, 4, icmp(Some(3), Some(4))),
            ("icmp", 3, -1, icmp(Some(3), None)),
            ("50", -1, -1, Service::Protocol(50)),
        ] {
            let rule = rule(given(protocol, from, to)).expect("a rule EC2 may give");
            assert_eq!(rule.service, expected, "{protocol} {from} {to}");
        }
    }

    #[test]
    fn host_bits_are_cleared_and_nonsense_is_named() {
        let rule_seen = rule(given("tcp", 80, 80)).expect("a rule");
        assert_eq!(rule_seen.remote, Remote::Cidr("10.0.2.0/24".parse().expect("a CIDR")));
        let error = format!("{:#}", rule(given("tcp", 80, 70_000)).expect_err("no such port"));
        assert!(error.contains("sgr-1") && error.contains("70000"), "{error}");
    }
}
