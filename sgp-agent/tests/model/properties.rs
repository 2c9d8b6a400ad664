//! What holds for every packet in every world.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use sgp_agent::domain::enforcement::{Enforcement, RelatedIcmp, Revoked};
use sgp_agent::domain::groups::Rule;
use sgp_agent::domain::model::{Judgement, Model, RuleName, Settings, World};
use sgp_common::{Direction, Verdict};

use crate::bench::{Bench, s};
use crate::frames::{DESTINATION_OPTIONS, FRAGMENT, Frame, HOP_BY_HOP};
use crate::text::packet;

/// Rules to choose worlds from: every kind of service with every kind of remote.
static RULES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let services = [
        "-1 *",
        "tcp 80",
        "tcp 0-65535",
        "tcp 79-81",
        "udp 53",
        "udp *",
        "icmp */*",
        "icmp 8/*",
        "icmp 3/4",
        "icmpv6 128/*",
        "50 *",
    ];
    let remotes = ["any", "any6", "10.0.2.0/24", "2001:db8:2::/64", "sg-app", "sg-pod", "stale-x", "pl-none", "pl-x"];
    let of = |group: &str, direction: &str| {
        let all = services.iter().flat_map(|service| remotes.iter().map(move |remote| (service, remote)));
        all.map(|(service, remote)| format!("{group}: {direction} {service} {remote}")).collect::<Vec<_>>()
    };
    [("sg-pod", "I"), ("sg-b", "I"), ("sg-a", "E"), ("sg-pod", "E")]
        .into_iter()
        .flat_map(|(group, to)| of(group, to))
        .collect()
});

/// A packet, and when it comes: seconds after the one before.
type Arrival = (u64, Direction, Vec<u8>);

fn rules() -> impl Strategy<Value = Vec<String>> {
    subsequence(RULES.clone(), 0..12)
}

fn settings() -> impl Strategy<Value = Settings> {
    (select(vec![RelatedIcmp::NeedsRule, RelatedIcmp::PassesByFlow]), select(vec![Revoked::LivesOn, Revoked::IsCut]))
        .prop_map(|(related_icmp, revoked)| Settings {
            enforcement: Enforcement { related_icmp, revoked, ..Enforcement::default() },
            ..Settings::default()
        })
}

fn bench(settings: Settings, rules: &[String]) -> Bench {
    let mut bench = Bench::with(settings, &rules.iter().map(String::as_str).collect::<Vec<_>>());
    bench.change(|cloud| {
        let list = ["10.0.3.0/24", "2001:db8:3::/64", "0.0.0.0/0"].map(|entry| entry.parse().expect("a CIDR"));
        cloud.prefix_lists.insert("pl-x".into(), list.to_vec());
    });
    bench
}

/// Packets of few conversations, so that they meet again.
fn line() -> impl Strategy<Value = String> {
    let kinds = vec!["tcp", "tcp", "tcp", "udp", "udp", "50", "58", "icmp 8/0/7", "icmp 0/0/7", "icmp 3/4/0"];
    let kinds_v6 = vec!["tcp", "udp", "50", "icmpv6 128/0/7", "icmpv6 129/0/7", "icmpv6 2/0/0", "icmpv6 135/0/0"];
    let remotes = vec!["A", "B", "X", "Q", "169.254.169.254"];
    let remotes_v6 = vec!["A6", "B6", "X6", "Q6", "[fd00:ec2::254]"];
    let v4 = (select(kinds), Just("P"), select(remotes));
    let v6 = (select(kinds_v6), Just("P6"), select(remotes_v6));
    let ports = || select(vec![53, 80, 4000]);
    let flags = select(vec!["S", "SA", "A", "FA", "R"]);
    (prop_oneof![2 => v4, 1 => v6], any::<bool>(), ports(), ports(), flags).prop_map(
        |((kind, own, remote), inbound, near, far, flags)| {
            let (protocol, said) = kind.split_once(' ').unwrap_or((kind, flags));
            match inbound {
                true => format!("in {protocol} {remote}:{far} {own}:{near} {said}"),
                false => format!("out {protocol} {own}:{near} {remote}:{far} {said}"),
            }
        },
    )
}

/// Whole, or a fragment, behind options or extension headers, or as the quote of an error.
fn shaped() -> impl Strategy<Value = (Direction, Frame)> {
    (line(), 0..8_u8, 0..4_u16).prop_map(|(line, shape, offset)| {
        let (direction, frame) = packet(&line);
        let v4 = frame.source.is_ipv4();
        let frame = match shape {
            0 | 1 => frame.fragment(offset),
            2 if v4 => Frame { options: vec![1; 8], ..frame },
            2 => Frame { extensions: vec![(HOP_BY_HOP, vec![0; 7]), (DESTINATION_OPTIONS, vec![0; 7])], ..frame },
            3 if !v4 => Frame { extensions: vec![(FRAGMENT, vec![0; 7])], ..frame },
            4 => {
                let mut error = Frame::icmp(frame.destination, frame.source, if v4 { 3 } else { 1 }, 4, 0);
                error.payload.extend(&frame.bytes()[14..]);
                return (opposite(direction), error);
            }
            _ => frame,
        };
        (direction, frame)
    })
}

fn opposite(direction: Direction) -> Direction {
    if direction == Direction::Inbound { Direction::Outbound } else { Direction::Inbound }
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let arrival =
        (select(vec![0, 1, 10, 31, 125]), shaped()).prop_map(|(after, (to, frame))| (after, to, frame.bytes()));
    prop::collection::vec(arrival, 1..24)
}

/// The same with bytes overwritten, and cut or filled to another length.
fn mutated() -> impl Strategy<Value = Vec<Arrival>> {
    let frame = (shaped(), prop::collection::vec((any::<Index>(), any::<u8>()), 0..4), -8_isize..8);
    let frame = frame.prop_map(|((direction, frame), overwritten, length)| {
        let mut frame = frame.bytes();
        overwritten.iter().for_each(|(at, byte)| *at.get_mut(&mut frame) = *byte);
        frame.resize(frame.len().saturating_add_signed(length), 0xee);
        (direction, frame)
    });
    prop::collection::vec((0..40_u64, frame).prop_map(|(after, (to, frame))| (after, to, frame)), 1..24)
}

fn judged(model: &mut Model, arrivals: &[Arrival]) -> Vec<Judgement> {
    let mut now = 0;
    let judge = |(after, direction, frame): &Arrival| {
        now += s(*after);
        model.judge(now, *direction, frame)
    };
    arrivals.iter().map(judge).collect()
}

/// The world with all rules but one taken out.
fn with_only(mut world: World, name: &RuleName) -> World {
    let is = |rule: &Rule| rule.id == name.rule_id && rule.group_id == name.group_id;
    world.cloud.groups.values_mut().for_each(|group| group.rules.retain(is));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_get_a_judgement(settings in settings(), frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..160), 1..8)) {
        let mut model = bench(settings, &RULES).model;
        for frame in &frames {
            model.judge(0, Direction::Inbound, frame);
            model.judge(0, Direction::Outbound, frame);
        }
    }

    #[test]
    fn mutated_frames_get_a_judgement(settings in settings(), rules in rules(), arrivals in mutated()) {
        judged(&mut bench(settings, &rules).model, &arrivals);
    }

    #[test]
    fn a_rule_that_is_named_allows_the_packet_by_itself(settings in settings(), rules in rules(), arrivals in mutated()) {
        let mut bench = bench(settings, &rules);
        let judgements = judged(&mut bench.model, &arrivals);
        for (judgement, (_, direction, frame)) in judgements.iter().zip(&arrivals) {
            if let (Ok(Verdict::Rule), Some(name)) = (judgement.verdict, &judgement.rule) {
                let mut alone = Model::new(settings);
                alone.update(with_only(bench.world(), name)).expect("a world");
                prop_assert_eq!(&alone.judge(0, *direction, frame), judgement);
            }
        }
    }

    #[test]
    fn what_passes_by_a_flow_was_let_in_by_its_rule_before(rules in rules(), arrivals in mutated()) {
        let judgements = judged(&mut bench(Settings::default(), &rules).model, &arrivals);
        for (at, judgement) in judgements.iter().enumerate() {
            let opened = |before: &Judgement| before.verdict == Ok(Verdict::Rule) && before.rule == judgement.rule;
            prop_assert!(judgement.verdict != Ok(Verdict::Flow) || judgements[..at].iter().any(opened));
        }
    }

    #[test]
    fn without_rules_only_what_ec2_never_filters_passes(settings in settings(), arrivals in mutated()) {
        for judgement in judged(&mut bench(settings, &[]).model, &arrivals) {
            prop_assert!(matches!(judgement.verdict, Ok(Verdict::Exempt) | Err(_)), "{:?}", judgement);
        }
    }

    #[test]
    fn the_order_of_rules_and_lists_means_nothing(settings in settings(), rules in rules(), arrivals in arrivals()) {
        let mut bench = bench(settings, &rules);
        let mut reversed = bench.world();
        reversed.cloud.groups.values_mut().for_each(|group| group.rules.reverse());
        reversed.cloud.prefix_lists.values_mut().for_each(|list| list.reverse());
        let mut other = Model::new(settings);
        other.update(reversed.clone()).expect("a world");
        let half = arrivals.len() / 2;
        prop_assert_eq!(judged(&mut bench.model, &arrivals[..half]), judged(&mut other, &arrivals[..half]));
        // Nor is another order of the same a change.
        other.update(bench.world()).expect("a world");
        prop_assert_eq!(judged(&mut bench.model, &arrivals[half..]), judged(&mut other, &arrivals[half..]));
    }

    #[test]
    fn a_detour_of_rules_without_packets_changes_nothing(settings in settings(), rules in rules(), arrivals in arrivals()) {
        let (mut straight, mut detour) = (bench(settings, &rules), bench(settings, &rules));
        let half = arrivals.len() / 2;
        prop_assert_eq!(judged(&mut straight.model, &arrivals[..half]), judged(&mut detour.model, &arrivals[..half]));
        let world = detour.world();
        detour.rules(&[]);
        detour.model.update(world).expect("a world");
        prop_assert_eq!(judged(&mut straight.model, &arrivals[half..]), judged(&mut detour.model, &arrivals[half..]));
    }

    #[test]
    fn bytes_behind_the_packet_decide_nothing(rules in rules(), arrivals in arrivals(), padding in prop::collection::vec(any::<u8>(), 1..64)) {
        let padded: Vec<Arrival> =
            arrivals.iter().map(|(after, to, frame)| (*after, *to, [&frame[..], &padding].concat())).collect();
        let plain = judged(&mut bench(Settings::default(), &rules).model, &arrivals);
        prop_assert_eq!(plain, judged(&mut bench(Settings::default(), &rules).model, &padded));
    }

    #[test]
    fn a_frame_cut_short_never_passes((direction, frame) in shaped(), cut in any::<Index>()) {
        let frame = frame.bytes();
        let frame = &frame[..cut.index(frame.len())];
        let judgement = bench(Settings::default(), &RULES).model.judge(0, direction, frame);
        prop_assert_eq!(judgement.verdict, Err(sgp_common::DropReason::Malformed));
    }
}
