//! Reading EC2. Independent questions are asked side by side.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, SecurityGroup as Described};
use ipnet::IpNet;

use super::{convert, limits, required, told};
use crate::domain::branches::INSTANCE_TAG;
use crate::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, cidr};
use crate::domain::observed::{Association, CloudFacts, Instance, NetworkInterface};

/// EC2 takes at most 200 values in a filter.
const FILTER_VALUES: usize = 200;

/// The instance, and the CIDRs of its VPC.
pub(super) async fn instance(client: &Client, id: &str) -> Result<(Instance, Vec<IpNet>)> {
    let context = || format!("describing instance {id}");
    let answer = client.describe_instances().instance_ids(id).send().await.map_err(told).with_context(context)?;
    let found =
        answer.reservations.unwrap_or_default().into_iter().flat_map(|r| r.instances.unwrap_or_default()).next();
    let found = found.with_context(|| format!("EC2 does not know instance {id}"))?;
    let subnet_id = required(found.subnet_id, "SubnetId").with_context(context)?;
    let vpc_id = required(found.vpc_id, "VpcId").with_context(context)?;
    let instance_type = found.instance_type.map_or_else(String::new, |kind| kind.as_str().to_owned());
    let (branch_limit, interface_limit) = limits::of(&instance_type).unwrap_or_default();
    let (subnet, vpc_cidrs) = tokio::try_join!(subnet(client, &subnet_id), vpc_cidrs(client, &vpc_id))?;
    let instance = Instance {
        id: id.to_owned(),
        instance_type,
        subnet_id,
        subnet_cidr: subnet.0,
        subnet_v6_cidr: subnet.1,
        vpc_id,
        primary_groups: GroupSet::of(found.security_groups.unwrap_or_default().into_iter().filter_map(|g| g.group_id)),
        device_indexes: BTreeSet::new(),
        branch_limit,
        interface_limit,
    };
    Ok((instance, vpc_cidrs))
}

async fn subnet(client: &Client, id: &str) -> Result<(Option<ipnet::Ipv4Net>, Option<ipnet::Ipv6Net>)> {
    let context = || format!("describing subnet {id}");
    let answer = client.describe_subnets().subnet_ids(id).send().await.map_err(told).with_context(context)?;
    let found = answer.subnets.unwrap_or_default().into_iter().next();
    let found = found.with_context(|| format!("EC2 does not know subnet {id}"))?;
    let v6 = found.ipv6_cidr_block_association_set.unwrap_or_default().into_iter().find_map(|set| set.ipv6_cidr_block);
    Ok((found.cidr_block.and_then(|cidr| cidr.parse().ok()), v6.and_then(|cidr| cidr.parse().ok())))
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
    wanted: &BTreeSet<String>,
) -> Result<CloudFacts> {
    let (interfaces, associations, known) =
        tokio::try_join!(interfaces(client, &instance.vpc_id), associations(client), groups(client))?;
    let here = interfaces.values().filter(|eni| eni.tags.get(INSTANCE_TAG) == Some(&instance.id));
    let mut judged: BTreeSet<String> = here.flat_map(|eni| eni.groups.0.iter().cloned()).collect();
    judged.extend(wanted.iter().filter(|id| known.contains_key(*id)).cloned());
    let groups = with_rules(known, rules(client, &judged).await?);
    let prefix_lists = prefix_lists(client, &groups).await?;
    let attached = interfaces.values().filter_map(|eni| eni.attachment.as_ref());
    let attached = attached.filter(|at| at.instance_id == instance.id).map(|at| at.device_index);
    Ok(CloudFacts {
        instance: Instance { device_indexes: attached.collect(), ..instance.clone() },
        groups,
        prefix_lists,
        interfaces,
        associations,
        vpc_cidrs: vpc_cidrs.to_vec(),
    })
}

async fn interfaces(client: &Client, vpc_id: &str) -> Result<BTreeMap<String, NetworkInterface>> {
    let filter = Filter::builder().name("vpc-id").values(vpc_id).build();
    let pages = client.describe_network_interfaces().filters(filter).into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told).context("describing network interfaces")?;
    all.into_iter().map(|eni| convert::interface(eni).map(|eni| (eni.id.clone(), eni))).collect()
}

async fn associations(client: &Client) -> Result<BTreeMap<String, Association>> {
    let pages = client.describe_trunk_interface_associations().into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told).context("describing trunk associations")?;
    all.into_iter().map(|given| convert::association(given).map(|found| (found.branch_id.clone(), found))).collect()
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
