//! Interfaces by what they are to groups and nodes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::Filter;

use super::describe::{FILTER_VALUES, interfaces};
use super::told;
use crate::domain::branches::INSTANCE_TAG;
use crate::domain::observed::{Instance, NetworkInterface, Scope};

/// Those that a look is about.
pub(super) async fn seen(
    client: &Client,
    instance: &Instance,
    scope: Scope,
) -> Result<BTreeMap<String, NetworkInterface>> {
    match scope {
        Scope::Vpc => {
            let in_vpc = Filter::builder().name("vpc-id").values(&instance.vpc_id).build();
            interfaces(client, vec![in_vpc]).await
        }
        Scope::Node => of_node(client, &instance.id).await,
    }
}

/// Interfaces of which a filter has one of these values.
pub(super) async fn filtered(
    client: &Client,
    filter: &str,
    values: &BTreeSet<String>,
) -> Result<BTreeMap<String, NetworkInterface>> {
    let (values, mut all) = (values.iter().cloned().collect::<Vec<_>>(), BTreeMap::new());
    for chunk in values.chunks(FILTER_VALUES) {
        let filter = Filter::builder().name(filter).set_values(Some(chunk.to_vec())).build();
        all.append(&mut interfaces(client, vec![filter]).await?);
    }
    Ok(all)
}

/// Groups that some rule of the account references.
pub(super) async fn referenced(client: &Client) -> Result<BTreeSet<String>> {
    let pages = client.describe_security_group_rules().into_paginator().items().send();
    let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told("DescribeSecurityGroupRules"));
    let all = all.context("describing security group rules")?;
    Ok(all.into_iter().filter_map(|rule| rule.referenced_group_info?.group_id).collect())
}

/// What a node must know of interfaces where the controller publishes who is a member of what: those on the instance, and those
/// that are meant for it.
async fn of_node(client: &Client, instance: &str) -> Result<BTreeMap<String, NetworkInterface>> {
    let filter = |name: String| Filter::builder().name(name).values(instance).build();
    let (mut here, meant) = tokio::try_join!(
        interfaces(client, vec![filter("attachment.instance-id".into())]),
        interfaces(client, vec![filter(format!("tag:{INSTANCE_TAG}"))])
    )?;
    here.extend(meant);
    Ok(here)
}
