//! `sgp-dev`: the local cluster, the demo and the cluster tests. `cargo xtask` builds and starts it.

mod control;
mod demo;
mod net;
mod place;
mod process;
mod runner;
mod test;
mod tools;
mod up;

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};

use demo::hands::Hands;
use demo::narrator::Narrator;
use demo::tutorial::{Node, World};
use place::{Family, Mode, Place, Shape};
use tools::Tools;

/// A local cluster for sgp: real Kubernetes, an EC2 emulator, and a VPC made of network namespaces
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A cluster to work with
    #[command(subcommand)]
    Dev(Dev),
    /// AWS's tutorial "Security groups for pods" on a cluster made for it; exit status 1 if any step differs
    #[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --cluster two    beside one that is up")]
    Demo(Name),
    /// What only a whole cluster can show
    Test {
        /// Only cases whose name contains this
        #[arg(default_value = "")]
        filter: String,
        /// Name of the clusters it makes, for a run beside another
        #[arg(long, default_value = "test")]
        cluster: String,
    },
    /// What kubelet does, for one node; `dev up` starts it
    #[command(hide = true)]
    Runner {
        #[arg(long)]
        cluster: String,
        #[arg(long)]
        node: String,
    },
}

/// Which cluster.
#[derive(Args)]
struct Name {
    /// Name of the cluster; several can be up side by side
    #[arg(long, default_value = "dev")]
    cluster: String,
}

#[derive(Subcommand)]
enum Dev {
    /// Start a cluster; prints KUBECONFIG and the AWS environment
    #[command(
        after_help = "Examples:\n  cargo xtask dev up\n  cargo xtask dev up --cluster two --nodes 3\n  cargo xtask dev up --mode strict --ipv6"
    )]
    Up {
        #[command(flatten)]
        name: Name,
        /// Number of nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// How pods with a branch are wired: POD_SECURITY_GROUP_ENFORCING_MODE of the agents
        #[arg(long, value_enum, default_value_t = Mode::Standard)]
        mode: Mode,
        /// Pods and Services of IPv6 only, as in an IPv6 cluster of EKS
        #[arg(long)]
        ipv6: bool,
    },
    /// Take a cluster down; nothing stays
    #[command(after_help = "Examples:\n  cargo xtask dev down\n  cargo xtask dev down --cluster two")]
    Down(Name),
    /// Run a command in a pod
    #[command(after_help = "Examples:\n  cargo xtask dev exec -n my-namespace my-pod -- curl my-app")]
    Exec {
        #[command(flatten)]
        name: Name,
        /// Namespace of the pod
        #[arg(short, long, default_value = "default")]
        namespace: String,
        /// The pod
        pod: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// What is up
    #[command(after_help = "Examples:\n  cargo xtask dev status\n  cargo xtask dev status --json")]
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<ExitCode> {
    match command {
        Command::Runner { cluster, node } => runner::run(&cluster, &node)?,
        Command::Demo(name) => return tutorial(&name.cluster),
        Command::Test { filter, cluster } => return cases(&filter, &cluster),
        Command::Dev(Dev::Up { name, nodes, mode, ipv6 }) => {
            let family = if ipv6 { Family::V6 } else { Family::V4 };
            let place = start(&name.cluster, Shape { nodes, mode, family }, None)?;
            for (key, value) in place.environment() {
                println!("export {key}={value}");
            }
        }
        Command::Dev(Dev::Down(name)) => up::down(&Place::load(&name.cluster)?),
        Command::Dev(Dev::Exec { name, namespace, pod, command }) => {
            return exec(&name.cluster, &namespace, &pod, &command);
        }
        Command::Dev(Dev::Status { json }) => status(json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts a cluster, and takes it down again on Ctrl-C.
fn start(cluster: &str, shape: Shape, owner: Option<i32>) -> Result<Place> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "BPF and network namespaces need root: run it with `sudo -E env PATH=\"$PATH\"`"
    );
    let tools = Tools::found()?;
    down_on_signal(cluster.to_owned())?;
    eprintln!("Starting cluster {cluster}: {shape}");
    up::up(cluster, shape, owner, &tools)
}

/// The mask is inherited by threads; std resets it in the processes it starts.
fn down_on_signal(cluster: String) -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            eprintln!("\nStopped: taking cluster {cluster} down");
            if let Ok(place) = Place::load(&cluster) {
                up::down(&place);
            }
            std::process::exit(130);
        }
    });
    Ok(())
}

fn tutorial(cluster: &str) -> Result<ExitCode> {
    let tools = Tools::found()?;
    let place = start(
        cluster,
        Shape { nodes: 2, mode: Mode::Standard, family: Family::V4 },
        Some(nix::unistd::getpid().as_raw()),
    )?;
    let mut narrator = Narrator::new();
    let result = world(&place).and_then(|world| demo::tutorial::run(&hands(&place, &tools), &world, &mut narrator));
    narrator.say("Taking the cluster down");
    up::down(&place);
    let result = result.and_then(|()| nothing_left(&place));
    narrator.end(&result);
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// No namespace, no link, no pin.
fn nothing_left(place: &Place) -> Result<()> {
    let begin = format!("sgp-{}-", place.name);
    for dir in ["/run/netns", "/sys/fs/bpf"] {
        for entry in std::fs::read_dir(dir).with_context(|| format!("reading {dir}"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with(&begin), "{dir}/{name} is left");
        }
    }
    Ok(())
}

fn cases(filter: &str, cluster: &str) -> Result<ExitCode> {
    let tools = Tools::found()?;
    let begin = |shape| {
        let place = start(cluster, shape, Some(nix::unistd::getpid().as_raw()))?;
        let world = world(&place).inspect_err(|_| up::down(&place))?;
        Ok(test::Stage { hands: hands(&place, &tools), world, place })
    };
    let end = |stage: &test::Stage, failed| {
        if failed != 0 && std::env::var_os("SGP_DEV_KEEP").is_some() {
            return ControlFlow::Break(());
        }
        up::down(&stage.place);
        ControlFlow::Continue(())
    };
    let (passed, failed) = test::run(filter, begin, end)?;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hands(place: &Place, tools: &Tools) -> Hands {
    Hands {
        cluster: place.name.clone(),
        env: place.environment(),
        kube_bin: tools.kube_bin.clone(),
        venv: tools.venv.clone(),
        agent: tools.agent.clone(),
        kubectl_apply: up::apply_options(tools),
    }
}

fn world(place: &Place) -> Result<World> {
    let cloud = Place::load(&place.name)?.cloud.context("EC2 has made nothing")?;
    let pid = std::fs::read_to_string(place.dir().join("ec2.pid")).context("reading ec2.pid")?;
    let node = |name: String| {
        let file = |file: &str| place.node_dir(&name).join(file).display().to_string();
        Node {
            netns: place.netns(&name),
            bpf_dir: place.bpf_dir(&name),
            run_dir: file("run"),
            agent_log: file("agent.log"),
            agent_pid_file: file("agent.pid"),
            name,
        }
    };
    Ok(World {
        vpc: cloud.vpc,
        cluster_group: cloud.cluster_group,
        nodes: place.node_names().into_iter().map(node).collect(),
        ec2_pid: pid.trim().parse().context("ec2.pid is no number")?,
    })
}

fn exec(cluster: &str, namespace: &str, pod: &str, command: &[String]) -> Result<ExitCode> {
    let place = Place::load(cluster)?;
    let pid_file = place.dir().join("containers").join(format!("{namespace}_{pod}.pid"));
    let status = runner::exec(&pid_file, command)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn status(json: bool) -> Result<()> {
    let entries = std::fs::read_dir(place::CLUSTERS).into_iter().flatten().flatten();
    let places: Vec<Place> = entries.filter_map(|entry| Place::load(entry.file_name().to_str()?).ok()).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&places).context("writing JSON")?);
        return Ok(());
    }
    if places.is_empty() {
        println!("no cluster is up; `cargo xtask dev up` makes one");
    }
    for place in places {
        println!("{}: {}, KUBECONFIG={}", place.name, place.shape(), place.dir().join("kubeconfig").display());
    }
    Ok(())
}
