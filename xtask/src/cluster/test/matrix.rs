//! The matrix of issue 4: from and to everywhere, by every protocol, with a rule that allows it and without. What is
//! expected follows from facts 3.3 and 4 and from docs/semantics.md; what is seen is printed beside it.

mod cells;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::agents::restart_with;
use super::cast::{Cast, space};
use super::stage::{Role, START, Stage, Wired, bracketed};
use super::talk::Server;
use super::wire::Turn;
use crate::demo::hands::until;
use crate::place::Family;
use crate::process::within;
use cells::{Cell, DENIED, cells};

/// The port at which pods and others answer.
const PORT: u16 = 7;
/// NodeLocal DNS.
const NODE_LOCAL: &str = "169.254.20.10";
/// How long something that should not be answered is waited for.
const SILENCE: Duration = Duration::from_secs(1);

/// The pods of the matrix: P and Q on the first node, F on the second. One group holds them all.
struct Scene<'a> {
    stage: &'a Stage,
    group: String,
    p: Wired,
    q: Wired,
    f: Wired,
    services: Services,
}

/// ClusterIPs of the pods.
struct Services {
    p: String,
    q: String,
    f: String,
}

/// NodePorts of P, Q and F with externalTrafficPolicy Cluster, and of Q with Local.
const NODE_PORTS: [u16; 4] = [30_006, 30_007, 30_008, 30_009];

pub(super) fn matrix(stage: &Stage) -> Result<()> {
    judged(stage, "matrix", |_| {})
}

/// Asks everywhere, with a rule of this group and without; of each cell as it is expected otherwise.
fn judged(stage: &Stage, group: &str, otherwise: impl Fn(&mut Cell)) -> Result<()> {
    let scene = scene(stage, group)?;
    let _servers = serve(&scene)?;
    let mut cells = cells(&scene)?;
    cells.iter_mut().for_each(otherwise);
    services_stand(&scene)?;
    let without = without_rules(&scene, &cells)?;
    allow(&scene)?;
    let with = cells.iter().map(|cell| seen(&scene, cell, &cell.allowed)).collect::<Result<Vec<_>>>()?;
    let mut wrong = 0;
    for (cell, (with, without)) in cells.iter().zip(with.into_iter().zip(without)) {
        wrong += told(stage, cell, "with a rule", &cell.allowed, &with);
        wrong += told(stage, cell, "without", &cell.unasked, &without);
    }
    ensure!(wrong == 0, "{wrong} cells differ");
    Ok(())
}

/// The same with first packets past the host stack, where no Service has their destination.
pub(super) fn past_the_stack(stage: &Stage) -> Result<()> {
    let everywhere = |settings: &str| stage.world.nodes.iter().try_for_each(|node| restart_with(stage, node, settings));
    everywhere("SGP_SHORTCUT=all\n")?;
    let result = judged(stage, "straight", Cell::go_straight);
    everywhere("")?;
    result
}

/// Prints one half of a cell; gives 1 if it differs.
fn told(stage: &Stage, cell: &Cell, rule: &str, expected: &str, seen: &str) -> usize {
    let (differs, mark) = if expected == seen { (0, "ok") } else { (1, "DIFFERS") };
    let shape = stage.place.shape().word();
    println!(
        "  {shape:<11} {:<4} {:<28} {rule:<11} expected {expected:<64} seen {seen} {mark}",
        cell.protocol(),
        cell.to
    );
    differs
}

/// What is expected to be denied is asked all at once, because each takes its time; the rest one by one.
fn without_rules(scene: &Scene<'_>, cells: &[Cell]) -> Result<Vec<String>> {
    let denied = std::thread::scope(|scope| {
        let ask = |cell: &Cell| {
            let question = cell.question.clone();
            (cell.unasked == DENIED).then(|| scope.spawn(move || question.is_answered(SILENCE)))
        };
        let asked: Vec<_> = cells.iter().map(ask).collect();
        let ended = |asked: std::thread::ScopedJoinHandle<'_, Result<bool>>| {
            asked.join().unwrap_or_else(|_| bail!("a thread that asks panicked"))
        };
        asked.into_iter().map(|asked| asked.map(ended).transpose()).collect::<Result<Vec<_>>>()
    })?;
    let word = |(cell, answered): (&Cell, Option<bool>)| match answered {
        Some(true) => Ok("answered".to_owned()),
        Some(false) => Ok(DENIED.to_owned()),
        None => seen(scene, cell, &cell.unasked),
    };
    cells.iter().zip(denied).map(word).collect()
}

/// What the wire shows; asked again for a while where it is not what is expected, since agents hear of changes later.
fn seen(scene: &Scene<'_>, cell: &Cell, expected: &str) -> Result<String> {
    let cast = Cast::new(scene.stage, &[("P", &scene.p), ("Q", &scene.q), ("F", &scene.f)])?;
    let ask = || cast.ask(&cell.question, &[Turn::Asks], &[cell.question.to.port(), PORT]);
    let mut last = String::new();
    let wanted = until(Duration::from_secs(4), || {
        last = ask()?;
        ensure!(last == expected, "{last}");
        Ok(())
    });
    ensure!(wanted.is_ok() || !last.is_empty(), "{}", wanted.err().context("nothing was asked")?);
    Ok(last)
}

fn scene<'a>(stage: &'a Stage, group: &str) -> Result<Scene<'a>> {
    stage.namespace()?;
    let group = stage.group(group)?;
    revoke_egress(stage, &group)?;
    stage.policy("matrix", &group)?;
    let [near, far] = &stage.world.nodes[..] else { bail!("the matrix wants two nodes") };
    let pods = [("p", near), ("q", near), ("f", far)];
    for (name, node) in pods {
        stage.ask_for(&Role { name, role: "matrix", node: &node.name, image: "busybox" }, "")?;
    }
    pods.iter().try_for_each(|(name, _)| stage.running(name).map(drop))?;
    let service = |name, pod, policy, node_port| {
        let ports = ["tcp", "udp"].map(|protocol| {
            let number = format!("port: {PORT}, nodePort: {node_port}");
            format!("{{name: {protocol}, protocol: {}, {number}}}", protocol.to_uppercase())
        });
        let spec = format!("type: NodePort, externalTrafficPolicy: {policy}, ports: [{}]", ports.join(", "));
        stage.service(name, pod, &spec)
    };
    let [p_port, q_port, f_port, local_port] = NODE_PORTS;
    let services = Services {
        p: service("p", "p", "Cluster", p_port)?,
        q: service("q", "q", "Cluster", q_port)?,
        f: service("f", "f", "Cluster", f_port)?,
    };
    service("local", "q", "Local", local_port)?;
    Ok(Scene { stage, group, p: stage.wired("p")?, q: stage.wired("q")?, f: stage.wired("f")?, services })
}

/// EC2 gives every group a rule that lets everything out.
fn revoke_egress(stage: &Stage, group: &str) -> Result<()> {
    let filter = format!("Name=group-id,Values={group}");
    let query = "SecurityGroupRules[?IsEgress].SecurityGroupRuleId";
    let rules = stage.hands.ec2(&["describe-security-group-rules", "--filters", &filter, "--query", query])?;
    let args = ["revoke-security-group-egress", "--group-id", group, "--security-group-rule-ids"];
    stage.hands.ec2(&args.into_iter().chain(rules.split_whitespace()).collect::<Vec<_>>()).map(drop)
}

/// Everything: between the pods, from the nodes and from outside, and out.
fn allow(scene: &Scene<'_>) -> Result<()> {
    let stage = scene.stage;
    stage.open_all(&scene.group, &[&scene.group, &stage.world.cluster_group])?;
    let everywhere = match stage.place.family {
        Family::V4 => "IpProtocol=-1,IpRanges=[{CidrIp=0.0.0.0/0}]",
        Family::V6 => "IpProtocol=-1,Ipv6Ranges=[{CidrIpv6=::/0}]",
    };
    let args = ["authorize-security-group-egress", "--group-id", &scene.group, "--ip-permissions", everywhere];
    stage.hands.ec2(&args).map(drop)
}

/// Until kube-proxy has them, what is for a Service is denied for another reason than the one that is asked about.
fn services_stand(scene: &Scene<'_>) -> Result<()> {
    let node = scene.stage.world.nodes.first().context("the cluster has no node")?;
    let save = if scene.stage.place.family == Family::V4 { "iptables-save" } else { "ip6tables-save" };
    let mut wanted: Vec<String> = NODE_PORTS.iter().map(u16::to_string).collect();
    wanted.extend([&scene.p, &scene.q, &scene.f].map(|pod| format!("{}:{PORT}", bracketed(&pod.address))));
    until(START, || {
        let old = scene.stage.hands.finish(within(&node.netns, save).args(["-t", "nat"]))?.words();
        let new = scene.stage.hands.finish(within(&node.netns, "nft").args(["list", "ruleset"]))?.words();
        for words in &wanted {
            ensure!(old.contains(words) || new.contains(words), "kube-proxy has no rule for {words}");
        }
        Ok(())
    })
}

/// Somebody to answer in each pod, outside, and on the node.
fn serve(scene: &Scene<'_>) -> Result<Vec<Server>> {
    let place = &scene.stage.place;
    let node = place.netns("n1");
    let mut at: Vec<_> = [&scene.p, &scene.q, &scene.f].map(|pod| (pod.netns.clone().into(), &pod.address[..])).into();
    at.push((space(&place.netns("inet")), place.internet()));
    if place.family == Family::V4 {
        scene.stage.node_local(NODE_LOCAL)?;
        at.push((space(&node), NODE_LOCAL));
    }
    let start = |(space, address): (std::path::PathBuf, &str)| {
        Server::start(&space, std::net::SocketAddr::new(address.parse()?, PORT))
    };
    at.into_iter().map(start).collect()
}
