//! Laws of the parser, the flow machine and the first match, over random input.

mod frames;

use std::net::IpAddr;

use frames::{DESTINATION_OPTIONS, Frame};
use proptest::prelude::*;
use sgp_common::endpoint::Timeouts;
use sgp_common::flow::{ACK, Admission, FIN, Flow, FlowKey, FlowState, RST, SYN, lifetime_ns};
use sgp_common::limits::RULE_WORDS;
use sgp_common::packet::{self, ICMP, ICMPV6, Packet, TCP, Transport, UDP};
use sgp_common::policy::{PROTOCOL_BITS, Question, RuleSet, SERVICE_BITS, Selector, first_match};
use sgp_common::{Direction, DropReason};

const SECOND: u64 = 1_000_000_000;
const TIMEOUTS: Timeouts = Timeouts { tcp_established_s: 350, udp_s: 30, udp_stream_s: 180 };

fn parse(frame: &[u8]) -> Result<(packet::Frame, Packet), DropReason> {
    let mut packet = Packet::EMPTY;
    packet::parse(frame, &mut packet).map(|kind| (kind, packet))
}

/// Two addresses of one family.
fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (a.into(), b.into())),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (a.into(), b.into())),
    ]
}

/// Whole frames of every transport, some with options, extension headers or fragmented.
fn frame() -> impl Strategy<Value = Frame> {
    (addresses(), any::<(u16, u16, u8)>(), 0..5_u8, 0..4_usize, 0..3_u8).prop_map(
        |((source, destination), (one, two, flags), kind, extras, fragment)| {
            let mut frame = match kind {
                0 => Frame::tcp((source, one), (destination, two), flags),
                1 => Frame::udp((source, one), (destination, two)),
                2 => Frame::icmp(source, destination, flags, one as u8, two),
                3 => Frame::icmp(source, destination, echo(source, flags), 0, two),
                _ => Frame::new(source, destination, 61 + flags % 190, vec![flags; extras]),
            };
            frame.options = vec![1; if source.is_ipv4() { extras * 4 } else { 0 }];
            frame.extensions = vec![(DESTINATION_OPTIONS, vec![0, 1, 4, 0, 0, 0, 0]); extras];
            match fragment {
                0 => frame.fragment(0),
                1 => frame.fragment(two % 8000 + 3),
                _ => frame,
            }
        },
    )
}

fn echo(source: IpAddr, choice: u8) -> u8 {
    match (source.is_ipv4(), choice & 1) {
        (true, 0) => 0,
        (true, _) => 8,
        (false, bit) => 128 + bit,
    }
}

/// The answer to a packet of a conversation.
fn answer(packet: &Packet) -> Packet {
    let icmp_type = match (packet.query, packet.icmp_type) {
        (0, other) => other,
        (8, other) => 8 - other,
        (128, other) => other ^ 1,
        (query, other) => query + query + 1 - other,
    };
    Packet {
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        icmp_type,
        ..*packet
    }
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Inbound), Just(Direction::Outbound)]
}

fn rule_set() -> impl Strategy<Value = RuleSet> {
    // Sparse sets, so that the first common rule is often far in.
    proptest::collection::vec(0..RULE_WORDS * 64, 0..40).prop_map(|indices| {
        let mut set = RuleSet::EMPTY;
        indices.into_iter().for_each(|index| set.insert(index));
        set
    })
}

fn tcp(flags: u8) -> Packet {
    Packet { protocol: TCP, transport: Transport::Ports, tcp_flags: flags, length: 40, ..Packet::EMPTY }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_make_the_parser_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethertype in prop_oneof![Just([8, 0]), Just([8, 6]), Just([0x86, 0xdd]), any::<[u8; 2]>()],
    ) {
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&ethertype);
            bytes[14] = if ethertype == [8, 0] { 0x40 | bytes[14] & 0xf } else { 0x60 | bytes[14] & 0xf };
        }
        if let Ok((packet::Frame::Ip, packet)) = parse(&bytes) {
            prop_assert!(packet.length as usize + packet::ETHERNET_LEN <= bytes.len());
        }
    }

    #[test]
    fn a_whole_frame_is_read_as_it_was_built(frame in frame()) {
        let (_, packet) = parse(&frame.bytes()).expect("a whole frame");
        prop_assert_eq!(packet.protocol, frame.protocol);
        prop_assert_eq!(packet.length as usize, frame.bytes().len() - packet::ETHERNET_LEN);
        let port = |at: usize| u16::from_be_bytes([frame.payload[at], frame.payload[at + 1]]);
        match packet.transport {
            Transport::Ports => prop_assert_eq!((packet.source_port, packet.destination_port), (port(0), port(2))),
            Transport::Icmp => prop_assert_eq!((packet.icmp_type, packet.icmp_code), (frame.payload[0], frame.payload[1])),
            Transport::None | Transport::LaterFragment => prop_assert_eq!(packet.destination_port, 0),
        }
    }

    #[test]
    fn a_mutated_frame_never_panics_and_what_lies_behind_the_packet_decides_nothing(
        frame in frame(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        trailer in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = frame.bytes();
        for (at, value) in changes {
            // Not the Ethernet header: that would mostly be another protocol.
            let at = packet::ETHERNET_LEN + at.index(bytes.len() - packet::ETHERNET_LEN);
            bytes[at] = value;
        }
        let whole = parse(&bytes);
        if let Ok((_, packet)) = whole {
            let end = packet::ETHERNET_LEN + packet.length as usize;
            prop_assert!(end <= bytes.len());
            prop_assert_eq!(parse(&bytes[..end]), whole);
            let longer = [&bytes[..end], &trailer[..]].concat();
            prop_assert_eq!(parse(&longer), whole);
        }
        let _neither_panics = parse(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn both_directions_of_a_conversation_have_one_key(frame in frame(), direction in direction(), endpoint in any::<u64>()) {
        let (_, packet) = parse(&frame.bytes()).expect("a whole frame");
        let one = FlowKey::of(endpoint, &packet, direction);
        prop_assert_eq!(one, FlowKey::of(endpoint, &answer(&packet), direction.opposite()));
        let flowless = packet.transport == Transport::LaterFragment
            || packet.transport == Transport::Icmp && packet.query == 0;
        prop_assert_eq!(one.is_none(), flowless);
    }

    #[test]
    fn other_ports_addresses_protocols_or_endpoints_are_another_flow(
        ((a, b), (c, d)) in (addresses(), addresses()), ports in any::<[u16; 4]>(), direction in direction(),
    ) {
        let key = |addresses: (IpAddr, IpAddr), from, to| {
            let frame = Frame::udp((addresses.0, from), (addresses.1, to)).bytes();
            FlowKey::of(1, &parse(&frame).expect("a whole frame").1, direction)
        };
        let same = (a, b, ports[0], ports[1]) == (c, d, ports[2], ports[3]);
        prop_assert_eq!(key((a, b), ports[0], ports[1]) == key((c, d), ports[2], ports[3]), same);
    }

    #[test]
    fn an_echo_asked_by_the_pod_is_no_flow_of_an_echo_asked_by_the_other_side((a, b) in addresses(), id in any::<u16>()) {
        let echo = |choice| parse(&Frame::icmp(a, b, echo(a, choice), 0, id).bytes()).expect("a whole frame").1;
        let request = if a.is_ipv4() { 1 } else { 0 };
        let (asked, answered) = (echo(request), echo(1 - request));
        prop_assert!(asked.asks() && !answered.asks());
        prop_assert_ne!(FlowKey::of(1, &asked, Direction::Outbound), FlowKey::of(1, &answered, Direction::Outbound));
    }

    #[test]
    fn the_first_match_is_the_lowest_rule_that_who_and_what_share(
        remote in proptest::option::of(rule_set()), peer in proptest::option::of(rule_set()), service in rule_set(),
    ) {
        let has = |set: &Option<RuleSet>, index| set.as_ref().is_some_and(|set| set.contains(index));
        let naive = (0..RULE_WORDS * 64).find(|index| (has(&remote, *index) || has(&peer, *index)) && service.contains(*index));
        prop_assert_eq!(first_match(remote.as_ref(), peer.as_ref(), &service).map(usize::from), naive);
    }

    #[test]
    fn a_packet_is_asked_only_what_it_says(frame in frame(), direction in direction()) {
        let (_, packet) = parse(&frame.bytes()).expect("a whole frame");
        let (bits, selector) = Selector::service(&Question::of(&packet, direction));
        let knows = matches!(packet.transport, Transport::Ports | Transport::Icmp);
        prop_assert_eq!(bits, if knows { SERVICE_BITS } else { PROTOCOL_BITS });
        prop_assert_eq!(selector.data[0], packet.protocol);
        prop_assert!(knows || selector.data[1..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_closed_flow_stays_closed_and_no_state_goes_back_to_opening(
        flags in proptest::collection::vec((any::<u8>(), direction()), 1..30), opened in direction(),
    ) {
        let mut flow = Flow::open(&tcp(SYN), opened, &Admission::NONE, 0);
        for (flags, direction) in flags {
            let before = flow.state;
            flow.refresh(&tcp(flags), direction, 1);
            prop_assert!(before != FlowState::Closed || flow.state == FlowState::Closed);
            prop_assert!(flow.state >= before || before == FlowState::Stream);
            prop_assert!(flags & RST == 0 || flow.state == FlowState::Closed);
        }
        prop_assert_eq!(flow.reopened_by(&tcp(SYN)), flow.state != FlowState::Opening);
        prop_assert!(!flow.reopened_by(&tcp(SYN | ACK)), "an answer opens nothing");
    }

    #[test]
    fn a_flow_is_over_exactly_when_idle_for_longer_than_its_lifetime(
        state in 0..5_u8, protocol in prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(ICMPV6), Just(50)], seen in 0..u64::MAX / 2,
    ) {
        let states = [FlowState::Opening, FlowState::Established, FlowState::Stream, FlowState::Closing, FlowState::Closed];
        let mut flow = Flow::open(&tcp(SYN), Direction::Inbound, &Admission::NONE, seen);
        flow.state = states[usize::from(state)];
        let query = u8::from(matches!(protocol, ICMP | ICMPV6));
        let key = FlowKey { protocol, query, ..FlowKey::EMPTY };
        let lifetime = lifetime_ns(flow.state, &key, &TIMEOUTS);
        let over = |at| flow.expired(&key, &TIMEOUTS, at);
        prop_assert!(!over(seen + lifetime) && over(seen + lifetime + 1));
        prop_assert!(!over(seen.saturating_sub(1)), "clocks of two CPUs may differ");
    }
}

#[test]
fn a_handshake_and_its_end_pass_through_every_state() {
    let mut flow = Flow::open(&tcp(SYN), Direction::Inbound, &Admission::NONE, 0);
    let steps = [
        (SYN | ACK, Direction::Outbound, FlowState::Established),
        (ACK, Direction::Inbound, FlowState::Established),
        (FIN | ACK, Direction::Inbound, FlowState::Closing),
        (FIN | ACK, Direction::Outbound, FlowState::Closed),
        (ACK, Direction::Inbound, FlowState::Closed),
    ];
    for (second, (flags, direction, expected)) in (1..).zip(steps) {
        flow.refresh(&tcp(flags), direction, second * SECOND);
        assert_eq!(flow.state, expected);
    }
    assert_eq!(flow.last_seen_ns, 4 * SECOND, "what is sent after the end keeps nothing alive");
}

#[test]
fn only_a_second_question_that_is_answered_makes_a_stream() {
    let udp = Packet { protocol: UDP, transport: Transport::Ports, length: 40, ..Packet::EMPTY };
    let (ask, answer) = (Direction::Outbound, Direction::Inbound);
    let mut flow = Flow::open(&udp, ask, &Admission::NONE, 0);
    let steps = [(ask, FlowState::Opening), (answer, FlowState::Established), (answer, FlowState::Established)];
    let steps = steps.into_iter().chain([(ask, FlowState::Established), (answer, FlowState::Stream)]);
    for (direction, expected) in steps {
        flow.refresh(&udp, direction, 1);
        assert_eq!(flow.state, expected);
    }
}
