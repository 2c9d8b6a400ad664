//! `run`: the agent itself.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::branches::Branches;
use super::insist::insist;
use super::variables::{NodeFiles, Variables};
use super::view::Place;
use super::watching::Watching;
use crate::adopt::adopt;
use crate::domain::branches::Notice;
use crate::domain::enforcement::{Early, Enforcement, RelatedIcmp, Revoked, Shortcuts, SnatJudges, Untold};
use crate::domain::instance_types::Table;
use crate::domain::unmatched::Unmatched;
use crate::host::Host;
use crate::io::ec2::Ec2;
use crate::io::kernel::Bpf;
use crate::io::kubernetes::Kubernetes;
use crate::io::{netlink, telemetry};
use crate::protocol::SOCKET;
use crate::reconcile::{Described, Members, MembershipFrom, Provision, Reconciler, Status, denied, poll};
use crate::restore::restore;
use crate::serve::{Net, serve};
use crate::telemetry::state::AgentState;

/// kube tells each failed connection by itself; our own line says what it means.
const QUIET: &str = "info,kube_client::client::builder=off";

const EXAMPLES: &str = "Examples:
  sgp-agent run --cluster-name prod
  sgp-agent run --cluster-name prod --node-name ip-10-0-1-7 --provision observe
The API server comes from KUBECONFIG or the pod's ServiceAccount; EC2's endpoint, region and credentials from the
AWS SDK's own settings (AWS_ENDPOINT_URL, AWS_REGION, …). RUST_LOG=debug says more. SIGTERM ends the agent and
leaves enforcement in the kernel.";

/// Settings of the agent.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Settings {
    /// Name of this node's Node object; also taken from MY_NODE_NAME
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Name of the cluster, for tags
    #[arg(long, env = "CLUSTER_NAME", value_name = "NAME", default_value = "kubernetes")]
    cluster_name: String,
    /// Who makes trunk and branches
    #[arg(long, env = "SGP_PROVISION", value_enum, default_value_t = Provision::Own)]
    provision: Provision,
    /// What becomes of a pod that a policy matches, that was admitted without the resource vpc.amazonaws.com/pod-eni and
    /// that can get no branch: it is not started, or it is started with the node's groups; an event says so
    #[arg(long, env = "SGP_UNMATCHED", value_enum, default_value_t = Unmatched::Refuse)]
    unmatched: Unmatched,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    files: NodeFiles,
    /// Who says which addresses carry which groups
    #[arg(long, env = "SGP_MEMBERSHIP", value_enum, default_value_t = MembershipFrom::Auto)]
    membership: MembershipFrom,
    /// Seconds between two looks at EC2
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    ec2_poll: f64,
    #[command(flatten)]
    branches: Branches,
    #[command(flatten)]
    choices: Choices,
    /// Whose groups judge what a standard-mode pod sends out of the VPC under the node's address
    #[arg(long, value_enum, default_value_t = SnatJudges::Node)]
    snat_policy: SnatJudges,
    /// Whether packets of known flows, or all, go past the host stack
    #[arg(long, env = "SGP_SHORTCUT", value_enum, default_value_t = Shortcuts::Auto)]
    shortcut: Shortcuts,
    /// Whether frames on the trunk that nothing can let pass are dropped before the kernel makes an skb of them. Of
    /// native and generic, another one takes effect after a start with off
    #[arg(long, value_enum, default_value_t = Early::Off)]
    xdp: Early,
    #[command(flatten)]
    watching: Watching,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(flatten)]
    variables: Variables,
}

impl Settings {
    fn enforcement(&self) -> Enforcement {
        let (snat_policy, shortcuts) = (self.snat_policy, self.shortcut);
        let untold = match self.provision {
            Provision::Own => Untold::Drops,
            Provision::Observe => Untold::Passes,
        };
        Enforcement { snat_policy, shortcuts, early: self.xdp, untold, ..self.choices.enforcement() }
    }
}

/// Where EC2 leaves a choice.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Choices {
    /// Let ICMP errors about a tracked flow pass without a rule (EC2 asks for one, which breaks path-MTU discovery)
    #[arg(long)]
    related_icmp: bool,
    /// Judge every flow again when rules or members of groups change (in EC2 a tracked one lives on)
    #[arg(long)]
    cut_on_revoke: bool,
}

impl Choices {
    /// As the core knows them.
    pub(super) fn enforcement(self) -> Enforcement {
        Enforcement {
            related_icmp: if self.related_icmp { RelatedIcmp::PassesByFlow } else { RelatedIcmp::NeedsRule },
            revoked: if self.cut_on_revoke { Revoked::IsCut } else { Revoked::LivesOn },
            ..Enforcement::default()
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// Runs until a signal ends it.
pub(super) fn run(settings: Settings) -> Result<()> {
    log(settings.log_format);
    if !settings.ec2_poll.is_finite() || settings.ec2_poll < 0.1 {
        bail!("--ec2-poll {} is not at least 0.1 seconds", settings.ec2_poll);
    }
    let node = node_name(&settings)?;
    let host =
        Arc::new(Host::new(settings.variables.settings()?, &settings.files.proc_sys, &settings.files.runtime_dir));
    let _lock = lock(&settings.files.runtime_dir)?;
    let kernel = Bpf::open(&settings.place.bpf_dir)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the async runtime")?;
    runtime.block_on(async {
        tokio::select! {
            result = work(settings, node, host, kernel) => result,
            result = asked_to_stop("stopping; what is enforced stays enforced") => result,
        }
    })
}

pub(super) fn log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| QUIET.into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn node_name(settings: &Settings) -> Result<String> {
    let named =
        settings.node_name.clone().or_else(|| std::env::var("MY_NODE_NAME").ok().filter(|name| !name.is_empty()));
    named.context("no node name: pass --node-name, or set NODE_NAME from the pod's field spec.nodeName")
}

/// One agent a node: the lock goes with the process, however it ends.
fn lock(runtime_dir: &Path) -> Result<Flock<File>> {
    std::fs::create_dir_all(runtime_dir).with_context(|| format!("making {}", runtime_dir.display()))?;
    let path = runtime_dir.join("agent.lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(|| format!("opening {}", path.display()))?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).with_context(|| format!("reading {}", path.display()))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err(_) => bail!(
            "an sgp-agent (pid {}) is already running on this node: it holds {}; stop it first, or give this one another --runtime-dir and --bpf-dir",
            holder.trim(),
            path.display()
        ),
    };
    // Only for the words of whoever comes second: a disk that is full keeps no agent from its work.
    let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    if let Err(error) = written {
        warn!(%error, path = %path.display(), "the lock is held, but does not say by whom");
    }
    Ok(lock)
}

/// Waits for a signal, and says what its coming means.
pub(super) async fn asked_to_stop(meaning: &str) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    info!("{meaning}");
    Ok(())
}

/// Everything but the signals. The socket answers from the first moment, so that the CNI plugin hears what
/// is missing instead of finding nobody.
async fn work(settings: Settings, node: String, host: Arc<Host>, kernel: Bpf) -> Result<()> {
    if settings.provision == Provision::Own {
        host.ready().await.context("making the node ready for pods")?;
    }
    let types = settings.branches.types()?;
    let (changed, look_at_cloud) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (status, seen) = watch::channel(Status::default());
    follow_programs(&kernel);
    let state = state_of(&node, &host);
    let metrics = settings.watching.start(kernel.dirs(), &settings.files.runtime_dir, state, &seen)?;
    let socket = settings.files.runtime_dir.join(SOCKET);
    let (notices, to_tell) = mpsc::unbounded_channel();
    let net = Net { unmatched: settings.unmatched, provision: settings.provision, notices: notices.clone() };
    let serving = serve(&socket, Arc::clone(&host), net, seen, Arc::clone(&changed));
    let (news, look) = (Arc::clone(&changed), Arc::clone(&look_at_cloud));
    netlink::watch_links(move || news.notify_one())?;
    let kubernetes = Arc::new(Kubernetes::connect(&node, settings.shortcut, &changed).await?);
    tokio::spawn(tell(Arc::clone(&kubernetes), to_tell));
    let reconciling = async {
        let instance_id = insist("the API server", || kubernetes.instance_id(&node), |_| {}).await;
        let account = settings.branches.trunk_account.clone();
        let cloud = connect_ec2(&instance_id, &types, account, &notices).await;
        info!(node, instance_id, "started");
        let (told, facts) = watch::channel(None);
        let every = Duration::from_secs_f64(settings.ec2_poll);
        let members = Arc::new(Members::new(settings.membership));
        tokio::spawn(poll(
            Arc::clone(&cloud),
            Arc::clone(&kubernetes),
            Arc::clone(&members),
            every,
            Arc::clone(&look),
            told,
            Arc::clone(&metrics),
        ));
        let provisioner = Arc::new(Mutex::new(settings.branches.provisioner(&settings.cluster_name)));
        if settings.provision == Provision::Own {
            tokio::spawn(bring_up_trunk(Arc::clone(&host), facts.clone()));
        }
        let netlink = netlink::Netlink::connect()?;
        look_after_wiring(settings.provision, &netlink, host.settings(), &status);
        let (provision, kernel) = (settings.provision, Arc::new(Mutex::new(kernel)));
        let enforcement = settings.enforcement();
        let (node, kubernetes) = (node.clone(), Arc::clone(&kubernetes));
        Reconciler {
            node,
            kubernetes,
            cloud,
            kernel,
            netlink,
            provisioner,
            settings: host.settings().clone(),
            enforcement,
            provision,
            facts,
            members,
            look_at_cloud,
            changed: Arc::clone(&changed),
            metrics,
            status,
        }
        .run()
        .await;
        Ok(())
    };
    tokio::select! {
        result = serving => result,
        result = reconciling => result,
    }
}

async fn tell(kubernetes: Arc<Kubernetes>, mut notices: UnboundedReceiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        kubernetes.tell(&notice).await;
    }
}

async fn connect_ec2(
    instance_id: &str,
    types: &Table,
    account: Option<String>,
    notices: &UnboundedSender<Notice>,
) -> Arc<Ec2> {
    // Nobody hears of a notice only while the agent stops.
    let tell = |error: &anyhow::Error| drop(denied(error).map(|notice| notices.send(notice)));
    Arc::new(insist("EC2", || Ec2::connect(instance_id, types, account.clone()), tell).await)
}

fn state_of(node: &str, host: &Host) -> AgentState {
    AgentState {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        node: node.into(),
        mode: host.settings().mode.name().into(),
        ..AgentState::default()
    }
}

/// Takes in what somebody else wired. Where somebody else wires, wiring is not ours to mend.
fn look_after_wiring(
    provision: Provision,
    netlink: &netlink::Netlink,
    node: &crate::domain::settings::Settings,
    status: &watch::Sender<Status>,
) {
    tokio::spawn(adopt(netlink.clone(), node.veth_prefix.clone(), status.subscribe()));
    if provision == Provision::Own {
        tokio::spawn(restore(netlink.clone(), node.veth_prefix.clone(), node.family, status.subscribe()));
    }
}

/// Sets the trunk's link up as soon as it is there; the kernel sees it a moment after EC2 does. Where branches
/// are links that somebody else provides there is none to set up, and nothing to wait for.
async fn bring_up_trunk(host: Arc<Host>, mut facts: watch::Receiver<Option<Arc<Described>>>) {
    let mac_of = |seen: &Option<Arc<Described>>| Some(seen.as_ref()?.facts.trunk()?.mac.clone());
    let mut known = None;
    while let Ok(mac) =
        facts.wait_for(|facts| mac_of(facts).is_some_and(|mac| Some(mac) != known)).await.map(|it| mac_of(&it))
    {
        let Some(mac) = mac else { continue };
        insist("the trunk's link", || host.prepare_trunk(&mac), |_| {}).await;
        info!(mac, "the trunk is up");
        known = Some(mac);
    }
}

/// Lines of aya-log become log lines of the agent.
fn follow_programs(kernel: &Bpf) {
    let Some(id) = kernel.program_id() else { return };
    tokio::spawn(async move {
        if let Err(error) = telemetry::follow_log(id).await {
            warn!(error = format!("{error:#}"), "log lines of the data path are not shown");
        }
    });
}
