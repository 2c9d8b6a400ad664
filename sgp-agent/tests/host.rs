//! What the agent changes on the node itself, and that all of it is put back.

mod plugin;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use plugin::{Node, ok};
use sgp_agent::domain::settings::{Settings, Snat};
use sgp_agent::domain::wiring::Mode;
use sgp_agent::host::{Host, PROC_SYS, check, restore};
use sgp_agent::io::netlink::Netlink;
use sgp_common::addr::Family;

fn ready(node: &Node, settings: &Settings) -> Result<()> {
    let host = Host::new(settings.clone(), Path::new(PROC_SYS), node.dir());
    node.on(|| async move { host.ready().await })
}

fn back(node: &Node) -> Result<()> {
    node.on(|| restore(Path::new(PROC_SYS), node.dir()))
}

/// Everything of the node that a setting may touch.
fn picture(node: &Node) -> String {
    let keys = [
        "net.ipv4.ip_forward",
        "net.ipv4.tcp_early_demux",
        "net.ipv4.conf.eth0.rp_filter",
        "net.ipv6.conf.all.forwarding",
        "net.ipv6.conf.eth0.accept_ra",
    ];
    let sysctls = ok(node.within("node", "sysctl").args(keys));
    let link = node.ip("link show eth0");
    let mtu = link.split(' ').skip_while(|word| *word != "mtu").nth(1).expect("an MTU");
    format!("{}\n{}\n{sysctls}mtu {mtu}", node.ip("rule"), node.ip("-6 rule"))
}

fn strict() -> Settings {
    Settings { eni_mtu: 1400, early_demux: false, ..Settings::default() }
}

#[test]
fn on_a_strict_node_local_stands_behind_the_pods_own_rules() {
    let Some(node) = Node::start() else { return };
    ready(&node, &strict()).expect("the node is ready");
    assert_eq!(
        node.ip("rule"),
        "20: from all lookup local\n1021: from all fwmark 0x400000/0x400000 lookup main\n\
         1024: from all fwmark 0x80/0x80 lookup main\n32766: from all lookup main\n32767: from all lookup default"
    );
    assert!(node.ip("-6 rule").starts_with("0: from all lookup local\n"), "the other family is left alone");
    let sysctls =
        ok(node.within("node", "sysctl").args(["-n", "net.ipv4.tcp_early_demux", "net.ipv4.conf.eth0.rp_filter"]));
    assert_eq!(sysctls, "0\n2\n");
    assert!(node.ip("link show eth0").contains("mtu 1400"));
}

#[test]
fn on_a_strict_ipv6_node_the_router_is_heard_too() {
    let Some(node) = Node::start() else { return };
    let settings = Settings { family: Family::V6, snat: Snat::External, node_ports: false, ..strict() };
    ready(&node, &settings).expect("the node is ready");
    assert_eq!(
        node.ip("-6 rule"),
        "0: from fe80:ec2::1 ipproto ipv6-icmp lookup local\n20: from all lookup local\n32766: from all lookup main"
    );
    assert_eq!(
        node.ip("rule"),
        "0: from all lookup local\n32766: from all lookup main\n32767: from all lookup default"
    );
    let sysctls = ["net.ipv6.conf.all.forwarding", "net.ipv6.conf.eth0.accept_ra"];
    assert_eq!(ok(node.within("node", "sysctl").arg("-n").args(sysctls)), "1\n2\n");
}

#[test]
fn on_a_standard_node_only_marks_and_external_services_have_rules() {
    let Some(node) = Node::start() else { return };
    let services = vec!["198.51.100.0/24".parse().expect("a CIDR")];
    let settings = Settings { mode: Mode::Standard, external_services: services, mark: 0x100, ..strict() };
    ready(&node, &settings).expect("the node is ready");
    assert_eq!(
        node.ip("rule"),
        "0: from all lookup local\n1021: from all fwmark 0x400000/0x400000 lookup main\n\
         1021: from all to 198.51.100.0/24 lookup main\n1024: from all fwmark 0x100/0x100 lookup main\n\
         1535: from all to 198.51.100.0/24 lookup main\n32766: from all lookup main\n32767: from all lookup default"
    );
}

#[test]
fn at_no_moment_is_there_no_rule_for_local() {
    for family in [Family::V4, Family::V6] {
        let Some(node) = Node::start() else { return };
        let mut monitor = node.within("node", "ip");
        let mut child = monitor.args(["monitor", "rule"]).stdout(Stdio::piped()).spawn().expect("ip monitor");
        std::thread::sleep(Duration::from_millis(300));
        let settings = Settings { family, ..strict() };
        ready(&node, &settings).expect("the node is ready");
        back(&node).expect("the node is put back");
        std::thread::sleep(Duration::from_millis(300));
        child.kill().expect("it runs");
        let output = child.wait_with_output().expect("its words");
        let text = String::from_utf8_lossy(&output.stdout).replace('\t', " ");
        let mut standing = 1;
        let about = |line: &&str| line.contains("from all lookup local");
        for line in text.lines().filter(about) {
            standing += if line.starts_with("Deleted") { -1 } else { 1 };
            assert!(standing > 0, "{family:?}:\n{text}");
        }
        assert_eq!(text.lines().filter(about).count(), 4, "added and removed, there and back:\n{text}");
    }
}

#[test]
fn all_is_put_back_even_after_restarts_and_changed_settings() {
    for family in [Family::V4, Family::V6] {
        let Some(node) = Node::start() else { return };
        let before = picture(&node);
        let services = vec!["198.51.100.0/24".parse().expect("a CIDR")];
        let first = Settings { family, external_services: services, ..strict() };
        ready(&node, &first).expect("the node is ready");
        let then = picture(&node);
        ready(&node, &first).expect("a second start finds it ready");
        assert_eq!(picture(&node), then);
        let second =
            Settings { family, mark: 0x200, mode: Mode::Standard, early_demux: true, eni_mtu: 1450, ..strict() };
        ready(&node, &second).expect("the node is ready");
        let rules = node.ip("rule");
        assert!(
            !rules.contains("198.51.100.0/24") && !rules.contains("0x80/0x80"),
            "rules of the old settings: {rules}"
        );
        back(&node).expect("the node is put back");
        assert_eq!(picture(&node), before, "{family:?}");
        back(&node).expect("twice is no error");
    }
}

#[test]
fn what_somebody_else_has_changed_since_is_not_put_back() {
    let Some(node) = Node::start() else { return };
    ready(&node, &strict()).expect("the node is ready");
    ok(node.within("node", "sysctl").args(["-qw", "net.ipv4.conf.eth0.rp_filter=1"]));
    node.ip("link set eth0 mtu 1300");
    back(&node).expect("the node is put back");
    assert_eq!(ok(node.within("node", "sysctl").args(["-n", "net.ipv4.conf.eth0.rp_filter"])), "1\n");
    assert!(node.ip("link show eth0").contains("mtu 1300"));
}

#[test]
fn a_check_tells_what_somebody_else_has_changed() {
    let Some(node) = Node::start() else { return };
    let told = || {
        node.on(|| check(Path::new(PROC_SYS), node.dir())).map_or_else(|told| format!("{told:#}"), |()| String::new())
    };
    assert_eq!(told(), "", "a node that nobody touched is as it should be");
    ready(&node, &strict()).expect("the node is ready");
    assert_eq!(told(), "");
    for (words, wanted) in [
        ("rule del fwmark 0x80/0x80", "the rule \"1024: from all fwmark 0x80/0x80 lookup main\" is gone"),
        ("rule add from all lookup local pref 0", "the rule \"0: from all lookup local\" is back"),
        ("link set eth0 mtu 1300", "the MTU of eth0 is 1300 and needs 1400"),
    ] {
        node.ip(words);
        assert!(told().starts_with(wanted), "{}", told());
        ready(&node, &strict()).expect("a restart sets it right");
        assert_eq!(told(), "");
    }
    ok(node.within("node", "sysctl").args(["-qw", "net.ipv4.tcp_early_demux=1"]));
    assert!(told().starts_with("net/ipv4/tcp_early_demux is 1 and needs 0"), "{}", told());
}

#[test]
fn what_cannot_be_set_is_told_with_its_variable_and_the_old_state_is_kept() {
    let Some(node) = Node::start() else { return };
    let nowhere = Host::new(strict(), Path::new("/proc/self/none"), node.dir());
    let told = node.on(|| async { nowhere.ready().await }).expect_err("no such directory");
    assert!(format!("{told:#}").contains("/proc/self/none/net/ipv4/ip_forward"), "{told:#}");
    fs::write(node.dir().join("host.json"), "{").expect("the directory is ours");
    let told = format!("{:#}", ready(&node, &strict()).expect_err("a broken record"));
    assert!(told.contains("host.json") && told.contains("remove it to go on"), "{told}");
}

#[test]
fn whoever_shares_a_connection_gets_the_whole_list_however_many_ask_at_once() {
    let Some(node) = Node::start() else { return };
    let answers = node.on(|| async {
        let netlink = Netlink::connect()?;
        let ask = async || {
            let links = netlink.links().await?.len();
            let rules = netlink.rules(Family::V4).await?.len();
            anyhow::Ok((
                links,
                rules,
                netlink.host_routes(Family::V6).await?.len(),
                netlink.own_addresses().await?.len(),
            ))
        };
        let alone = ask().await?;
        let together = join_all((0..50).map(|_| ask())).await.into_iter().collect::<Result<Vec<_>>>()?;
        anyhow::Ok((alone, together))
    });
    let (alone, together) = answers.expect("the kernel is busy for nobody");
    assert!(alone.0 > 1 && alone.1 > 1 && alone.3 > 1, "{alone:?}");
    assert!(together.iter().all(|one| *one == alone), "{alone:?} and {together:?}");
}
