//! The layouts of both modes and families as `ip` shows them (facts 3.1-3.5), and their end, however it comes.

mod plugin;

use plugin::{Cluster, Node, Pod};
use serde_json::Value;
use sgp_agent::domain::wiring::{Mode, mac_text};
use sgp_agent::io::netlink::Netlink;

const SHOP: Pod = Pod { name: "shop", uid: "u1", number: 1 };
/// The same name, another pod.
const HEIR: Pod = Pod { name: "shop", uid: "u2", number: 2 };
const OTHER: Pod = Pod { name: "other", uid: "u3", number: 3 };
const EVERY: [(Mode, Cluster); 4] = [
    (Mode::Strict, Cluster::V4),
    (Mode::Strict, Cluster::V6),
    (Mode::Standard, Cluster::V4),
    (Mode::Standard, Cluster::V6),
];

/// Lines that a command says now and did not say before.
fn news(before: &str, after: &str) -> String {
    let new: Vec<&str> = after.lines().filter(|line| !before.lines().any(|old| old == *line)).collect();
    new.join("\n")
}

#[test]
fn a_strict_pod_has_its_own_table_for_whatever_comes_by_its_interfaces() {
    let Some(node) = Node::start() else { return };
    let (rules, main) = (node.ip("rule"), node.ip("route"));
    let result = node.add(&SHOP, Mode::Strict, Cluster::V4);
    let host = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
    assert_eq!(host, "vlan5ad86df4829", "`vlan` and SHA-1 of ns.shop");
    let wanted = format!("10: from all iif {host} lookup 101\n10: from all iif vlan.eth.1 lookup 101");
    assert_eq!(news(&rules, &node.ip("rule")), wanted);
    let wanted = format!(
        "10.0.1.1 dev vlan.eth.1 proto static scope link\n10.0.1.10 dev {host} proto static scope link\n\
         default via 10.0.1.1 dev vlan.eth.1 proto static\nunreachable default proto static metric 4294967295"
    );
    assert_eq!(sorted(&node.table("101")), wanted);
    assert_eq!(node.ip("route"), main, "nothing in main");
}

#[test]
fn a_strict_pod_of_an_ipv6_cluster_likewise() {
    let Some(node) = Node::start() else { return };
    let (rules, main) = (node.ip("-6 rule"), node.ip("-6 route"));
    let result = node.add(&SHOP, Mode::Strict, Cluster::V6);
    let host = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
    let wanted = format!("10: from all iif {host} lookup 101\n10: from all iif vlan.eth.1 lookup 101");
    assert_eq!(news(&rules, &node.ip("-6 rule")), wanted);
    let wanted = format!(
        "2001:db8:0:1::a dev {host} proto static metric 1024 pref medium\n\
         default via fe80:ec2::1 dev vlan.eth.1 proto static metric 1024 pref medium\n\
         fe80:ec2::1 dev vlan.eth.1 proto static metric 1024 pref medium\n\
         unreachable default dev lo proto static metric 4294967295 pref medium"
    );
    assert_eq!(sorted(&node.table("101")), wanted);
    let only = news(&main, &node.ip("-6 route"));
    assert!(only.lines().all(|line| line.starts_with("fe80::/64 dev ")), "only links' own in main: {only}");
}

#[test]
fn a_standard_pod_is_reached_by_main_and_leaves_by_its_table() {
    let Some(node) = Node::start() else { return };
    let (rules, main) = (node.ip("rule"), node.ip("route"));
    let result = node.add(&SHOP, Mode::Standard, Cluster::V4);
    let host = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
    assert_eq!(host, "eni5ad86df4829");
    let wanted = "512: from all to 10.0.1.10 lookup main\n1022: from 10.0.1.10 lookup 101\n1023: from 10.0.1.10 unreachable\n1536: from 10.0.1.10 lookup 101";
    assert_eq!(news(&rules, &node.ip("rule")), wanted);
    let wanted = "10.0.1.1 dev vlan.eth.1 proto static scope link\ndefault via 10.0.1.1 dev vlan.eth.1 proto static";
    assert_eq!(sorted(&node.table("101")), wanted);
    assert_eq!(news(&main, &node.ip("route")), format!("10.0.1.10 dev {host} proto static scope link"));
}

#[test]
fn a_standard_pod_of_an_ipv6_cluster_likewise() {
    let Some(node) = Node::start() else { return };
    let (rules, main) = (node.ip("-6 rule"), node.ip("-6 route"));
    let result = node.add(&SHOP, Mode::Standard, Cluster::V6);
    let host = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
    let wanted = "512: from all to 2001:db8:0:1::a lookup main\n1022: from 2001:db8:0:1::a lookup 101\n\
                  1023: from 2001:db8:0:1::a unreachable\n1536: from 2001:db8:0:1::a lookup 101";
    assert_eq!(news(&rules, &node.ip("-6 rule")), wanted);
    let wanted = "default via fe80:ec2::1 dev vlan.eth.1 proto static metric 1024 pref medium\n\
                  fe80:ec2::1 dev vlan.eth.1 proto static metric 1024 pref medium";
    assert_eq!(sorted(&node.table("101")), wanted);
    let new = news(&main, &node.ip("-6 route"));
    let to_pod = format!("2001:db8:0:1::a dev {host} proto static metric 1024 pref medium");
    assert!(new.lines().any(|line| line == to_pod), "{new}");
}

#[test]
fn a_pod_finds_its_address_and_its_way_out() {
    let Some(node) = Node::start() else { return };
    node.add(&SHOP, Mode::Strict, Cluster::V4);
    let routes = node.ip_in("u1", "route");
    assert_eq!(routes, "default via 169.254.1.1 dev eth0 proto static\n169.254.1.1 dev eth0 proto static scope link");
    assert!(node.ip_in("u1", "-4 -o addr show dev eth0").contains("inet 10.0.1.10/32"));
    let neighbour = node.ip_in("u1", "neigh show dev eth0");
    assert!(neighbour.contains("169.254.1.1 lladdr") && neighbour.ends_with("PERMANENT"), "{neighbour}");
    for (space, link) in [("u1", "eth0"), ("node", "vlan5ad86df4829")] {
        let shown = node.ip_in(space, &format!("link show dev {link}"));
        assert!(shown.contains("mtu 1400"), "both ends have POD_MTU: {shown}");
    }
    let result = node.add(&OTHER, Mode::Strict, Cluster::V6);
    let routes = node.ip_in("u3", "-6 route show default");
    assert_eq!(routes, "default via fe80::1 dev eth0 proto static metric 1024 pref medium");
    let address = node.ip_in("u3", "-6 -o addr show dev eth0 scope global");
    assert!(address.contains("inet6 2001:db8:0:1::c/128") && !address.contains("tentative"), "{address}");
    for link in ["vlan.eth.3", result["interfaces"][0]["name"].as_str().expect("a host veth")] {
        let tentative = node.ip(&format!("-6 -o addr show dev {link} tentative"));
        assert_eq!(tentative, "", "the node can ask for pod and router at once");
    }
}

#[test]
fn whatever_becomes_of_the_branch_the_pod_leaves_by_no_other_interface() {
    for (mode, cluster) in EVERY {
        let Some(node) = Node::start() else { return };
        let result = node.add(&SHOP, mode, cluster);
        let host = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
        let (outside, own) = match cluster {
            Cluster::V4 => ("203.0.113.9", "10.0.0.5"),
            Cluster::V6 => ("2001:db8:ffff::9", "2001:db8::5"),
        };
        node.move_local(mode, cluster);
        let way = |to: &str| {
            let output = node.try_ip(&format!("route get {to} from {} iif {host}", SHOP.address(cluster)));
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        assert!(way(outside).is_some_and(|way| way.contains("vlan.eth.1")), "{mode:?} {cluster:?}: {:?}", way(outside));
        node.ip("link set vlan.eth.1 down");
        assert_eq!(way(outside), None, "{mode:?} {cluster:?}, branch down");
        if mode == Mode::Strict {
            assert_eq!(way(own), None, "{cluster:?}: not even to the node");
        }
        node.ip("link del vlan.eth.1");
        assert_eq!(way(outside), None, "{mode:?} {cluster:?}, branch gone");
    }
}

#[test]
fn del_leaves_nothing_with_and_without_result_and_namespace_however_often() {
    for (mode, cluster) in EVERY {
        let Some(node) = Node::start() else { return };
        let before = node.picture();
        for (with_result, space_stands) in [(true, true), (false, true), (true, false)] {
            let result = node.add(&SHOP, mode, cluster);
            assert_ne!(node.picture(), before);
            if !space_stands {
                node.forget(&SHOP);
            }
            let given = if with_result { result } else { Value::Null };
            for _ in 0..2 {
                node.del(&SHOP, &given);
                assert_eq!(node.picture(), before, "{mode:?} {cluster:?}: {with_result} {space_stands}");
            }
        }
    }
}

#[test]
fn a_strict_pod_goes_whole_even_without_result_and_namespace() {
    for cluster in [Cluster::V4, Cluster::V6] {
        let Some(node) = Node::start() else { return };
        let before = node.picture();
        node.add(&SHOP, Mode::Strict, cluster);
        node.forget(&SHOP);
        node.del(&SHOP, &Value::Null);
        assert_eq!(node.picture(), before, "{cluster:?}");
    }
}

#[test]
fn a_change_of_mode_touches_new_pods_only_and_both_go_whole() {
    let Some(node) = Node::start() else { return };
    let empty = node.picture();
    let strict = node.add(&SHOP, Mode::Strict, Cluster::V4);
    let with_strict = node.picture();
    let standard = node.add(&OTHER, Mode::Standard, Cluster::V4);
    assert!(with_strict.lines().filter(|line| !line.starts_with('[')).all(|line| node.picture().contains(line)));
    node.del(&OTHER, &standard);
    assert_eq!(node.picture(), with_strict);
    node.add(&OTHER, Mode::Standard, Cluster::V4);
    node.del(&SHOP, &strict);
    node.del(&OTHER, &Value::Null);
    assert_eq!(node.picture(), empty);
}

#[test]
fn a_pod_that_is_added_again_in_the_other_mode_has_one_layout() {
    let Some(node) = Node::start() else { return };
    node.add(&SHOP, Mode::Standard, Cluster::V4);
    let standard = node.picture();
    let pod = Pod { number: 2, ..SHOP };
    node.add(&pod, Mode::Strict, Cluster::V4);
    assert!(!node.picture().contains("lookup 101"), "nothing of the old one is left:\n{}", node.picture());
    node.add(&SHOP, Mode::Standard, Cluster::V4);
    assert_eq!(node.picture(), standard);
}

#[test]
fn an_heir_of_the_name_keeps_its_wiring_when_the_pod_before_it_goes() {
    for (first, second) in
        [(Mode::Strict, Mode::Strict), (Mode::Standard, Mode::Standard), (Mode::Strict, Mode::Standard)]
    {
        let Some(node) = Node::start() else { return };
        let result = node.add(&SHOP, first, Cluster::V4);
        node.add(&HEIR, second, Cluster::V4);
        let heirs = node.picture();
        for given in [&result, &Value::Null] {
            node.del(&SHOP, given);
            assert_eq!(node.picture(), heirs, "{first:?} {second:?}, given {given}");
        }
        node.del(&HEIR, &Value::Null);
        assert!(!node.picture().contains("lookup 10"), "{}", node.picture());
    }
}

#[test]
fn what_a_pod_left_before_its_heir_came_is_taken_away_by_its_own_result() {
    let Some(node) = Node::start() else { return };
    let result = node.add(&SHOP, Mode::Standard, Cluster::V4);
    // The sandbox dies: veth and route go with it, and nothing tells the heir's ADD what else there was.
    node.forget(&SHOP);
    let heir = node.add(&HEIR, Mode::Standard, Cluster::V4);
    assert!(node.ip("rule").contains("lookup 101"), "the rules of the one before are still there");
    node.del(&SHOP, &result);
    let rules = node.ip("rule");
    assert!(!rules.contains("10.0.1.10 ") && rules.contains("from 10.0.1.11 lookup 102"), "{rules}");
    node.del(&HEIR, &heir);
}

#[test]
fn a_branch_that_has_another_pod_by_now_survives_a_late_del() {
    for mode in [Mode::Strict, Mode::Standard] {
        let Some(node) = Node::start() else { return };
        let result = node.add(&SHOP, mode, Cluster::V4);
        node.del(&SHOP, &result);
        let next = Pod { number: 1, ..OTHER };
        node.add(&next, mode, Cluster::V4);
        let wired = node.picture();
        node.del(&SHOP, &result);
        assert_eq!(node.picture(), wired, "{mode:?}");
    }
}

#[test]
fn what_the_vpc_cni_wired_is_taken_away_by_its_result() {
    let Some(node) = Node::start() else { return };
    let before = node.picture();
    for mode in [Mode::Strict, Mode::Standard] {
        let result = node.add(&SHOP, mode, Cluster::V4);
        let host = result["interfaces"][0]["name"].as_str().expect("a host veth");
        node.ip(&format!("link set {host} alias -"));
        node.del(&SHOP, &Value::Null);
        assert_ne!(node.picture(), before, "whose it is, nobody says");
        node.del(&SHOP, &result);
        assert_eq!(node.picture(), before, "{mode:?}");
    }
}

#[test]
fn the_other_end_of_a_host_veth_is_seen_from_the_node() {
    let Some(node) = Node::start() else { return };
    let result = node.add(&SHOP, Mode::Strict, Cluster::V4);
    let host = result["interfaces"][0]["name"].as_str().expect("a host veth").to_owned();
    let inside = node.ip_in("u1", "-o link show dev eth0");
    let wanted = inside.split(' ').skip_while(|word| *word != "link/ether").nth(1).expect("a MAC address").to_owned();
    let seen = node.on(|| async move {
        let netlink = Netlink::connect()?;
        let link = netlink.link(&host).await?.expect("the host veth");
        let lo = netlink.link("lo").await?.expect("every node has one");
        anyhow::Ok((netlink.peer_mac(link.index).await?, netlink.peer_mac(lo.index).await?))
    });
    let (peer, of_lo) = seen.expect("the kernel answers");
    assert_eq!((peer.map(|mac| mac_text(&mac)), of_lo), (Some(wanted), None));
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}
