//! From the SDK's types to facts.

use anyhow::{Context, Error, Result, bail};
use aws_sdk_ec2::types;
use sgp_common::Direction;

use super::required;
use crate::domain::groups::{GroupSet, Remote, Rule, Service, cidr};
use crate::domain::observed::{Association, Attachment, NetworkInterface, Subnet, Timeouts, delegated};

pub(super) fn interface(eni: types::NetworkInterface) -> Result<NetworkInterface> {
    let id = required(eni.network_interface_id, "NetworkInterfaceId")?;
    let v4 = eni.private_ip_addresses.unwrap_or_default().into_iter().filter_map(|addr| addr.private_ip_address);
    let v6 = eni.ipv6_addresses.unwrap_or_default().into_iter().filter_map(|addr| addr.ipv6_address);
    let primary = eni.private_ip_address;
    let mut texts: Vec<String> = primary.iter().cloned().chain(v4).chain(v6).collect();
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    let addresses = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>();
    let v4 = eni.ipv4_prefixes.unwrap_or_default().into_iter().filter_map(|prefix| prefix.ipv4_prefix);
    let v6 = eni.ipv6_prefixes.unwrap_or_default().into_iter().filter_map(|prefix| prefix.ipv6_prefix);
    let prefixes = v4.chain(v6).map(|text| delegated(&text).map_err(Error::msg)).collect::<Result<_>>();
    Ok(NetworkInterface {
        mac: eni.mac_address.unwrap_or_default().to_lowercase(),
        addresses: addresses.with_context(|| format!("an address of {id}"))?,
        prefixes: prefixes.with_context(|| format!("a prefix of {id}"))?,
        groups: GroupSet::of(eni.groups.unwrap_or_default().into_iter().filter_map(|group| group.group_id)),
        interface_type: eni.interface_type.map_or_else(String::new, |kind| kind.as_str().to_owned()),
        status: eni.status.map_or_else(String::new, |status| status.as_str().to_owned()),
        tags: eni.tag_set.unwrap_or_default().into_iter().filter_map(|tag| Some((tag.key?, tag.value?))).collect(),
        attachment: eni.attachment.map(attachment),
        subnet_id: eni.subnet_id.unwrap_or_default(),
        timeouts: eni.connection_tracking_configuration.map(timeouts).unwrap_or_default(),
        id,
    })
}

/// What an interface does not set is EC2's default.
fn timeouts(given: types::ConnectionTrackingConfiguration) -> Timeouts {
    let or = |value: Option<i32>, default| value.and_then(|value| value.try_into().ok()).unwrap_or(default);
    let default = Timeouts::default();
    Timeouts {
        tcp_established_s: or(given.tcp_established_timeout, default.tcp_established_s),
        udp_s: or(given.udp_timeout, default.udp_s),
        udp_stream_s: or(given.udp_stream_timeout, default.udp_stream_s),
    }
}

fn attachment(at: types::NetworkInterfaceAttachment) -> Attachment {
    Attachment {
        id: at.attachment_id.unwrap_or_default(),
        instance_id: at.instance_id.unwrap_or_default(),
        device_index: at.device_index.and_then(|index| index.try_into().ok()).unwrap_or_default(),
        network_card: at.network_card_index.and_then(|card| card.try_into().ok()).unwrap_or_default(),
        status: at.status.map_or_else(String::new, |status| status.as_str().to_owned()),
        delete_on_termination: at.delete_on_termination.unwrap_or_default(),
    }
}

pub(super) fn subnet(given: types::Subnet) -> Result<Subnet> {
    let v6 = given.ipv6_cidr_block_association_set.unwrap_or_default().into_iter().find_map(|set| set.ipv6_cidr_block);
    Ok(Subnet {
        id: required(given.subnet_id, "SubnetId")?,
        cidr: given.cidr_block.and_then(|cidr| cidr.parse().ok()),
        v6_cidr: v6.and_then(|cidr| cidr.parse().ok()),
        free_addresses: given.available_ip_address_count.and_then(|count| count.try_into().ok()),
    })
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
        service: Service::of(given.ip_protocol.as_deref().unwrap_or("-1"), given.from_port, given.to_port)
            .map_err(Error::msg)
            .with_context(context)?,
        remote: remote(given).with_context(context)?,
        id: id.clone(),
    })
}

fn remote(given: types::SecurityGroupRule) -> Result<Remote> {
    if let Some(cidr) = given.cidr_ipv4.or(given.cidr_ipv6).filter(|cidr| !cidr.is_empty()) {
        return self::cidr(&cidr).map(Remote::Cidr).map_err(Error::msg);
    }
    if let Some(list) = given.prefix_list_id.filter(|list| !list.is_empty()) {
        return Ok(Remote::PrefixList(list));
    }
    let Some(group) = given.referenced_group_info else { bail!("neither a CIDR, nor a prefix list, nor a group") };
    let id = required(group.group_id, "ReferencedGroupInfo.GroupId")?;
    // Only references across a peering carry a status (facts 5.1).
    let active = group.peering_status.is_none_or(|status| status.is_empty() || status == "active");
    Ok(if active { Remote::Group(id) } else { Remote::Stale(id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(to: i32) -> aws_sdk_ec2::types::builders::SecurityGroupRuleBuilder {
        types::SecurityGroupRule::builder()
            .security_group_rule_id("sgr-1")
            .group_id("sg-1")
            .ip_protocol("tcp")
            .from_port(80)
            .to_port(to)
    }

    #[test]
    fn host_bits_are_cleared_and_nonsense_is_named() {
        let seen = rule(given(80).cidr_ipv4("10.0.2.20/24").build()).expect("a rule");
        assert_eq!(seen.remote, Remote::Cidr("10.0.2.0/24".parse().expect("a CIDR")));
        let nonsense = given(70_000).cidr_ipv4("10.0.2.20/24").build();
        let error = format!("{:#}", rule(nonsense).expect_err("no such port"));
        assert!(error.contains("sgr-1") && error.contains("70000"), "{error}");
    }

    #[test]
    fn a_reference_whose_peering_is_gone_is_stale() {
        let remote = |status: Option<&str>| {
            let group = types::ReferencedSecurityGroup::builder().group_id("sg-2");
            let group = group.set_peering_status(status.map(str::to_owned)).build();
            rule(given(80).referenced_group_info(group).build()).expect("a rule").remote
        };
        assert_eq!(remote(None), Remote::Group("sg-2".into()));
        assert_eq!(remote(Some("active")), Remote::Group("sg-2".into()));
        assert_eq!(remote(Some("deleted")), Remote::Stale("sg-2".into()));
    }

    #[test]
    fn idle_timeouts_are_the_interfaces_own_and_ec2s_defaults_where_it_says_nothing() {
        let set = types::ConnectionTrackingConfiguration::builder().udp_timeout(45).build();
        assert_eq!(timeouts(set), Timeouts { udp_s: 45, ..Timeouts::default() });
        assert_eq!(Timeouts::default(), Timeouts { tcp_established_s: 432_000, udp_s: 30, udp_stream_s: 180 });
    }
}
