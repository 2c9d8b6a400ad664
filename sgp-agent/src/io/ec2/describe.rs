//! Reading EC2. Independent questions are asked side by side.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, SecurityGroup as Described, VpcCidrBlockAssociation, VpcCidrBlockStateCode};
use ipnet::IpNet;

use super::{Unanswered, convert, failed, members, required, told};
use crate::domain::branches::{INSTANCE_TAG, TRUNK_TAG, VLAN_TAG};
use crate::domain::failure::FailureKind;
use crate::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, cidr};
use crate::domain::instance_types::Table;
use crate::domain::observed::{Association, CloudFacts, Instance, NetworkInterface, Scope, Subnet, Wanted};

/// EC2 takes at most 200 values in a filter.
pub(super) const FILTER_VALUES: usize = 200;

/// The instance: what of it never changes, and for the rest what holds now.
pub(super) async fn instance(client: &Client, id: &str, types: &Table) -> Result<Instance> {
    let context = || format!("describing instance {id}");
    let answer = client.describe_instances().instance_ids(id).send().await;
    let answer = answer.map_err(told("DescribeInstances")).with_context(context)?;
    let found =
        answer.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default()).next();
    let found = found.with_context(|| format!("EC2 does not know instance {id}"))?;
    let subnet_id = required(found.subnet_id, "SubnetId").with_context(context)?;
    let vpc_id = required(found.vpc_id, "VpcId").with_context(context)?;
    let instance_type = found.instance_type.map_or_else(String::new, |kind| kind.as_str().to_owned());
    let limits = types.get(&instance_type);
    Ok(Instance {
        id: id.to_owned(),
        instance_type,
        subnet_cidr: None,
        subnet_v6_cidr: None,
        subnet_id,
        vpc_id,
        primary_groups: GroupSet::of(found.security_groups.unwrap_or_default().into_iter().filter_map(|g| g.group_id)),
        device_indexes: BTreeSet::new(),
        known_type: limits.is_some(),
        branch_limit: limits.map_or(0, |limits| limits.branch_limit()),
        interface_limit: limits.map_or(0, |limits| limits.interface_limit()),
    })
}

/// The instance as the rest of EC2's answers shows it now: interfaces come and go, an operator gives the node other
/// groups, or its subnet an IPv6 CIDR.
fn as_it_is(instance: &Instance, interfaces: &BTreeMap<String, NetworkInterface>, subnet: Option<&Subnet>) -> Instance {
    let here = |eni: &&NetworkInterface| {
        eni.attachment.as_ref().is_some_and(|at| at.instance_id == instance.id && at.network_card == 0)
    };
    let index = |eni: &NetworkInterface| eni.attachment.as_ref().map(|at| at.device_index);
    let attached = || interfaces.values().filter(here);
    let primary = attached().find(|eni| index(eni) == Some(0));
    Instance {
        device_indexes: attached().filter_map(index).collect(),
        primary_groups: primary.map_or(&instance.primary_groups, |eni| &eni.groups).clone(),
        subnet_cidr: subnet.and_then(|subnet| subnet.cidr),
        subnet_v6_cidr: subnet.and_then(|subnet| subnet.v6_cidr),
        ..instance.clone()
    }
}

/// Those of the wanted subnets that EC2 knows: by filter, since asking for an unknown one by id is an error.
async fn subnets(client: &Client, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Subnet>> {
    let ids = wanted.iter().take(FILTER_VALUES).cloned().collect();
    let filter = Filter::builder().name("subnet-id").set_values(Some(ids)).build();
    let pages = client.describe_subnets().filters(filter).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told("DescribeSubnets"));
    let all = all.context("describing subnets")?;
    all.into_iter().map(|given| convert::subnet(given).map(|subnet| (subnet.id.clone(), subnet))).collect()
}

/// Of the CIDRs of a VPC those that hold: one that was taken away is told of for a while.
async fn vpc_cidrs(client: &Client, id: &str) -> Result<Vec<IpNet>> {
    let context = || format!("describing VPC {id}");
    let answer = client.describe_vpcs().vpc_ids(id).send().await.map_err(told("DescribeVpcs")).with_context(context)?;
    let found = answer.vpcs.unwrap_or_default().into_iter().next();
    let found = found.with_context(|| format!("EC2 does not know VPC {id}"))?;
    let holds = |set: &VpcCidrBlockAssociation| {
        let state = set.cidr_block_state.as_ref().and_then(|state| state.state.as_ref());
        state.is_none_or(|state| *state == VpcCidrBlockStateCode::Associated)
    };
    let more = found.cidr_block_association_set.unwrap_or_default().into_iter().filter(holds);
    let mut seen = BTreeSet::new();
    let mut all: Vec<String> = found.cidr_block.into_iter().chain(more.filter_map(|set| set.cidr_block)).collect();
    all.retain(|text| seen.insert(text.clone()));
    all.iter().map(|text| cidr(text).map_err(anyhow::Error::msg)).collect()
}

/// Interfaces first: which groups' rules are needed depends on them.
pub(super) async fn facts(
    client: &Client,
    instance: &Instance,
    wanted: &Wanted,
    trunk_account: Option<&str>,
) -> Result<CloudFacts> {
    let mut wanted_subnets = wanted.subnets.clone();
    wanted_subnets.insert(instance.subnet_id.clone());
    let (mut interfaces, associations, known, subnets, permitted, vpc_cidrs) = tokio::try_join!(
        members::seen(client, instance, wanted.scope),
        associations_if_told(client),
        groups(client),
        subnets(client, &wanted_subnets),
        permitted(client, trunk_account),
        vpc_cidrs(client, &instance.vpc_id)
    )?;
    let subnet = subnets.get(&instance.subnet_id);
    let subnet = Some(subnet.with_context(|| format!("EC2 does not know subnet {}", instance.subnet_id))?);
    let instance = as_it_is(instance, &interfaces, subnet);
    let here = interfaces.values().filter(|eni| eni.tags.get(INSTANCE_TAG) == Some(&instance.id));
    let mut judged: BTreeSet<String> = here.flat_map(|eni| eni.groups.0.iter().cloned()).collect();
    judged.extend(wanted.groups.iter().filter(|id| known.contains_key(*id)).cloned());
    // What leaves the VPC is judged by these, and VPC CNI does not tag the primary interface as the node's.
    judged.extend(instance.primary_groups.0.iter().cloned());
    let groups = with_rules(known, rules(client, &judged).await?);
    let prefix_lists = prefix_lists(client, &groups).await?;
    if wanted.scope == Scope::Vpc {
        let elsewhere = groups_elsewhere(&groups, &instance.vpc_id);
        interfaces.append(&mut members::filtered(client, "group-id", &elsewhere).await?);
    }
    Ok(CloudFacts {
        instance,
        associations: associations.unwrap_or_else(|| from_tags(&interfaces)),
        groups,
        prefix_lists,
        interfaces,
        vpc_cidrs,
        subnets,
        permitted,
        scope: wanted.scope,
    })
}

/// Referenced groups of other VPCs: theirs may be peered with ours (facts 5.1). Those of other accounts are among them, whose
/// interfaces EC2 does not tell of.
fn groups_elsewhere(groups: &BTreeMap<String, SecurityGroup>, vpc_id: &str) -> BTreeSet<String> {
    let referenced = groups.values().flat_map(|group| &group.rules).filter_map(|rule| match &rule.remote {
        Remote::Group(id) => Some(id),
        _ => None,
    });
    referenced.filter(|id| groups.get(*id).is_none_or(|group| group.vpc_id != vpc_id)).cloned().collect()
}

pub(super) async fn interfaces(client: &Client, filters: Vec<Filter>) -> Result<BTreeMap<String, NetworkInterface>> {
    let pages = client.describe_network_interfaces().set_filters(Some(filters)).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told("DescribeNetworkInterfaces"));
    let all = all.context("describing network interfaces")?;
    all.into_iter().map(|eni| convert::interface(eni).map(|eni| (eni.id.clone(), eni))).collect()
}

pub(super) async fn associations(client: &Client) -> Result<BTreeMap<String, Association>> {
    associations_if_told(client).await.map(Option::unwrap_or_default)
}

/// `None` where the role may not know: AWS's own controller may not either (facts 2.5), and the tags tell.
async fn associations_if_told(client: &Client) -> Result<Option<BTreeMap<String, Association>>> {
    let pages = client.describe_trunk_interface_associations().into_paginator().items().send();
    let all = match pages.collect::<Result<Vec<_>, _>>().await.map_err(failed) {
        Ok(all) => all,
        Err(failure) if failure.kind == FailureKind::Unauthorized => return Ok(None),
        Err(failure) => {
            let action = "DescribeTrunkInterfaceAssociations";
            return Err(Unanswered { action, failure }).context("describing trunk associations");
        }
    };
    let all = all.into_iter().map(|given| convert::association(given).map(|found| (found.branch_id.clone(), found)));
    all.collect::<Result<_>>().map(Some)
}

/// What tags say of branches in use; without ids, which nobody but the call itself tells.
fn from_tags(interfaces: &BTreeMap<String, NetworkInterface>) -> BTreeMap<String, Association> {
    let on_trunk = |eni: &NetworkInterface| {
        let in_use = eni.status == "in-use" && eni.attachment.is_none();
        let (trunk, vlan) = (eni.tags.get(TRUNK_TAG)?, eni.tags.get(VLAN_TAG)?);
        let (trunk_id, branch_id, vlan_id) = (trunk.clone(), eni.id.clone(), vlan.parse().ok()?);
        in_use.then(|| (eni.id.clone(), Association { id: String::new(), trunk_id, branch_id, vlan_id }))
    };
    interfaces.values().filter_map(on_trunk).collect()
}

/// Interfaces that an account may attach; nothing where nobody asks for one.
async fn permitted(client: &Client, account: Option<&str>) -> Result<BTreeSet<String>> {
    let Some(account) = account else { return Ok(BTreeSet::new()) };
    let filter = Filter::builder().name("network-interface-permission.aws-account-id").values(account).build();
    let pages = client.describe_network_interface_permissions().filters(filter).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told("DescribeNetworkInterfacePermissions"));
    let all = all.context("describing interface permissions")?;
    Ok(all.into_iter().filter_map(|permission| permission.network_interface_id).collect())
}

async fn groups(client: &Client) -> Result<BTreeMap<String, SecurityGroup>> {
    let pages = client.describe_security_groups().into_paginator().items().send();
    let all = pages.collect::<Result<Vec<Described>, _>>().await.map_err(told("DescribeSecurityGroups"));
    let all = all.context("describing security groups")?;
    let group = |given: Described| {
        let id = given.group_id?;
        let vpc_id = given.vpc_id.unwrap_or_default();
        Some((id.clone(), SecurityGroup { id, vpc_id, rules: Vec::new() }))
    };
    Ok(all.into_iter().filter_map(group).collect())
}

async fn rules(client: &Client, groups: &BTreeSet<String>) -> Result<Vec<Rule>> {
    let ids: Vec<&String> = groups.iter().collect();
    let mut rules = Vec::new();
    for chunk in ids.chunks(FILTER_VALUES) {
        let filter =
            Filter::builder().name("group-id").set_values(Some(chunk.iter().map(|id| (*id).clone()).collect()));
        let pages = client.describe_security_group_rules().filters(filter.build()).into_paginator().items().send();
        let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told("DescribeSecurityGroupRules"));
        let all = all.context("describing security group rules")?;
        for given in all {
            rules.push(convert::rule(given)?);
        }
    }
    Ok(rules)
}

fn with_rules(mut groups: BTreeMap<String, SecurityGroup>, rules: Vec<Rule>) -> BTreeMap<String, SecurityGroup> {
    for rule in rules {
        if let Some(group) = groups.get_mut(&rule.group_id) {
            group.rules.push(rule);
        }
    }
    groups
}

async fn prefix_lists(
    client: &Client,
    groups: &BTreeMap<String, SecurityGroup>,
) -> Result<BTreeMap<String, Vec<IpNet>>> {
    let list = |rule: &Rule| if let Remote::PrefixList(id) = &rule.remote { Some(id.clone()) } else { None };
    let ids: BTreeSet<String> = groups.values().flat_map(|group| &group.rules).filter_map(list).collect();
    let mut lists = BTreeMap::new();
    for id in ids {
        let pages = client.get_managed_prefix_list_entries().prefix_list_id(&id).into_paginator().items().send();
        let entries = match pages.collect::<Result<Vec<_>, _>>().await {
            Ok(entries) => entries,
            // A list that is gone matches nothing, like a group that is gone.
            Err(error) if super::is_gone(&error) => continue,
            Err(error) => {
                let error = told("GetManagedPrefixListEntries")(error);
                return Err(error).with_context(|| format!("reading prefix list {id}"));
            }
        };
        let nets =
            entries.into_iter().filter_map(|entry| entry.cidr).map(|text| cidr(&text).map_err(anyhow::Error::msg));
        lists.insert(id, nets.collect::<Result<_>>()?);
    }
    Ok(lists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::observed::Attachment;

    #[test]
    fn groups_indexes_and_cidrs_of_the_instance_are_those_of_the_moment() {
        let known = Instance { id: "i-1".into(), primary_groups: GroupSet::of(["sg-old"]), ..Instance::default() };
        let attached = |id: &str, instance: &str, device_index: u32, group: &str| {
            let attachment = Attachment { instance_id: instance.into(), device_index, ..Attachment::default() };
            let groups = GroupSet::of([group.to_owned()]);
            (id.to_owned(), NetworkInterface { attachment: Some(attachment), groups, ..NetworkInterface::default() })
        };
        let (id, mut second) = attached("eni-0", "i-1", 1, "sg-efa");
        second.attachment.as_mut().expect("it is attached").network_card = 1;
        let interfaces = BTreeMap::from([
            (id, second),
            attached("eni-1", "i-2", 0, "sg-others"),
            attached("eni-2", "i-1", 3, "sg-trunk"),
            attached("eni-3", "i-1", 0, "sg-new"),
        ]);
        let v6_cidr = Some("2001:db8::/64".parse().expect("a CIDR"));
        let now = as_it_is(&known, &interfaces, Some(&Subnet { v6_cidr, ..Subnet::default() }));
        assert_eq!((now.primary_groups, now.device_indexes), (GroupSet::of(["sg-new"]), BTreeSet::from([0, 3])));
        assert_eq!(now.subnet_v6_cidr, v6_cidr);
        assert_eq!(as_it_is(&known, &BTreeMap::new(), None).primary_groups, GroupSet::of(["sg-old"]));
    }

    #[test]
    fn referenced_groups_of_other_vpcs_and_unknown_ones_are_asked_for_by_name() {
        let rule = |id: &str| Rule {
            id: "sgr-1".into(),
            group_id: "sg-own".into(),
            direction: sgp_common::Direction::Inbound,
            service: crate::domain::groups::Service::All,
            remote: Remote::Group(id.into()),
        };
        let group = |id: &str, vpc: &str, referenced: &[&str]| {
            let rules = referenced.iter().map(|id| rule(id)).collect();
            (id.to_owned(), SecurityGroup { id: id.into(), vpc_id: vpc.into(), rules })
        };
        let groups = [group("sg-own", "vpc-1", &["sg-own", "sg-peer", "sg-far"]), group("sg-peer", "vpc-2", &[])];
        let elsewhere = groups_elsewhere(&groups.into(), "vpc-1");
        assert!(elsewhere.iter().eq(["sg-far", "sg-peer"]), "{elsewhere:?}");
    }
}
