//! EC2, for a whole cluster: what of it carries our tags, and what it says of instance types.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, InstanceTypeHypervisor, InstanceTypeInfo};

use super::{client, describe, members, steps, told};
use crate::domain::failure::Failure;
use crate::domain::instance_types::{InstanceType, Table};
use crate::domain::observed::NetworkInterface;
use crate::domain::tags::{OWNER, OWNER_TAG, cluster_tag};

/// The account and region that the SDK's own settings name.
pub struct Account {
    client: Client,
}

impl Account {
    /// Asks nothing yet.
    pub async fn connect() -> Self {
        Self { client: client().await }
    }

    /// Every interface with our owner tag and the cluster's.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn interfaces(&self, cluster_name: &str) -> Result<BTreeMap<String, NetworkInterface>> {
        let filter = |key: &str, value: &str| Filter::builder().name(format!("tag:{key}")).values(value).build();
        let filters = vec![filter(OWNER_TAG, OWNER), filter(&cluster_tag(cluster_name), "owned")];
        describe::interfaces(&self.client, filters).await
    }

    /// Branches that are on some trunk.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn associated(&self) -> Result<BTreeSet<String>> {
        Ok(describe::associations(&self.client).await?.into_keys().collect())
    }

    /// Groups that some rule references.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn referenced(&self) -> Result<BTreeSet<String>> {
        members::referenced(&self.client).await
    }

    /// Interfaces that carry one of these groups.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn carrying(&self, groups: &BTreeSet<String>) -> Result<BTreeMap<String, NetworkInterface>> {
        members::filtered(&self.client, "group-id", groups).await
    }

    /// Those of these interfaces that there are.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn named(&self, ids: &BTreeSet<String>) -> Result<BTreeMap<String, NetworkInterface>> {
        members::filtered(&self.client, "network-interface-id", ids).await
    }

    /// Deletes an interface; one that is gone already is as good as deleted.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn delete(&self, interface: &str) -> Result<(), Failure> {
        steps::delete(&self.client, interface).await.map(drop)
    }

    /// What EC2 says of every instance type of the region; it does not say how many branches one carries.
    ///
    /// # Errors
    /// What EC2 says.
    pub async fn instance_types(&self) -> Result<Table> {
        let pages = self.client.describe_instance_types().into_paginator().items().send();
        let all = pages.collect::<Result<Vec<_>, _>>().await.map_err(told("DescribeInstanceTypes"));
        Ok(all.context("describing instance types")?.into_iter().filter_map(instance_type).collect())
    }
}

fn instance_type(told: InstanceTypeInfo) -> Option<(String, InstanceType)> {
    let network = told.network_info?;
    let number = |value: Option<i32>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    let default_card = network.default_network_card_index.unwrap_or_default();
    let cards = network.network_cards.unwrap_or_default();
    let card = cards.iter().find(|card| card.network_card_index == Some(default_card));
    let interfaces = number(network.maximum_network_interfaces);
    let found = InstanceType {
        interfaces,
        ipv4_per_interface: number(network.ipv4_addresses_per_interface),
        bare_metal: told.bare_metal.unwrap_or_default(),
        hypervisor: told.hypervisor.as_ref().map_or("", InstanceTypeHypervisor::as_str).to_owned(),
        cards: u32::try_from(cards.len()).unwrap_or_default().max(1),
        default_card: number(Some(default_card)),
        default_card_interfaces: card.map_or(interfaces, |card| number(card.maximum_network_interfaces)),
        ..InstanceType::default()
    };
    Some((told.instance_type?.as_str().to_owned(), found))
}
