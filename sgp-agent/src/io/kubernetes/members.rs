//! Slices of memberships as objects: written by the controller, followed by agents.

use std::collections::{BTreeMap, BTreeSet};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PartialObjectMeta, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use super::watched::chain;
use super::{SecurityGroupMembership, SecurityGroupMembershipSpec};
use crate::domain::annotation::{self, POD_ENI};
use crate::domain::membership::{FORM, Read, Slice, text};

/// Name of the object that says that all others are there.
pub const INDEX: &str = "members-index";
/// Label of every object that the controller writes.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sgp-controller");
/// Label by which people find the slices of a group: `groups.sgp.dev/sg-…`.
const GROUP_LABEL: &str = "groups.sgp.dev/";
/// Groups of an interface are 16 at most, so this many labels hold them all.
const GROUP_LABELS: usize = 16;

/// The published slices, for whoever writes them: each with the version a write must find.
pub struct Slices {
    client: Client,
    versions: BTreeMap<String, String>,
}

/// Why a write did not happen.
#[derive(Debug)]
pub enum Unwritten {
    /// Somebody else wrote the object since it was read: read all anew.
    Conflict,
    /// Anything else.
    Failed(String),
}

impl Unwritten {
    fn of(what: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => Self::Conflict,
            error => Self::Failed(format!("{what}: {}", chain(error))),
        }
    }
}

impl Slices {
    pub(super) fn new(client: Client) -> Self {
        Self { client, versions: BTreeMap::new() }
    }

    fn api(&self) -> Api<SecurityGroupMembership> {
        Api::all(self.client.clone())
    }

    /// Reads what is published. What cannot be read counts as empty, so that it is deleted or written anew.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn read(&mut self) -> Result<(BTreeMap<String, Slice>, u64), String> {
        let all = self.api().list(&ListParams::default()).await;
        let all = all.map_err(|error| format!("listing SecurityGroupMemberships: {}", chain(&error)))?;
        let version =
            |object: &SecurityGroupMembership| (object.name_any(), object.resource_version().unwrap_or_default());
        self.versions = all.items.iter().map(version).collect();
        let beat = all.items.iter().find(|object| object.name_any() == INDEX).map_or(0, |index| index.spec.generation);
        let slices = all.items.iter().filter(|object| object.name_any() != INDEX);
        let whole = |object: &SecurityGroupMembership| match read(object) {
            // Written anew: else every agent says again what it could not read.
            Ok(Read { slice, trouble: None }) => slice,
            Ok(Read { slice, .. }) => Slice { addresses: Vec::new(), ..slice },
            Err(_) => Slice { generation: object.spec.generation, ..Slice::default() },
        };
        Ok((slices.map(|object| (object.name_any(), whole(object))).collect(), beat))
    }

    /// Writes a slice.
    ///
    /// # Errors
    /// Where it is not as it was read, and what the API server says.
    pub async fn put(&mut self, name: &str, slice: &Slice) -> Result<(), Unwritten> {
        let version = self.versions.get(name).cloned();
        let object = object(name, slice, version.clone());
        let params = PostParams::default();
        let written = match version {
            Some(_) => self.api().replace(name, &params, &object).await,
            None => self.api().create(&params, &object).await,
        };
        let written = written.map_err(|error| Unwritten::of(&format!("writing the slice {name}"), &error))?;
        self.versions.insert(name.to_owned(), written.resource_version().unwrap_or_default());
        Ok(())
    }

    /// Deletes a slice.
    ///
    /// # Errors
    /// Where it is not as it was read, and what the API server says.
    pub async fn delete(&mut self, name: &str) -> Result<(), Unwritten> {
        let resource_version = self.versions.get(name).cloned();
        let preconditions = Some(Preconditions { resource_version, uid: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let deleted = self.api().delete(name, &params).await;
        deleted.map_err(|error| Unwritten::of(&format!("deleting the slice {name}"), &error))?;
        self.versions.remove(name);
        Ok(())
    }

    /// Says that all is written and looked after.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn beat(&mut self, beat: u64) -> Result<(), Unwritten> {
        self.put(INDEX, &Slice { generation: beat, ..Slice::default() }).await
    }

    /// Interfaces that annotations of pods name, as they come; first those of all pods that are there.
    pub fn annotated(&self) -> impl Stream<Item = BTreeSet<String>> + use<> {
        let pods = Api::<PartialObjectMeta<Pod>>::all(self.client.clone());
        let pods = watcher(pods, watcher::Config::default());
        pods.default_backoff().filter_map(async |event| match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                let branch = pod.annotations().get(POD_ENI).and_then(|text| annotation::parse(text).ok());
                branch.map(|branch| BTreeSet::from([branch.interface_id]))
            }
            _ => None,
        })
    }
}

fn read(object: &SecurityGroupMembership) -> Result<Read, String> {
    let spec = &object.spec;
    Slice::read(spec.form, &spec.groups, spec.generation, &spec.addresses)
}

fn object(name: &str, slice: &Slice, resource_version: Option<String>) -> SecurityGroupMembership {
    let groups: Vec<String> = slice.groups.0.iter().cloned().collect();
    let of_groups = groups.iter().take(GROUP_LABELS).map(|id| (format!("{GROUP_LABEL}{id}"), String::new()));
    let labels = of_groups.chain([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())]).collect();
    let addresses = slice.addresses.iter().map(text).collect();
    let spec = SecurityGroupMembershipSpec { form: FORM, groups, generation: slice.generation, addresses };
    let metadata =
        ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), resource_version, ..ObjectMeta::default() };
    SecurityGroupMembership { metadata, spec }
}

/// What an agent hears of slices.
#[derive(Debug)]
pub enum Heard {
    /// A slice is so now; `None`: it was deleted.
    Slice(String, Option<Slice>),
    /// Somebody looks after the slices; `None`: nobody will any more.
    Beat(Option<u64>),
    /// These are all there are.
    All(BTreeSet<String>),
}

/// Follows all slices: what they say, and never the objects themselves, is kept. Tells what cannot be read of one, once for
/// each form of it. Once they were heard a refusal means nothing: an API server that starts refuses all for a moment, before it
/// has read who may what.
pub(super) fn follow(client: Client) -> impl Stream<Item = Heard> {
    let stream = watcher(Api::<SecurityGroupMembership>::all(client), watcher::Config::default()).default_backoff();
    let (mut listed, mut told, mut complete) = (BTreeSet::new(), false, false);
    stream.filter_map(move |event| {
        told &= matches!(event, Err(_) | Ok(watcher::Event::Init));
        let heard = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(object.name_any());
                Some(Heard::of(&object))
            }
            Ok(watcher::Event::Apply(object)) => Some(Heard::of(&object)),
            Ok(watcher::Event::InitDone) => {
                complete = true;
                Some(Heard::All(std::mem::take(&mut listed)))
            }
            Ok(watcher::Event::Delete(object)) if object.name_any() == INDEX => Some(Heard::Beat(None)),
            Ok(watcher::Event::Delete(object)) => Some(Heard::Slice(object.name_any(), None)),
            Err(error) => {
                let absent = !complete && is_absent(&error);
                if !told && !absent {
                    warn!(error = %chain(&error), "memberships cannot be watched; what is known of them stays");
                }
                told = true;
                absent.then(|| Heard::All(BTreeSet::new()))
            }
        };
        std::future::ready(heard)
    })
}

/// The cluster does not have the kind, or the role is of a version without it: there is no controller of ours to listen to.
fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

impl Heard {
    /// What an object says; tells what of it cannot be read.
    pub fn of(object: &SecurityGroupMembership) -> Self {
        let name = object.name_any();
        if name == INDEX {
            return Heard::Beat(Some(object.spec.generation));
        }
        let slice = match read(object) {
            Ok(Read { slice, trouble }) => {
                if let Some(trouble) = trouble {
                    warn!(object = %format!("SecurityGroupMembership {name}"), trouble, "part of a slice is left out");
                }
                Some(slice)
            }
            Err(trouble) => {
                warn!(object = %format!("SecurityGroupMembership {name}"), trouble, "a slice is left out");
                None
            }
        };
        Heard::Slice(name, slice)
    }
}
