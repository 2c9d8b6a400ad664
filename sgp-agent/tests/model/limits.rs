//! Sections 6 and 8: how much is taken, and what becomes of the rest.

use sgp_agent::domain::groups::{GroupSet, Remote};
use sgp_agent::domain::model::{Model, Settings};

use crate::bench::{Bench, ENDPOINT, interface, s, told};
use crate::text::{OWN_GROUP, host, packet, rule};

const NO: &str = "NoMatchingRule";
const NARROW: [&str; 2] = ["I tcp 80 10.0.2.0/24", "I udp 53 10.0.2.0/24"];

#[test]
fn a_flow_beyond_a_limit_is_dropped_and_the_others_go_on() {
    for (node, endpoint, reason) in [(2, 9, "FlowTableFull"), (9, 2, "EndpointFlowLimit"), (2, 2, "EndpointFlowLimit")]
    {
        let mut bench = Bench::limited(node, endpoint, &NARROW);
        bench.run(&[
            (0, "in tcp A:4000 P:80 S", "rule sgr-1"),
            (0, "in tcp A:4001 P:80 S", "rule sgr-1"),
            (1, "in tcp A:4002 P:80 S", reason), // 83
            (1, "in udp A:4000 P:53", reason),
            (2, "out tcp P:80 A:4000 SA", "flow sgr-1"), // 84
            (2, "in tcp A:4000 P:80 S", "rule sgr-1"),   // a new connection in the place of the old
            (2, "in tcp B:4000 P:80 S", NO),             // what no rule allows says so
        ]);
    }
}

#[test]
fn a_flow_that_is_over_makes_room() {
    let mut bench = Bench::limited(1, 1, &NARROW);
    bench.run(&[
        (0, "in tcp A:4000 P:80 S", "rule sgr-1"),
        (s(120), "in tcp A:4001 P:80 S", "EndpointFlowLimit"),
        (s(120) + 1, "in tcp A:4001 P:80 S", "rule sgr-1"),
        (s(120) + 2, "in tcp A:4000 P:80 S", "EndpointFlowLimit"),
    ]);
}

#[test]
fn what_ec2_would_not_track_needs_no_place() {
    let mut bench = Bench::limited(1, 1, &["I tcp 80 any", "E -1 * any", "I tcp 22 10.0.2.0/24"]);
    bench.run(&[
        (0, "in tcp A:4000 P:22 S", "rule sgr-3"),
        (1, "in tcp A:4001 P:80 S", "rule sgr-1"),
        (2, "out tcp P:80 A:4001 SA", "rule sgr-2"), // by the rule the other way
        (3, "in tcp A:4001 P:80 A", "rule sgr-1"),
        (4, "in tcp A:4001 P:22 S", "EndpointFlowLimit"),
        (5, "out tcp P:80 A:4001 S", "EndpointFlowLimit"), // no answer, and EC2 would track it
        (6, "out tcp P:443 A:4001 SA", "EndpointFlowLimit"),
    ]);
}

#[test]
fn what_leaves_nothing_behind_needs_no_place() {
    let mut bench = Bench::limited(0, 0, &["I icmp */* any"]);
    bench.run(&[(0, "in icmp A P 3/4/0", "rule sgr-1"), (0, "in icmp A P 8/0/0", "EndpointFlowLimit")]);
}

#[test]
fn endpoints_share_the_node_but_nothing_else() {
    let mut bench = Bench::limited(2, 1, &["I tcp 80 10.0.0.0/8"]);
    bench.run(&[(0, "in tcp A:4000 P:80 S", "rule sgr-1"), (0, "in tcp B:4000 P:80 S", "EndpointFlowLimit")]);
    for (eni, line, expected) in
        [("eni-q", "in tcp A:4000 Q:80 S", "rule sgr-1"), ("eni-b", "in tcp A:4000 B:80 S", "FlowTableFull")]
    {
        let mut world = bench.world();
        world.cloud.interfaces.get_mut(eni).expect("an interface").groups = GroupSet::of([OWN_GROUP]);
        world.endpoint = eni.into();
        bench.model.update(world).expect("a world");
        bench.run(&[(1, line, expected), (1, "out tcp P:80 A:4000 SA", "SpoofedSource")]);
    }
}

/// Tries to give P this many inbound rules of one kind, and tells what came of it.
fn with_rules(bench: &mut Bench, lines: impl Iterator<Item = String>) -> Result<(), String> {
    let mut world = bench.world();
    let rules = lines.enumerate().map(|(at, line)| rule(at + 1, &line)).collect();
    world.cloud.groups.get_mut(OWN_GROUP).expect("P's group").rules = rules;
    bench.model.update(world)
}

#[test]
fn a_thousand_rules_of_a_direction_and_family_are_taken_and_one_more_refuses_all() {
    for remote in ["10.1.0.0/16", "2001:db8::/32", "sg-app", "stale-x"] {
        let lines = |count: usize| (0..count).map(move |at| format!("I tcp {at} {remote}"));
        let mut bench = Bench::new(&["I tcp 7777 any"]);
        assert_eq!(with_rules(&mut bench, lines(1000)), Ok(()), "{remote}");
        bench.run(&[(0, "in tcp A:4000 P:7777 S", NO)]);
        let mut bench = Bench::new(&["I tcp 7777 any"]);
        let error = with_rules(&mut bench, lines(1001)).expect_err(remote);
        assert!(error.contains(ENDPOINT) && error.contains("1001") && error.contains("Inbound"), "{error}");
        bench.run(&[(0, "in tcp A:4000 P:7777 S", "rule sgr-1"), (0, "in tcp A:4000 P:1 S", NO)]);
    }
    // The limit is of each direction and family by itself.
    let all =
        ["I", "E"].into_iter().flat_map(|direction| ["10.1.0.0/16", "2001:db8::/32"].map(|remote| (direction, remote)));
    let lines = all.flat_map(|(direction, remote)| (0..1000).map(move |at| format!("{direction} tcp {at} {remote}")));
    assert_eq!(with_rules(&mut Bench::new(&[]), lines), Ok(()));
    let icmp = (0..1000).map(|at| format!("I icmp {}/{} sg-app", at % 250, at / 250));
    assert_eq!(with_rules(&mut Bench::new(&[]), icmp.chain((0..1000).map(|at| format!("I tcp {at} any6")))), Ok(()));
}

#[test]
fn a_prefix_list_counts_as_its_entries() {
    for (entries, rules, taken) in [(500, 2, true), (334, 3, false), (1000, 1, true), (1001, 1, false)] {
        let mut bench = Bench::new(&[]);
        let list = |at| format!("10.{}.{}.0/24", at / 256, at % 256).parse().expect("a CIDR");
        bench.cloud.prefix_lists.insert("pl-x".into(), (0..entries).map(list).collect());
        let told = with_rules(&mut bench, (0..rules).map(|at| format!("I tcp {at} pl-x")));
        assert_eq!(told.is_ok(), taken, "{rules} rules with {entries} entries: {told:?}");
    }
}

#[test]
fn seventeen_groups_are_one_too_many() {
    let named = |count: usize| (0..count).map(|at| format!("sg-{at}")).chain([OWN_GROUP.to_owned()]);
    let mut bench = Bench::new(&["I tcp 80 any"]);
    bench.change(|cloud| interface(cloud, ENDPOINT).groups = GroupSet::of(named(15)));
    let mut world = bench.world();
    interface(&mut world.cloud, ENDPOINT).groups = GroupSet::of(named(16));
    let error = bench.model.update(world).expect_err("17 groups");
    assert!(error.contains("17") && error.contains(ENDPOINT), "{error}");
    bench.run(&[(0, "in tcp A:4000 P:80 S", "rule sgr-1")]);
}

#[test]
fn beside_refused_rules_the_rest_of_the_world_is_new() {
    let mut bench = Bench::new(&["I tcp 80 sg-app", "I udp 53 10.0.2.0/24"]);
    bench.run(&[(0, "in udp A:4000 P:53", "rule sgr-2")]);
    bench.groups("eni-b", &["sg-app", "sg-db"]);
    let own = interface(&mut bench.cloud, ENDPOINT);
    own.timeouts.udp_s = 60;
    own.addresses.push(host("10.0.1.77"));
    bench.cloud.interfaces.remove("eni-a");
    with_rules(&mut bench, (0..1001).map(|at| format!("I tcp {at} any"))).expect_err("too many");
    bench.run(&[
        (s(60), "out udp P:53 A:4000", "flow sgr-2"),
        (s(60), "in tcp B:4000 P:80 S", "rule sgr-1"),
        (s(60), "in tcp B:4000 10.0.1.77:80 S", "rule sgr-1"),
        (s(60), "in tcp A:4000 P:80 S", NO),
    ]);
}

#[test]
fn an_endpoint_that_never_had_rules_has_no_policy() {
    let mut world = Bench::new(&[]).world();
    let rules = (0..1001).map(|at| rule(at, "I tcp 80 any")).collect();
    world.cloud.groups.get_mut(OWN_GROUP).expect("P's group").rules = rules;
    let mut model = Model::new(Settings::default());
    model.update(world).expect_err("too many");
    let mut judge = |line: &str| {
        let (direction, frame) = packet(line);
        told(&model.judge(0, direction, &frame.bytes()))
    };
    assert_eq!(judge("in tcp A:4000 P:80 S"), "NoPolicy");
    assert_eq!(judge("in icmp A P 3/4/0"), "NoPolicy");
    assert_eq!(judge("out udp P:68 A:67"), "exempt");
    assert_eq!(judge("in tcp A:4000 Q:80 S"), "UnknownEndpoint");
}

#[test]
fn groups_that_ec2_does_not_know_have_no_rules() {
    let mut bench = Bench::new(&["I tcp 80 any"]);
    bench.change(|cloud| {
        interface(cloud, ENDPOINT).groups = GroupSet::of([OWN_GROUP, "sg-unknown"]);
        cloud.groups.get_mut(OWN_GROUP).expect("P's group").rules[0].remote = Remote::Group("sg-unknown".into());
    });
    bench.run(&[(0, "in tcp A:4000 P:80 S", NO), (0, "in tcp P2:4000 P:80 S", "rule sgr-1")]);
}
