//! Reading EC2. Independent questions are asked side by side.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, SecurityGroup as Described};
use ipnet::IpNet;

use super::{convert, failed, required, told};
use crate::domain::branches::{INSTANCE_TAG, TRUNK_TAG, VLAN_TAG};
use crate::domain::failure::FailureKind;
use crate::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, cidr};
use crate::domain::instance_types::Table;
use crate::domain::observed::{Association, CloudFacts, Instance, NetworkInterface, Subnet, Wanted};

/// EC2 takes at most 200 values in a filter.
const FILTER_VALUES: usize = 200;

/// The instance, and the CIDRs of its VPC.
pub(super) async fn instance(client: &Client, id: &str, types: &Table) -> Result<(Instance, Vec<IpNet>)> {
    let context = || format!("describing instance {id}");
    let answer = client.describe_instances().instance_ids(id).send().await.map_err(told).with_context(context)?;
    let found =
        answer.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default()).next();
    let found = found.with_context(|| format!("EC2 does not know instance {id}"))?;
    let subnet_id = required(found.subnet_id, "SubnetId").with_context(context)?;
    let vpc_id = required(found.vpc_id, "VpcId").with_context(context)?;
    let instance_type = found.instance_type.map_or_else(String::new, |kind| kind.as_str().to_owned());
    let limits = types.get(&instance_type);
    let own = BTreeSet::from([subnet_id.clone()]);
    let (subnets, vpc_cidrs) = tokio::try_join!(subnets(client, &own), vpc_cidrs(client, &vpc_id))?;
    let subnet = subnets.get(&subnet_id).with_context(|| format!("EC2 does not know subnet {subnet_id}"))?;
    let instance = Instance {
        id: id.to_owned(),
        instance_type,
        subnet_cidr: subnet.cidr,
        subnet_v6_cidr: subnet.v6_cidr,
        subnet_id,
        vpc_id,
        primary_groups: GroupSet::of(found.security_groups.unwrap_or_default().into_iter().filter_map(|g| g.group_id)),
        device_indexes: BTreeSet::new(),
        known_type: limits.is_some(),
        branch_limit: limits.map_or(0, |limits| limits.branch_limit()),
        interface_limit: limits.map_or(0, |limits| limits.interface_limit()),
    };
    Ok((instance, vpc_cidrs))
}

/// Those of the wanted subnets that EC2 knows: by filter, since asking for an unknown one by id is an error.
async fn subnets(client: &Client, wanted: &BTreeSet<String>) -> Result<BTreeMap<String, Subnet>> {
    let ids = wanted.iter().take(FILTER_VALUES).cloned().collect();
    let filter = Filter::builder().name("subnet-id").set_values(Some(ids)).build();
    let pages = client.describe_subnets().filters(filter).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told).context("describing subnets")?;
    all.into_iter().map(|given| convert::subnet(given).map(|subnet| (subnet.id.clone(), subnet))).collect()
}

async fn vpc_cidrs(client: &Client, id: &str) -> Result<Vec<IpNet>> {
    let context = || format!("describing VPC {id}");
    let answer = client.describe_vpcs().vpc_ids(id).send().await.map_err(told).with_context(context)?;
    let found = answer.vpcs.unwrap_or_default().into_iter().next();
    let found = found.with_context(|| format!("EC2 does not know VPC {id}"))?;
    let more = found.cidr_block_association_set.unwrap_or_default().into_iter().filter_map(|set| set.cidr_block);
    let mut all: Vec<String> = found.cidr_block.into_iter().chain(more).collect();
    all.dedup();
    all.iter().map(|text| cidr(text).map_err(anyhow::Error::msg)).collect()
}

/// Interfaces first: which groups' rules are needed depends on them.
pub(super) async fn facts(
    client: &Client,
    instance: &Instance,
    vpc_cidrs: &[IpNet],
    wanted: &Wanted,
    trunk_account: Option<&str>,
) -> Result<CloudFacts> {
    let in_vpc = Filter::builder().name("vpc-id").values(&instance.vpc_id).build();
    let mut wanted_subnets = wanted.subnets.clone();
    wanted_subnets.insert(instance.subnet_id.clone());
    let (interfaces, associations, known, subnets, permitted) = tokio::try_join!(
        interfaces(client, vec![in_vpc]),
        associations_if_told(client),
        groups(client),
        subnets(client, &wanted_subnets),
        permitted(client, trunk_account)
    )?;
    let here = interfaces.values().filter(|eni| eni.tags.get(INSTANCE_TAG) == Some(&instance.id));
    let mut judged: BTreeSet<String> = here.flat_map(|eni| eni.groups.0.iter().cloned()).collect();
    judged.extend(wanted.groups.iter().filter(|id| known.contains_key(*id)).cloned());
    let groups = with_rules(known, rules(client, &judged).await?);
    let prefix_lists = prefix_lists(client, &groups).await?;
    let attached = interfaces.values().filter_map(|eni| eni.attachment.as_ref());
    let attached = attached.filter(|at| at.instance_id == instance.id).map(|at| at.device_index);
    Ok(CloudFacts {
        instance: Instance { device_indexes: attached.collect(), ..instance.clone() },
        associations: associations.unwrap_or_else(|| from_tags(&interfaces)),
        groups,
        prefix_lists,
        interfaces,
        vpc_cidrs: vpc_cidrs.to_vec(),
        subnets,
        permitted,
    })
}

pub(super) async fn interfaces(client: &Client, filters: Vec<Filter>) -> Result<BTreeMap<String, NetworkInterface>> {
    let pages = client.describe_network_interfaces().set_filters(Some(filters)).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told).context("describing network interfaces")?;
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
        Err(failure) => return Err(anyhow::anyhow!("{failure}")).context("describing trunk associations"),
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
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told).context("describing interface permissions")?;
    Ok(all.into_iter().filter_map(|permission| permission.network_interface_id).collect())
}

async fn groups(client: &Client) -> Result<BTreeMap<String, SecurityGroup>> {
    let pages = client.describe_security_groups().into_paginator().items().send();
    let all: Vec<Described> =
        pages.collect::<Result<_, _>>().await.map_err(told).context("describing security groups")?;
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
        let all =
            pages.collect::<Result<Vec<_>, _>>().await.map_err(told).context("describing security group rules")?;
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
            Err(error) => return Err(told(error)).with_context(|| format!("reading prefix list {id}")),
        };
        let nets =
            entries.into_iter().filter_map(|entry| entry.cidr).map(|text| cidr(&text).map_err(anyhow::Error::msg));
        lists.insert(id, nets.collect::<Result<_>>()?);
    }
    Ok(lists)
}
