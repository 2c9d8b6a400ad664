//! Brings a cluster up, step by step, and takes it down.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::declared::Who;
use crate::demo::hands::until;
use crate::place::{Cloud, Family, Instance, Place, Shape};
use crate::process::{daemon, end_all, finish, within};
use crate::tools::Tools;
use crate::{control, declared, net};

const EC2: &str = include_str!("cloud/ec2.py");
const SHAPES: &str = include_str!("cloud/shapes.py");
const VPC: &str = include_str!("cloud/vpc.py");
const ROUTE: &str = include_str!("cloud/route.sh");
const CRD: &str = include_str!("../../../deploy/crds/securitygrouppolicies.vpcresources.k8s.aws.yaml");
const MEMBERSHIP_CRD: &str = include_str!("../../../deploy/crds/securitygroupmemberships.sgp.dev.yaml");
const CNINODE_CRD: &str = include_str!("../../../deploy/crds/cninodes.vpcresources.k8s.aws.yaml");
const ENICONFIG_CRD: &str = include_str!("../../../deploy/crds/eniconfigs.crd.k8s.amazonaws.com.yaml");
const DNS: &str = include_str!("dns.yaml");

/// Makes a cluster; what a failure leaves behind is taken away again, and so is one of the same name whose owner is gone.
pub(crate) fn up(name: &str, shape: Shape, owner: Option<i32>, tools: &Tools) -> Result<Place> {
    if let Some(orphan) = Place::load(name).ok().filter(Place::is_orphan) {
        eprintln!("Taking down cluster {name}, which nobody looks after any more");
        down(&orphan);
    }
    let place = Place::claim(name, shape, owner)?;
    let result = build(place.clone(), tools);
    if result.is_err() && std::env::var_os("SGP_DEV_KEEP").is_none() {
        down(&place);
    }
    result
}

fn build(mut place: Place, tools: &Tools) -> Result<Place> {
    step("network namespaces: router, control plane, internet, nodes", || bpffs().and_then(|()| net::make(&place)))?;
    step("EC2 (moto with our trunk extension) and the control plane", || {
        std::thread::scope(|scope| {
            let cloud = scope.spawn(|| start_ec2(&place, tools));
            control::start(&place, tools)?;
            cloud.join().unwrap_or_else(|_| anyhow::bail!("starting EC2 panicked"))
        })
    })
    .and_then(|cloud| {
        net::name_primaries(&place, &cloud)?;
        place.cloud = Some(cloud);
        place.save()
    })?;
    step("nodes: agent, kube-proxy and runner each", || start_nodes(&place, tools))?;
    step("cluster DNS in pods with the cluster's security group", || start_dns(&place, tools))?;
    Ok(place)
}

/// Says what is being done, and how long it took.
fn step<T>(what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
    eprint!("  {what} … ");
    drop(std::io::stderr().flush());
    let begun = Instant::now();
    let result = act();
    eprintln!("{} ({:.1} s)", if result.is_ok() { "done" } else { "FAILED" }, begun.elapsed().as_secs_f32());
    result.with_context(|| what.to_owned())
}

fn bpffs() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        return Ok(());
    }
    finish(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"])).map(drop)
}

fn start_ec2(place: &Place, tools: &Tools) -> Result<Cloud> {
    let dir = place.dir();
    for (name, text) in [("ec2.py", EC2), ("shapes.py", SHAPES), ("vpc.py", VPC), ("route.sh", ROUTE)] {
        fs::write(dir.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    let hook = format!("sh {} {}", dir.join("route.sh").display(), place.name);
    let python = tools.venv.join("bin/python");
    let mut server = within(&place.netns("cp"), &python);
    server.arg(dir.join("ec2.py")).arg(hook).args(["-H", &place.control_plane(), "-p", "5000"]);
    // moto thinks longer about a credential it has to look up.
    daemon(
        place,
        "ec2",
        server.env("INITIAL_NO_AUTH_ACTION_COUNT", "99999999").env("SGP_VPC_IPV6", vpc_v6_cidr(place)),
    )?;
    until(Duration::from_secs(60), || {
        let url = format!("http://{}:5000/moto-api/", place.control_plane());
        finish(Command::new("curl").args(["-sf", "-o", "/dev/null", "-m", "5", &url]))
    })?;
    let mut vpc = Command::new(&python);
    vpc.envs(place.environment()).arg(dir.join("vpc.py")).args([vpc_cidr(place), subnets(place)]);
    vpc.args([&place.name, place.machine.name()]).args((1..=place.nodes).map(|node| node_addresses(place, node)));
    let text = finish(&mut vpc)?;
    serde_json::from_str(&text).with_context(|| format!("vpc.py answered {text:?}"))
}

/// `IPV4` or `IPV4+IPV6`, as vpc.py wants it.
fn both(place: &Place, v4: String, v6: String) -> String {
    if place.family == Family::V6 { format!("{v4}+{v6}") } else { v4 }
}

fn vpc_cidr(place: &Place) -> String {
    both(place, format!("{}/16", place.address(0, 0)), vpc_v6_cidr(place))
}

fn vpc_v6_cidr(place: &Place) -> String {
    format!("{}/56", place.address_v6(0, 0))
}

fn subnets(place: &Place) -> String {
    let subnet = |n| both(place, format!("{}/24", place.address(n, 0)), format!("{}/64", place.address_v6(n, 0)));
    [0, 1].map(subnet).join(",")
}

fn node_addresses(place: &Place, node: u8) -> String {
    format!("n{node}={}", both(place, place.node_address(node), place.node_address_v6(node)))
}

/// `kubectl` with this YAML on its standard input.
fn apply(place: &Place, tools: &Tools, yaml: &str) -> Result<()> {
    let mut command = Command::new(tools.kube_bin.join("kubectl"));
    command.envs(place.environment()).args(["apply", "-f", "-"]).args(apply_options(tools));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(yaml.as_bytes()).context("writing to kubectl")?;
    }
    let output = child.wait_with_output().context("waiting for kubectl")?;
    ensure!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The API server of Debian's 1.20 is too old for what newer clients ask of it.
pub(crate) fn apply_options(tools: &Tools) -> Vec<String> {
    if tools.are_old() { vec!["--validate=false".to_owned()] } else { Vec::new() }
}

fn start_nodes(place: &Place, tools: &Tools) -> Result<()> {
    apply(place, tools, CRD)?;
    apply(place, tools, MEMBERSHIP_CRD)?;
    apply(place, tools, CNINODE_CRD)?;
    apply(place, tools, ENICONFIG_CRD)?;
    apply(place, tools, declared::AGENT_RBAC)?;
    apply(place, tools, &declared::controller_rbac())?;
    [Who::Agent, Who::Controller].into_iter().try_for_each(|who| declared::provide(who, place, tools))?;
    let cloud = place.cloud.as_ref().context("EC2 has made nothing")?;
    let node = |(name, instance): (&String, &Instance)| {
        let instance = &instance.id;
        format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels: {{kubernetes.io/hostname: {name}, kubernetes.io/os: linux}}\n\
             spec: {{providerID: 'aws:///us-west-2a/{instance}'}}\n---\n"
        )
    };
    apply(place, tools, &cloud.instances.iter().map(node).collect::<String>())?;
    let own = std::env::current_exe().context("finding sgp-dev's own binary")?;
    for name in place.node_names() {
        let mut runner = within(&place.netns(&name), &own);
        daemon(place, &format!("runner-{name}"), runner.args(["runner", "--cluster", &place.name, "--node", &name]))?;
    }
    until(Duration::from_secs(60), || {
        for name in place.node_names() {
            let path = "jsonpath={.status.capacity.vpc\\.amazonaws\\.com/pod-eni}";
            let mut get = Command::new(tools.kube_bin.join("kubectl"));
            let seen = finish(get.envs(place.environment()).args(["get", "node", &name, "-o", path]))?;
            ensure!(
                !seen.is_empty(),
                "the agent of node {name} has no trunk yet; see {}",
                place.node_dir(&name).display()
            );
        }
        Ok(())
    })
}

fn start_dns(place: &Place, tools: &Tools) -> Result<()> {
    let cloud = place.cloud.as_ref().context("EC2 has made nothing")?;
    apply(place, tools, &DNS.replace("CLUSTER_GROUP", &cloud.cluster_group).replace("CLUSTER_DNS", place.dns()))?;
    until(Duration::from_secs(90), || {
        let mut get = Command::new(tools.kube_bin.join("kubectl"));
        let args = ["get", "deployment", "dns", "-n", "kube-system", "-o", "jsonpath={.status.readyReplicas}"];
        let ready = finish(get.envs(place.environment()).args(args))?;
        ensure!(ready == "2", "{ready:?} of 2 DNS pods are ready");
        Ok(())
    })
}

/// Ends every process, then removes namespaces, links, mounts, pins and files.
pub(crate) fn down(place: &Place) {
    end_all(&place.name);
    net::remove(place);
    for node in place.node_names() {
        drop(fs::remove_dir_all(place.bpf_dir(&node)));
    }
    place.forget();
}
