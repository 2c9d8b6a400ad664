//! `doctor`: findings, each with its cure.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sgp_common::addr::{Family, UNSPECIFIED};
use sgp_common::pins::program;

use super::status::agent_of;
use super::variables::NodeFiles;
use super::view::View;
use crate::domain::groups::{EndpointId, GroupSetId};
use crate::domain::routing::Packets;
use crate::domain::wiring::{FROM_POD_PRIORITY, OWN_WAY_PRIORITY};
use crate::host;
use crate::io::kernel::maps::Maps;
use crate::io::kernel::{attached, preflight};
use crate::io::netlink::Netlink;
use crate::telemetry::pinned::fill;

/// A map this full, in percent, is told before it is full.
const NEARLY_FULL: usize = 90;
/// A round comes every 30 s at least.
const LATE_S: u64 = 120;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    ok: bool,
    what: &'static str,
    /// What is wrong, and after a colon or semicolon what helps; or what was found.
    detail: String,
}

/// Where to look.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  sgp-agent doctor\n  sgp-agent doctor --json     exit status 1 if anything is wrong"
)]
pub(super) struct Doctor {
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    files: NodeFiles,
}

pub(super) fn print(doctor: &Doctor) -> Result<ExitCode> {
    let (view, files) = (&doctor.view, &doctor.files);
    let mut findings = vec![
        finding("kernel, permission and bpffs", preflight::check(&view.place.bpf_dir)),
        finding("the node is set as its pods need it", node(files)),
        finding("the agent runs and keeps up", agent(&files.runtime_dir)),
        finding("EC2 and the API server answer", sources(&files.runtime_dir)),
        finding("nothing is refused", refused(&files.runtime_dir)),
        told("translation by aws-node", aws_node()),
    ];
    match view.maps() {
        Ok(maps) => findings.extend(of_maps(doctor, &maps)),
        Err(error) => findings.push(finding("pins", Err(error))),
    }
    let healthy = findings.iter().all(|finding| finding.ok);
    view.rows(&["", "CHECK", "DETAIL"], &findings, |row| {
        vec![if row.ok { "ok" } else { "!!" }.to_owned(), row.what.to_owned(), row.detail.clone()]
    })?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn finding(what: &'static str, result: Result<()>) -> Finding {
    match result {
        Ok(()) => Finding { ok: true, what, detail: String::new() },
        Err(error) => Finding { ok: false, what, detail: format!("{error:#}") },
    }
}

/// One whose detail is worth a word also where nothing is wrong.
fn told(what: &'static str, result: Result<String>) -> Finding {
    match result {
        Ok(detail) => Finding { ok: true, what, detail },
        Err(error) => finding(what, Err(error)),
    }
}

fn node(files: &NodeFiles) -> Result<()> {
    wait_for(host::check(&files.proc_sys, &files.runtime_dir))
}

fn wait_for<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the async runtime")?.block_on(answer)
}

fn agent(runtime_dir: &Path) -> Result<()> {
    let Some((agent, running, lag)) = agent_of(runtime_dir)? else {
        bail!("none has written {}: start one, or give its --runtime-dir", runtime_dir.display());
    };
    ensure!(running, "the agent (pid {}) is down: what is enforced stays, new pods wait; start it", agent.pid);
    ensure!(lag <= LATE_S, "it last left the kernel as desired {lag} s ago: its log says what fails since");
    Ok(())
}

/// Each is asked every 30 s at least.
fn sources(runtime_dir: &Path) -> Result<()> {
    let Some((agent, true, lag)) = agent_of(runtime_dir)? else { return Ok(()) };
    for (who, age) in [("EC2", agent.ec2_age_s), ("the API server", agent.kubernetes_age_s)] {
        let age = age.map(|age| age + lag);
        let since = age.map_or("has not answered yet".to_owned(), |age| format!("has not answered for {age} s"));
        ensure!(
            age.is_some_and(|age| age <= LATE_S),
            "{who} {since}: what is enforced stays, and changes of rules or pods are not seen; the agent's log says why"
        );
    }
    let heard = agent.membership_age_s.map_or(0, |age| age + lag);
    ensure!(
        heard <= LATE_S,
        "the controller has not looked after its SecurityGroupMemberships for {heard} s: members stay as they were; start \
         sgp-controller, or have agents ask EC2 themselves: kubectl delete sgm members-index"
    );
    Ok(())
}

fn refused(runtime_dir: &Path) -> Result<()> {
    let refused = agent_of(runtime_dir)?.map(|(agent, ..)| agent.refused).unwrap_or_default();
    let all: Vec<String> = refused.iter().map(|(object, reason)| format!("{object}: {reason}")).collect();
    ensure!(all.is_empty(), "{}", all.join("; "));
    Ok(())
}

/// Whoever can list the node's rules for addresses.
const LISTINGS: [(&str, &[&str]); 3] =
    [("iptables-save", &["-t", "nat"]), ("iptables-legacy-save", &["-t", "nat"]), ("nft", &["list", "ruleset"])];

/// What of aws-node's own translation stands on the node (facts 4), by the word of whatever program can list it.
fn aws_node() -> Result<String> {
    let listed = |(program, args): (&'static str, &[&str])| {
        let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
        Some((program, String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let looked: Vec<(&str, String)> = LISTINGS.into_iter().filter_map(listed).collect();
    ensure!(
        !looked.is_empty(),
        "not looked: of {} none is there, or none may list; run doctor on the node itself",
        LISTINGS.map(|(program, _)| program).join(", ")
    );
    let programs: Vec<&str> = looked.iter().map(|(program, _)| *program).collect();
    let text: String = looked.iter().map(|(_, text)| text.as_str()).collect();
    Ok(format!("{} ({} looked)", translation(&text), programs.join(", ")))
}

/// A pod that aws-node wired has not the rule that keeps it from following aws-node's marks.
fn own_ways(maps: &Maps) -> Result<()> {
    let rules = wait_for(async { Netlink::connect()?.rules(Family::V4).await })?;
    let has =
        |priority, packets: &Packets| rules.iter().any(|rule| rule.priority == priority && rule.packets == *packets);
    for (id, endpoint) in pods(maps) {
        let Some(address) = Ipv6Addr::from(endpoint.ipv4.bytes).to_ipv4_mapped() else { continue };
        let packets = Packets::From(address.into());
        ensure!(
            !has(FROM_POD_PRIORITY, &packets) || has(OWN_WAY_PRIORITY, &packets),
            "aws-node wired {}, and no rule keeps it to its branch: where aws-node translates too (see above), what it sends out of the VPC passes \
             no program and its answers drop. A running agent adds the rule: see its log",
            maps.pod_name(id)
        );
    }
    Ok(())
}

/// Both stand beside ours: what a standard pod of ours sends goes its own way before rule 1024.
fn translation(rules: &str) -> String {
    let found: Vec<&str> = ["AWS-SNAT-CHAIN", "AWS-CONNMARK-CHAIN", "table ip aws-cni"]
        .into_iter()
        .filter(|name| rules.contains(name))
        .collect();
    if found.is_empty() {
        return "none of it is there: ordinary pods leave the VPC under their own addresses".to_owned();
    }
    format!("{} found: it translates ordinary pods, and ours leave by the programs", found.join(", "))
}

fn of_maps(doctor: &Doctor, maps: &Maps) -> Vec<Finding> {
    vec![
        finding("every endpoint has a policy", policies(maps)),
        finding("every program is attached", links(&doctor.view, maps)),
        finding("every endpoint has an address", addresses(maps)),
        finding("no other programs on our hooks", foreign(maps)),
        finding("ports of translated flows are ours alone", ports(maps, &doctor.files.proc_sys)),
        finding("pods leave the VPC by our programs", own_ways(maps)),
        finding("no map is nearly full", room(maps)),
    ]
}

/// Pods' endpoints; the primary interface's has no pod's wiring.
fn pods(maps: &Maps) -> impl Iterator<Item = (EndpointId, sgp_common::endpoint::Endpoint)> {
    let all = maps.endpoints.iter().flatten().map(|(id, endpoint)| (EndpointId(id), endpoint));
    all.filter(|(_, endpoint)| endpoint.branch_ifindex != endpoint.host_ifindex)
}

fn policies(maps: &Maps) -> Result<()> {
    for (id, endpoint) in maps.endpoints.iter().flatten() {
        ensure!(
            maps.policy(GroupSetId(endpoint.group_set)).is_some(),
            "{} has none, so all of its packets drop with NoPolicy: see the agent's log for why it was refused",
            maps.pod_name(EndpointId(id))
        );
    }
    Ok(())
}

/// What each endpoint needs against what is there.
fn links(view: &View, maps: &Maps) -> Result<()> {
    let (links, _) = attached(&view.dirs())?;
    if let Some(link) = links.iter().find(|link| link.ifindex == 0) {
        bail!(
            "{} on {}: the interface is gone; a running agent removes the pin within 30 s",
            link.program,
            link.interface
        );
    }
    let there: BTreeSet<(u32, &str)> = links.iter().map(|link| (link.ifindex, link.program)).collect();
    for (id, endpoint) in pods(maps) {
        let (host, branch) = (endpoint.host_ifindex, endpoint.branch_ifindex);
        let wanted = [
            (host, program::FROM_POD),
            (host, program::TO_POD),
            (branch, program::FROM_BRANCH),
            (branch, program::TO_BRANCH),
        ];
        if let Some((index, name)) = wanted.iter().find(|link| !there.contains(link)) {
            let pod = maps.pod_name(id);
            bail!("pod {pod}: {name} is not attached to interface {index}; a running agent attaches it within 30 s");
        }
    }
    Ok(())
}

fn addresses(maps: &Maps) -> Result<()> {
    for (id, endpoint) in pods(maps) {
        ensure!(
            endpoint.ipv4 != UNSPECIFIED || endpoint.ipv6 != UNSPECIFIED,
            "pod {} has none: its annotation vpc.amazonaws.com/pod-eni names no address",
            maps.pod_name(id)
        );
    }
    Ok(())
}

/// Others' programs at our interfaces' tc and tcx hooks, by the kernel's own word. Before ours they may let pass or change
/// what ours would judge.
fn foreign(maps: &Maps) -> Result<()> {
    let shown = Command::new("bpftool").args(["-j", "net", "show"]).output();
    // An image without bpftool cannot look; what it would find is rare.
    let Ok(shown) = shown else { bail!("bpftool is not there to look: run doctor where it is installed") };
    let nets: serde_json::Value = serde_json::from_slice(&shown.stdout).context("reading what bpftool says")?;
    let ours: BTreeSet<u64> =
        pods(maps).flat_map(|(_, endpoint)| [endpoint.host_ifindex, endpoint.branch_ifindex]).map(u64::from).collect();
    for hook in nets.as_array().into_iter().flatten().filter_map(|net| net["tc"].as_array()).flatten() {
        let (index, name) = (hook["ifindex"].as_u64().unwrap_or_default(), hook["name"].as_str().unwrap_or_default());
        let device = hook["devname"].as_str().unwrap_or("?");
        ensure!(
            !ours.contains(&index) || program::ALL.contains(&name),
            "{name:?} is attached to {device} too: its owner must leave pods with branches alone; `bpftool net show` says more"
        );
    }
    Ok(())
}

/// The kernel must give none of them to the node's own sockets.
fn ports(maps: &Maps, proc_sys: &Path) -> Result<()> {
    let Some(node) = maps.node.get(&0, 0).ok().filter(|node| node.ifindex != 0) else { return Ok(()) };
    let path = proc_sys.join("net/ipv4/ip_local_port_range");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    overlap(&text, (node.first_port, node.last_port))
}

fn overlap(range: &str, (first, last): (u16, u16)) -> Result<()> {
    let numbers: Vec<u16> = range.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [low, high] = numbers[..] else { bail!("ip_local_port_range is {range:?}") };
    ensure!(
        high < first || low > last,
        "net.ipv4.ip_local_port_range is {low} {high} and translated flows have {first} to {last}: a socket of the node can meet \
         a pod's replies; set it to \"{} 60999\"",
        u32::from(last) + 2768
    );
    Ok(())
}

fn room(maps: &Maps) -> Result<()> {
    let full = fill(maps)?.into_iter().find(|(_, used, limit)| used * 100 >= *limit as usize * NEARLY_FULL);
    full.map_or(Ok(()), |(map, used, limit)| {
        bail!("{map} holds {used} of {limit}: docs/limits.md says what happens then, `sgp-agent flows` and `snat` who fills it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_of_aws_node_is_told_by_name() {
        let nothing = translation("*nat\n-A POSTROUTING -j KUBE-POSTROUTING\n");
        assert!(nothing.starts_with("none"), "{nothing}");
        let chains = translation(":AWS-SNAT-CHAIN-0 - [0:0]\n-A POSTROUTING -j AWS-SNAT-CHAIN-0\n");
        assert!(chains.starts_with("AWS-SNAT-CHAIN found"), "{chains}");
        let nftables = translation("table ip aws-cni {\n chain snat-mark {}\n}");
        assert!(nftables.starts_with("table ip aws-cni found"), "{nftables}");
    }

    #[test]
    fn a_port_range_that_meets_ours_is_told_with_its_cure() {
        assert!(overlap("32768\t60999\n", (10_240, 29_999)).is_ok());
        let told = overlap("1024 65535", (10_240, 29_999)).expect_err("they overlap").to_string();
        assert!(told.contains("32767 60999"), "{told}");
        assert!(overlap("odd", (1, 2)).is_err());
    }
}
