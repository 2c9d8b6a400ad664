//! Changing EC2: one call a step (facts 2.3 and 2.4).

use std::fmt::Display;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    InterfacePermissionType, NetworkInterfaceAttachmentChanges, NetworkInterfaceCreationType, ResourceType, Tag,
    TagSpecification,
};

use super::{convert, failed, is_gone, required};
use crate::domain::answers::Answer;
use crate::domain::branches::{CloudStep, Tags};
use crate::domain::cloud_steps::{Family, NewInterface};
use crate::domain::failure::Failure;
use crate::domain::groups::GroupSet;
use crate::domain::observed::{Attachment, Instance};

/// Description of a trunk, as AWS's controller writes it.
const TRUNK: &str = "aws-k8s-trunk-eni";
/// Of a branch.
const BRANCH: &str = "aws-k8s-branch-eni";

pub(super) async fn apply(client: &Client, instance: &Instance, step: &CloudStep) -> Result<Answer, Failure> {
    match step {
        CloudStep::CreateTrunk { interface } => {
            create(client, interface, TRUNK, Some(NetworkInterfaceCreationType::Trunk)).await
        }
        CloudStep::AttachTrunk { trunk, device_index } => attach(client, instance, trunk, *device_index).await,
        CloudStep::TieTrunk { trunk, attachment } => tie(client, trunk, attachment).await,
        CloudStep::CreateBranch { interface, .. } => create(client, interface, BRANCH, None).await,
        CloudStep::Permit { interface, account, .. } => permit(client, interface, account).await,
        CloudStep::Tag { branch, tags, .. } => tag(client, branch, tags).await,
        CloudStep::SetGroups { branch, groups, .. } => set_groups(client, branch, groups).await,
        CloudStep::Associate { branch, trunk, vlan_id, .. } => associate(client, branch, trunk, *vlan_id).await,
        CloudStep::Disassociate { association, .. } => disassociate(client, association).await,
        CloudStep::Delete { interface } => delete(client, interface).await,
        CloudStep::Annotate { .. }
        | CloudStep::LabelNode { .. }
        | CloudStep::Advertise { .. }
        | CloudStep::WriteCniNode { .. } => {
            Err(Failure::unanswered(&format!("`{}` is for the API server, not for EC2", step.key())))
        }
    }
}

/// An answer that lacks what every answer has.
fn odd(error: impl Display) -> Failure {
    Failure::unanswered(&format!("{error:#}"))
}

async fn create(
    client: &Client,
    wanted: &NewInterface,
    description: &str,
    kind: Option<NetworkInterfaceCreationType>,
) -> Result<Answer, Failure> {
    let call = client
        .create_network_interface()
        .description(description)
        .subnet_id(&wanted.subnet_id)
        .set_groups(Some(wanted.groups.0.iter().cloned().collect()))
        .set_interface_type(kind.clone())
        .set_ipv6_address_count((wanted.family == Family::Dual).then_some(1))
        .client_token(&wanted.token)
        .tag_specifications(tagged(&wanted.tags));
    let answer = call.send().await.map_err(failed)?;
    let made = required(answer.network_interface, "NetworkInterface").map_err(odd)?;
    let mut made = convert::interface(made).map_err(odd)?;
    // What was asked for and is answered in pieces: groups by name, tags not at all, depending on the version.
    made.groups = wanted.groups.clone();
    made.tags.clone_from(&wanted.tags);
    if kind.is_some() {
        made.interface_type = "trunk".to_owned();
    }
    Ok(Answer::Created(Box::new(made)))
}

async fn attach(client: &Client, instance: &Instance, trunk: &str, device_index: u32) -> Result<Answer, Failure> {
    let call = client
        .attach_network_interface()
        .instance_id(&instance.id)
        .network_interface_id(trunk)
        .device_index(i32::try_from(device_index).map_err(odd)?);
    let answer = call.send().await.map_err(failed)?;
    Ok(Answer::Attached(Attachment {
        id: required(answer.attachment_id, "AttachmentId").map_err(odd)?,
        instance_id: instance.id.clone(),
        device_index,
        network_card: 0,
        // Attached is what a description says it is.
        status: "attaching".to_owned(),
        delete_on_termination: false,
    }))
}

async fn tie(client: &Client, trunk: &str, attachment: &str) -> Result<Answer, Failure> {
    let changes =
        NetworkInterfaceAttachmentChanges::builder().attachment_id(attachment).delete_on_termination(true).build();
    let call = client.modify_network_interface_attribute().network_interface_id(trunk).attachment(changes);
    call.send().await.map_err(failed).map(|_| Answer::Done)
}

async fn permit(client: &Client, interface: &str, account: &str) -> Result<Answer, Failure> {
    let call = client
        .create_network_interface_permission()
        .network_interface_id(interface)
        .aws_account_id(account)
        .permission(InterfacePermissionType::InstanceAttach);
    call.send().await.map_err(failed).map(|_| Answer::Done)
}

async fn tag(client: &Client, branch: &str, tags: &Tags) -> Result<Answer, Failure> {
    let call = client.create_tags().resources(branch).set_tags(Some(sdk_tags(tags)));
    call.send().await.map_err(failed).map(|_| Answer::Done)
}

async fn set_groups(client: &Client, branch: &str, groups: &GroupSet) -> Result<Answer, Failure> {
    let ids = groups.0.iter().cloned().collect();
    let call = client.modify_network_interface_attribute().network_interface_id(branch).set_groups(Some(ids));
    call.send().await.map_err(failed).map(|_| Answer::Done)
}

async fn associate(client: &Client, branch: &str, trunk: &str, vlan_id: u16) -> Result<Answer, Failure> {
    let call = client
        .associate_trunk_interface()
        .branch_interface_id(branch)
        .trunk_interface_id(trunk)
        .vlan_id(i32::from(vlan_id));
    let answer = call.send().await.map_err(failed)?;
    let made = required(answer.interface_association, "InterfaceAssociation").map_err(odd)?;
    convert::association(made).map(Answer::Associated).map_err(odd)
}

async fn disassociate(client: &Client, association: &str) -> Result<Answer, Failure> {
    match client.disassociate_trunk_interface().association_id(association).send().await {
        Err(error) if !is_gone(&error) => Err(failed(error)),
        _ => Ok(Answer::Done),
    }
}

pub(super) async fn delete(client: &Client, interface: &str) -> Result<Answer, Failure> {
    match client.delete_network_interface().network_interface_id(interface).send().await {
        Err(error) if !is_gone(&error) => Err(failed(error)),
        _ => Ok(Answer::Done),
    }
}

fn sdk_tags(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

fn tagged(tags: &Tags) -> TagSpecification {
    TagSpecification::builder().resource_type(ResourceType::NetworkInterface).set_tags(Some(sdk_tags(tags))).build()
}
