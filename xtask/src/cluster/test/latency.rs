//! How soon changes are in force.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::stage::{NAMESPACE, Role, Stage};

/// What the issue promises.
const SOON: Duration = Duration::from_secs(2);

/// A server in `web` and a client in `ask`; opening and closing the port shows in two seconds.
pub(super) fn rule_change(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let (web, ask) = (stage.group("latency-web")?, stage.group("latency-ask")?);
    stage.policy("web", &web)?;
    stage.policy("ask", &ask)?;
    let [one, two] = &stage.world.nodes[..] else { bail!("these cases want two nodes") };
    let address = stage.start(&Role { name: "web", role: "web", node: &one.name, image: "nginx" })?;
    stage.start(&Role { name: "ask", role: "ask", node: &two.name, image: "busybox" })?;
    stage.start(&Role { name: "near", role: "ask", node: &one.name, image: "busybox" })?;
    ensure!(!stage.reaches("ask", &address)?, "no rule allows it, and it passed from the other node");
    ensure!(!stage.reaches("near", &address)?, "no rule allows it, and it passed on the same node");
    let rule = stage.open_80(&web, &ask)?;
    let opened = wait_for(stage, &address, true)?;
    stage.hands.ec2(&["revoke-security-group-ingress", "--group-id", &web, "--security-group-rule-ids", &rule])?;
    let closed = wait_for(stage, &address, false)?;
    println!("  opened after {opened:.2?}, closed after {closed:.2?}");
    ensure!(opened <= SOON && closed <= SOON, "opened after {opened:.2?}, closed after {closed:.2?}");
    Ok(())
}

/// How long until both clients see the port open, or closed.
fn wait_for(stage: &Stage, address: &str, open: bool) -> Result<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(15) {
        let asked = begun.elapsed();
        let mut seen = 0;
        for client in ["ask", "near"] {
            let args = ["curl", "-sS", "-o", "/dev/null", "-m", "0.3", address];
            seen += usize::from((stage.hands.exec(NAMESPACE, client, &args)?.status == 0) == open);
        }
        if seen == 2 {
            return Ok(asked);
        }
    }
    bail!("the change is not in force after 15 s")
}

/// A pod that answers nobody is closed from its first moment: a neighbour knocks all the while it starts.
pub(super) fn first_packet(stage: &Stage) -> Result<()> {
    stage.namespace()?;
    let group = stage.group("first-packet")?;
    stage.policy("shut", &group)?;
    let [one, ..] = &stage.world.nodes[..] else { bail!("the cluster has no node") };
    stage.start(&Role { name: "knock", role: "none", node: "", image: "busybox" })?;
    stage.ask_for(&Role { name: "shut", role: "shut", node: &one.name, image: "nginx" }, "")?;
    let address = stage.running("shut")?;
    for _ in 0..5 {
        ensure!(!stage.reaches("knock", &address)?, "a stranger got an answer from {address}");
    }
    let named = format!("{NAMESPACE}/shut");
    let drops = stage.hands.agent(&["drops", "--bpf-dir", &one.bpf_dir, "--pod", &named])?.ok()?;
    ensure!(drops.contains("NoMatchingRule"), "the drops are {drops}");
    Ok(())
}
