//! What the node itself needs before its first pod (facts 3.3, 3.4): rules and sysctls that are no pod's.

use std::net::Ipv6Addr;

use sgp_common::addr::Family;
use sgp_common::verdict::MARK_BY_NODE;

use super::routing::{Packets, RoutingRule};
use super::settings::Settings;
use super::wiring::{
    BY_NODE_PRIORITY, EXTERNAL_PRIORITY, LOCAL, LOCAL_PRIORITY, MAIN, MARK_PRIORITY, Mode, VPC_ROUTER_V6,
};

/// A sysctl and the value it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Path below `/proc/sys`.
    pub path: String,
    /// Value.
    pub value: &'static str,
    /// Whether the node can do without it.
    pub need: Need,
}

/// What it means if a sysctl is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it.
    Must,
    /// The kernel has no such thing to turn off.
    IfThere,
}

/// A change of a family's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleStep {
    /// Make it.
    Add(RoutingRule),
    /// Take it away.
    Remove(RoutingRule),
}

/// The sysctls of a node; `primary` is the interface of its default route.
pub fn sysctls(settings: &Settings, primary: Option<&str>) -> Vec<Sysctl> {
    let sysctl = |need, path: String, value| Sysctl { path, value, need };
    let must = |path: &str, value| sysctl(Need::Must, path.to_owned(), value);
    let of_primary = |family: &str, key: &str, value| {
        primary.map(|name| sysctl(Need::Must, format!("net/{family}/conf/{name}/{key}"), value))
    };
    let early_demux = if settings.early_demux { "1" } else { "0" };
    let mut all = vec![must("net/ipv4/ip_forward", "1")];
    all.push(sysctl(Need::IfThere, "net/ipv4/tcp_early_demux".to_owned(), early_demux));
    if !settings.early_demux {
        // AWS leaves it. But what a strict pod sends to a connected socket of its own node is to be forwarded, and the kernel
        // drops what it should forward and has given to a socket already.
        all.push(sysctl(Need::IfThere, "net/ipv4/udp_early_demux".to_owned(), "0"));
    }
    // Replies to what came by a branch may leave by the primary interface, and the other way round.
    all.extend(of_primary("ipv4", "rp_filter", "2"));
    if settings.family == Family::V6 {
        all.push(must("net/ipv6/conf/all/disable_ipv6", "0"));
        // Before forwarding: a router forgets what its own router has told it, unless told to listen.
        all.extend(of_primary("ipv6", "accept_ra", "2"));
        all.push(must("net/ipv6/conf/all/forwarding", "1"));
    }
    all
}

/// Rules that are no pod's: what is marked, and what is for external services, goes by `main`.
pub fn rules(settings: &Settings) -> Vec<RoutingRule> {
    let to_main = |family, priority, packets| RoutingRule { family, priority, packets, table: Some(MAIN) };
    // AWS has no NodePorts of IPv6 pods: their answers leave by the branch under the node's address, which the VPC does not
    // carry.
    let answers = settings.node_ports;
    let answers = answers.then(|| to_main(settings.family, BY_NODE_PRIORITY, Packets::Marked(MARK_BY_NODE)));
    let is_marked = settings.follows_mark() && settings.family == Family::V4;
    let mark = is_marked.then(|| to_main(Family::V4, MARK_PRIORITY, Packets::Marked(settings.mark)));
    let services = settings.external_services.iter().flat_map(|net| {
        [BY_NODE_PRIORITY, EXTERNAL_PRIORITY].map(|priority| to_main(Family::V4, priority, Packets::To((*net).into())))
    });
    answers.into_iter().chain(mark).chain(services).collect()
}

/// The steps that put the table `local` behind strict pods' own rules, from the rules a family has now. At no
/// moment is there none. Standard mode leaves it where it is: strict pods may still stand.
pub fn local_steps(mode: Mode, family: Family, present: &[RoutingRule]) -> Vec<RuleStep> {
    if mode == Mode::Standard {
        return Vec::new();
    }
    let local = |priority| RoutingRule { family, priority, packets: Packets::All, table: Some(LOCAL) };
    let router = router_rule(VPC_ROUTER_V6);
    let mut steps = Vec::new();
    if !present.contains(&local(LOCAL_PRIORITY)) {
        steps.push(RuleStep::Add(local(LOCAL_PRIORITY)));
    }
    if present.contains(&local(0)) {
        steps.push(RuleStep::Remove(local(0)));
    }
    if family == Family::V6 && (!present.contains(&router) || present.contains(&local(0))) {
        steps.push(RuleStep::Add(router));
    }
    steps
}

/// What the VPC's router says of itself is for the node, not for a pod: without it the node never learns where
/// the router is, since what comes by a branch is looked up in the branch's table (facts 3.5).
fn router_rule(router: Ipv6Addr) -> RoutingRule {
    RoutingRule { family: Family::V6, priority: 0, packets: Packets::Icmpv6From(router), table: Some(LOCAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(settings: &Settings) -> Vec<String> {
        sysctls(settings, Some("eth0")).iter().map(|one| format!("{}={}", one.path, one.value)).collect()
    }

    #[test]
    fn sysctls_are_those_of_awss_init_container() {
        let v4 = ["net/ipv4/ip_forward=1", "net/ipv4/tcp_early_demux=1", "net/ipv4/conf/eth0/rp_filter=2"];
        assert_eq!(texts(&Settings::default()), v4);
        let settings = Settings { early_demux: false, family: Family::V6, ..Settings::default() };
        let v6 = texts(&settings);
        assert_eq!(v6[1..3], ["net/ipv4/tcp_early_demux=0", "net/ipv4/udp_early_demux=0"]);
        let more =
            ["net/ipv6/conf/all/disable_ipv6=0", "net/ipv6/conf/eth0/accept_ra=2", "net/ipv6/conf/all/forwarding=1"];
        assert_eq!(v6[4..], more);
    }

    #[test]
    fn local_moves_behind_strict_rules_and_is_never_missing() {
        let local = |priority| RoutingRule { family: Family::V4, priority, packets: Packets::All, table: Some(LOCAL) };
        let steps = local_steps(Mode::Strict, Family::V4, &[local(0)]);
        assert_eq!(steps, [RuleStep::Add(local(20)), RuleStep::Remove(local(0))]);
        assert_eq!(local_steps(Mode::Strict, Family::V4, &[local(20)]), []);
        assert_eq!(local_steps(Mode::Strict, Family::V4, &[]), [RuleStep::Add(local(20))]);
        assert_eq!(local_steps(Mode::Standard, Family::V4, &[local(20)]), []);
    }

    #[test]
    fn the_routers_rule_outlives_the_removal_of_the_other_rule_of_priority_0() {
        let local = RoutingRule { family: Family::V6, priority: 0, packets: Packets::All, table: Some(LOCAL) };
        let router = router_rule(VPC_ROUTER_V6);
        let steps = local_steps(Mode::Strict, Family::V6, &[local.clone(), router.clone()]);
        assert_eq!(steps[1..], [RuleStep::Remove(local), RuleStep::Add(router)]);
    }

    #[test]
    fn marked_packets_and_external_services_go_by_main() {
        let services = vec!["198.51.100.0/24".parse().expect("a CIDR")];
        let settings = Settings { external_services: services, mark: 0x100, ..Settings::default() };
        let seen: Vec<(u32, Packets)> =
            rules(&settings).into_iter().map(|rule| (rule.priority, rule.packets)).collect();
        let to = "198.51.100.0/24".parse().expect("a CIDR");
        let expected = [
            (1021, Packets::Marked(MARK_BY_NODE)),
            (1024, Packets::Marked(0x100)),
            (1021, Packets::To(to)),
            (1535, Packets::To(to)),
        ];
        assert_eq!(seen, expected);
        let v6 = rules(&Settings { family: Family::V6, external_services: Vec::new(), ..settings });
        assert_eq!(v6.iter().map(|rule| (rule.family, rule.priority)).collect::<Vec<_>>(), [(Family::V6, 1021)]);
    }
}
