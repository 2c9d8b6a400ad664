//! Changing EC2, one cloud step at a time (facts 2.3 and 2.4).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    InterfacePermissionType, NetworkInterfaceAttachmentChanges, NetworkInterfaceCreationType, ResourceType, Tag,
    TagSpecification,
};
use tracing::{info, warn};

use super::{is_gone, required, told};
use crate::domain::branches::CloudStep;
use crate::domain::groups::GroupSet;
use crate::domain::observed::Instance;

pub(super) async fn apply(client: &Client, instance: &Instance, step: &CloudStep) -> Result<()> {
    match step {
        CloudStep::CreateTrunk { device_index, tags } => create_trunk(client, instance, *device_index, tags).await,
        CloudStep::AttachTrunk { trunk, device_index } => attach_trunk(client, instance, trunk, *device_index).await,
        CloudStep::CreateBranch { pod, uid, groups, tags } => {
            create_branch(client, instance, pod, uid, groups, tags).await
        }
        CloudStep::Associate { branch, trunk, vlan_id, .. } => associate(client, branch, trunk, *vlan_id).await,
        CloudStep::Disassociate { branch, association } => disassociate(client, branch, association).await,
        CloudStep::Delete { interface } => delete(client, interface).await,
        CloudStep::Annotate { name, .. } => {
            anyhow::bail!("the annotation of pod {name} is for the API server, not for EC2")
        }
    }
}

/// A trunk that cannot be attached is taken away again; if that fails too, its tags let the next round
/// attach it.
async fn create_trunk(
    client: &Client,
    instance: &Instance,
    device_index: u32,
    tags: &BTreeMap<String, String>,
) -> Result<()> {
    let created = client
        .create_network_interface()
        .description("aws-k8s-trunk-eni")
        .subnet_id(&instance.subnet_id)
        .set_groups(Some(instance.primary_groups.0.iter().cloned().collect()))
        .interface_type(NetworkInterfaceCreationType::Trunk)
        .tag_specifications(tagged(tags))
        .send()
        .await;
    let created = created.map_err(told).context("creating the trunk")?;
    let trunk = required(created.network_interface.and_then(|eni| eni.network_interface_id), "NetworkInterfaceId")?;
    info!(trunk, "created the trunk");
    permit(client, &trunk).await;
    let attached = attach_trunk(client, instance, &trunk, device_index).await;
    if attached.is_err()
        && let Err(error) = delete(client, &trunk).await
    {
        warn!(trunk, error = format!("{error:#}"), "the trunk that could not be attached stays");
    }
    attached
}

async fn attach_trunk(client: &Client, instance: &Instance, trunk: &str, device_index: u32) -> Result<()> {
    let context = || format!("attaching trunk {trunk} to {}", instance.id);
    let attached = client
        .attach_network_interface()
        .instance_id(&instance.id)
        .network_interface_id(trunk)
        .device_index(device_index.try_into().with_context(context)?)
        .send()
        .await;
    let id = required(attached.map_err(told).with_context(context)?.attachment_id, "AttachmentId")?;
    let changes = NetworkInterfaceAttachmentChanges::builder().attachment_id(id).delete_on_termination(true).build();
    let modified = client.modify_network_interface_attribute().network_interface_id(trunk).attachment(changes);
    modified.send().await.map_err(told).with_context(|| format!("making trunk {trunk} go with {}", instance.id))?;
    info!(trunk, instance = instance.id, device_index, "attached the trunk");
    Ok(())
}

async fn create_branch(
    client: &Client,
    instance: &Instance,
    pod: &str,
    uid: &str,
    groups: &GroupSet,
    tags: &BTreeMap<String, String>,
) -> Result<()> {
    let created = client
        .create_network_interface()
        .description("aws-k8s-branch-eni")
        .subnet_id(&instance.subnet_id)
        .set_groups(Some(groups.0.iter().cloned().collect()))
        .client_token(uid)
        .tag_specifications(tagged(tags))
        .send()
        .await;
    let created = created.map_err(told).context("creating network interface")?;
    let branch = required(created.network_interface.and_then(|eni| eni.network_interface_id), "NetworkInterfaceId")?;
    info!(branch, pod, %groups, "created a branch");
    permit(client, &branch).await;
    Ok(())
}

/// AWS's own controller permits its second account to attach (facts 0.1). Where one account does all, and
/// where the account is not known, the permission is not needed: only told.
async fn permit(client: &Client, interface: &str) {
    let Ok(account) = std::env::var("SGP_TRUNK_ACCOUNT") else { return };
    let call = client
        .create_network_interface_permission()
        .network_interface_id(interface)
        .aws_account_id(&account)
        .permission(InterfacePermissionType::InstanceAttach);
    if let Err(error) = call.send().await.map_err(told) {
        warn!(interface, account, error = format!("{error:#}"), "the account was not permitted to attach");
    }
}

async fn associate(client: &Client, branch: &str, trunk: &str, vlan_id: u16) -> Result<()> {
    let call = client
        .associate_trunk_interface()
        .branch_interface_id(branch)
        .trunk_interface_id(trunk)
        .vlan_id(i32::from(vlan_id));
    call.send().await.map_err(told).with_context(|| format!("associating branch to trunk, {branch} to {trunk}"))?;
    info!(branch, trunk, vlan_id, "associated a branch");
    Ok(())
}

async fn disassociate(client: &Client, branch: &str, association: &str) -> Result<()> {
    match client.disassociate_trunk_interface().association_id(association).send().await {
        Err(error) if !is_gone(&error) => {
            Err(told(error)).with_context(|| format!("taking branch {branch} off its trunk"))
        }
        _ => {
            info!(branch, association, "disassociated a branch");
            Ok(())
        }
    }
}

async fn delete(client: &Client, interface: &str) -> Result<()> {
    match client.delete_network_interface().network_interface_id(interface).send().await {
        Err(error) if !is_gone(&error) => Err(told(error)).with_context(|| format!("deleting {interface}")),
        _ => {
            info!(interface, "deleted an interface");
            Ok(())
        }
    }
}

fn tagged(tags: &BTreeMap<String, String>) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    TagSpecification::builder().resource_type(ResourceType::NetworkInterface).set_tags(Some(tags.collect())).build()
}
