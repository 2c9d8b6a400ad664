//! Answers the CNI plugin on the unix socket (`protocol`).

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use sgp_common::addr::Family;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};
use tracing::{debug, warn};

use crate::domain::adoption::agrees;
use crate::domain::branches::{Notice, pod_name};
use crate::domain::groups::EndpointId;
use crate::domain::observed::{BranchAnnotation, ClusterFacts, Pod};
use crate::domain::plan::links_of;
use crate::domain::settings::Settings;
use crate::domain::unmatched::{Arrival, Coming, Unmatched, arrival};
use crate::host::Host;
use crate::protocol::{PodRef, Request, Response, Wiring};
use crate::reconcile::{Provision, Status};

/// The longest a request may wait, whatever it asks for.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// What becomes of pods that a policy matches and that come without a branch.
#[derive(Clone)]
pub struct Net {
    /// The operator's choice.
    pub unmatched: Unmatched,
    /// Who makes branches.
    pub provision: Provision,
    /// Where events go.
    pub notices: UnboundedSender<Notice>,
}

/// Serves for as long as the process lives. The socket is for root only.
///
/// # Errors
/// Where the socket cannot be made.
pub async fn serve(
    socket: &Path,
    host: Arc<Host>,
    net: Net,
    status: watch::Receiver<Status>,
    changed: Arc<Notify>,
) -> Result<()> {
    // A socket of an agent that is gone; the lock says that there is no other.
    drop(std::fs::remove_file(socket));
    let context = || format!("listening on {}", socket.display());
    let listener = UnixListener::bind(socket).with_context(context)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600)).with_context(context)?;
    loop {
        let (stream, _) = listener.accept().await.with_context(context)?;
        let (host, net, status, changed) = (Arc::clone(&host), net.clone(), status.clone(), Arc::clone(&changed));
        tokio::spawn(async move {
            if let Err(error) = exchange(stream, (&host, &net), status, &changed).await {
                warn!(error = format!("{error:#}"), "an exchange with the CNI plugin broke off");
            }
        });
    }
}

async fn exchange(
    stream: UnixStream,
    node: (&Host, &Net),
    status: watch::Receiver<Status>,
    changed: &Notify,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.context("reading a request")?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(request, node, status, changed).await,
        Err(error) => Response::Error { message: format!("this agent does not understand the plugin: {error}") },
    };
    debug!(request = line.trim(), ?response, "answered the CNI plugin");
    let mut text = serde_json::to_string(&response).context("writing a response")?;
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await.context("writing a response")
}

async fn answer(
    request: Request,
    (host, net): (&Host, &Net),
    status: watch::Receiver<Status>,
    changed: &Notify,
) -> Response {
    changed.notify_one();
    match request {
        Request::Wiring { pod, timeout_seconds } => {
            let answer = wait(status, timeout_seconds, |now| wiring(now, host.settings(), net, &pod)).await;
            on_ready_node(host, answer).await
        }
        Request::Enforce { interface_id, host_ifindex, branch_ifindex, timeout_seconds } => {
            wait(status, timeout_seconds, |now| enforced(now, &interface_id, (host_ifindex, branch_ifindex))).await
        }
        Request::Released { .. } => Response::Ok,
        Request::Status => wait(status, 1, ready).await,
    }
}

/// A pod is not wired before the node is ready. With `--provision observe` this is the first we know of its being
/// us who wires.
async fn on_ready_node(host: &Host, answer: Response) -> Response {
    match &answer {
        Response::Branch { .. } => match host.ready().await {
            Ok(()) => answer,
            Err(error) => Response::Error { message: format!("the node is not ready for pods: {error:#}") },
        },
        _ => answer,
    }
}

/// Not now, and why: the reason is what the plugin hears when its time is up.
type Answer = Result<Response, String>;

async fn wait(mut status: watch::Receiver<Status>, seconds: u64, ask: impl Fn(&Status) -> Answer) -> Response {
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds).min(PATIENCE_MAX);
    loop {
        let reason = match ask(&status.borrow_and_update()) {
            Ok(response) => return response,
            Err(reason) => reason,
        };
        match tokio::time::timeout_at(end, status.changed()).await {
            Ok(Ok(())) => {}
            _ => return Response::Error { message: reason },
        }
    }
}

fn ready(status: &Status) -> Answer {
    missing(status).map_or(Ok(Response::Ok), |reason| Err(reason.to_owned()))
}

/// Whose first complete answer is missing, so that no pod can be served yet.
pub(crate) fn missing(status: &Status) -> Option<&'static str> {
    if status.observed.cluster.is_none() {
        return Some("the agent has no complete answer of the API server yet");
    }
    status.observed.cloud.is_none().then_some("the agent has no complete answer of EC2 yet")
}

fn wiring(status: &Status, settings: &Settings, net: &Net, wanted: &PodRef) -> Answer {
    let name = format!("{}/{}", wanted.namespace, wanted.name);
    ready(status).map_err(|reason| format!("pod {name}: {reason}"))?;
    let cluster = status.observed.cluster.as_ref().ok_or_else(String::new)?;
    let pod = cluster.pods.values().find(|pod| is(pod, wanted));
    let pod = pod.ok_or_else(|| format!("pod {name} ({}) is not bound to this node, or was deleted", wanted.uid))?;
    match &pod.branch {
        Some(Err(reason)) => Ok(Response::Error { message: format!("pod {name}: {reason}") }),
        Some(Ok(branch)) => branch_response(status, settings, pod, branch),
        None => without_branch(status, net, pod, cluster),
    }
}

fn without_branch(status: &Status, net: &Net, pod: &Pod, cluster: &ClusterFacts) -> Answer {
    let name = pod_name(pod);
    let refused = status.refused.get(&name);
    let coming = match (net.provision, refused) {
        (Provision::Observe, _) => Coming::Never,
        (Provision::Own, Some(reason)) => Coming::Refused(reason),
        (Provision::Own, None) => Coming::Yes,
    };
    let (notice, response) = match arrival(pod, cluster, coming, net.unmatched) {
        Arrival::Delegate => return Ok(Response::Other),
        Arrival::Wait => {
            let reason = refused.map_or("its branch is not ready yet", String::as_str);
            return Err(format!("pod {name}: {reason}"));
        }
        Arrival::Refuse(notice) => {
            let message = notice.message.clone();
            (notice, Response::Error { message })
        }
        Arrival::WireAnyway(notice) => (notice, Response::Other),
    };
    if net.notices.send(notice).is_err() {
        warn!(pod = name, "an event could not be told: the agent is stopping");
    }
    Ok(response)
}

fn is(pod: &Pod, wanted: &PodRef) -> bool {
    let same_name = pod.namespace == wanted.namespace && pod.name == wanted.name;
    same_name && (wanted.uid.is_empty() || wanted.uid == pod.uid)
}

fn branch_response(status: &Status, settings: &Settings, pod: &Pod, branch: &BranchAnnotation) -> Answer {
    let cloud = status.observed.cloud.as_ref().ok_or_else(String::new)?;
    let trunk = cloud.associations.get(&branch.interface_id).and_then(|at| cloud.interfaces.get(&at.trunk_id));
    let trunk = trunk.ok_or_else(|| {
        let pod = pod_name(pod);
        format!("pod {pod}: EC2 does not show its branch {} on a trunk", branch.interface_id)
    })?;
    if !agrees(pod, branch, cloud) {
        let name = pod_name(pod);
        let message = format!(
            "pod {name}: its annotation {} contradicts what EC2 says of {}; whoever wrote it must correct it, or the pod be made anew",
            crate::domain::annotation::POD_ENI,
            branch.interface_id
        );
        return Ok(Response::Error { message });
    }
    let wiring = wiring_of(settings, pod, branch, &trunk.mac);
    if wiring.private_ip.is_none() && wiring.ipv6_addr.is_none() {
        let name = crate::domain::branches::pod_name(pod);
        let message = format!(
            "pod {name}: its branch {} has no address of the cluster's family, {:?}: its subnet must have a CIDR of it",
            branch.interface_id, settings.family
        );
        return Ok(Response::Error { message });
    }
    Ok(Response::Branch { wiring })
}

/// Of the branch's addresses only that of the cluster's family (facts 3.5).
fn wiring_of(settings: &Settings, pod: &Pod, branch: &BranchAnnotation, trunk_mac: &str) -> Wiring {
    Wiring {
        interface_id: branch.interface_id.clone(),
        pod_uid: pod.uid.clone(),
        mac: branch.mac.clone(),
        private_ip: branch.private_ip.filter(|_| settings.family == Family::V4),
        ipv6_addr: branch.ipv6_addr.filter(|_| settings.family == Family::V6),
        vlan_id: branch.vlan_id,
        subnet_cidr: branch.subnet_cidr,
        trunk_mac: trunk_mac.to_owned(),
        mode: settings.mode,
        veth_prefix: settings.veth_prefix.clone(),
        mtu: settings.pod_mtu,
    }
}

/// All of it: the endpoint, these very interfaces, the policy of its groups, and four live links.
fn enforced(status: &Status, interface_id: &str, (host, branch): (u32, u32)) -> Answer {
    let id = EndpointId::of(interface_id);
    let Some(plan) = status.desired.endpoints.get(&id) else {
        let reason = status.refused.iter().find(|(_, reason)| reason.contains(interface_id));
        let reason = reason.map_or("its interfaces are not there yet".to_owned(), |(_, reason)| reason.clone());
        return Err(format!("branch {interface_id} is not enforced: {reason}"));
    };
    if (plan.endpoint.host_ifindex, plan.endpoint.branch_ifindex) != (host, branch) {
        return Err(format!("branch {interface_id} is not enforced: its new interfaces are not seen yet"));
    }
    let installed = &status.installed;
    let missing = links_of(plan).into_iter().find(|link| !installed.has(link));
    if let Some(link) = missing {
        return Err(format!("branch {interface_id}: {} is not attached to {}", link.program, link.interface));
    }
    let set = crate::domain::groups::GroupSetId(plan.endpoint.group_set);
    if installed.endpoints.get(&id) != Some(&plan.endpoint) || !installed.policies.contains_key(&set) {
        return Err(format!("branch {interface_id}: its endpoint or policy is not installed yet"));
    }
    Ok(Response::Enforced)
}
