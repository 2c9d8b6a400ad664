//! Conversations in a random world: few enough to meet again, of every kind, and always a little wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::model::World as Judged;
use sgp_agent::domain::observed::{NetworkInterface, Timeouts};
use sgp_common::Direction;

use crate::oracle::frames::{self, Frame, arp, ip, tagged};
use crate::oracle::random::Random;
use crate::oracle::{Ask, Said, World};

const POD_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
const SECOND: u64 = 1_000_000_000;
/// Idle times around every lifetime there is, in seconds.
const PAUSES: [u64; 11] = [1, 5, 10, 11, 29, 30, 31, 61, 121, 181, 601];
/// Beside the random world's remotes: what EC2 never filters, and neighbours of it.
const SERVICES: [&str; 10] = [
    "169.254.169.254",
    "169.254.169.253",
    "169.254.169.123",
    "169.254.170.2",
    "169.254.169.252",
    "10.9.9.254",
    "10.9.0.2",
    "10.9.0.3",
    "fd00:ec2::254",
    "fd00:ec2::252",
];
const CONVERSATIONS: usize = 12;
/// Flags as they come in life, then some that do not.
const FLAGS: [u8; 10] = [0x02, 0x12, 0x10, 0x10, 0x10, 0x18, 0x11, 0x04, 0x06, 0x29];

/// A world under way.
pub(crate) struct Talk {
    pub(crate) world: Judged,
    now_ns: u64,
    conversations: Vec<Conversation>,
    source: World,
    changes: usize,
}

/// What happens next.
pub(crate) enum Step {
    /// The world has changed.
    Update,
    /// A packet comes or goes.
    Packet { at_ns: u64, direction: Direction, frame: Vec<u8> },
}

#[derive(Clone, Copy, Debug)]
struct Conversation {
    ask: Ask,
    local: IpAddr,
    /// The port that is no service's, or the identifier.
    port: u16,
}

impl Talk {
    /// A new world, some years after the last, so that nothing of that one is remembered.
    pub(crate) fn begin(random: &mut Random, rules: usize, round: u64) -> Self {
        let source = World::random(random, rules);
        let mut cloud = source.cloud.clone();
        cloud.vpc_cidrs = vec!["10.9.0.0/16".parse().expect("a CIDR")];
        cloud.instance.subnet_cidr = Some("10.9.9.253/24".parse::<ipnet::Ipv4Net>().expect("a CIDR").trunc());
        let endpoint = format!("eni-pod{round}");
        cloud.interfaces.insert(endpoint.clone(), interface(&endpoint, &source.groups));
        let world = Judged { cloud, endpoint };
        let mut talk =
            Self { world, now_ns: round * 1_000_000 * SECOND, conversations: Vec::new(), source, changes: 0 };
        talk.conversations = (0..CONVERSATIONS).map(|_| talk.conversation(random)).collect();
        talk
    }

    fn conversation(&self, random: &mut Random) -> Conversation {
        let mut ask = self.source.ask(random);
        if random.once_in(8) {
            ask.remote = ip(random.one_of(&SERVICES));
            ask.protocol = random.one_of(&[6, 17]);
            ask.said = Said::Port(random.one_of(&[53, 67, 68, 80, 546, 547]));
        }
        if ask.said == Said::Nothing && matches!(ask.protocol, 6 | 17) {
            ask.said = Said::Port(80);
        }
        let own = self.addresses(ask.remote.is_ipv4());
        Conversation { ask, local: random.one_of(&own), port: random.one_of(&[68, 547, 1024, 4000, 4001]) }
    }

    fn addresses(&self, v4: bool) -> Vec<IpAddr> {
        let own = &self.world.cloud.interfaces[&self.world.endpoint].addresses;
        own.iter().copied().filter(|addr| addr.is_ipv4() == v4).collect()
    }

    /// The next thing to happen.
    pub(crate) fn next(&mut self, random: &mut Random, broken: bool) -> Step {
        if random.once_in(300) {
            self.change(random);
            return Step::Update;
        }
        if random.once_in(60) {
            let at = random.below(CONVERSATIONS);
            self.conversations[at] = self.conversation(random);
        }
        self.now_ns += random.below(3) as u64;
        if random.once_in(12) {
            self.now_ns += random.one_of(&PAUSES) * SECOND;
        }
        let (direction, mut frame) = self.packet(random);
        if broken {
            mutate(random, &mut frame);
        }
        Step::Packet { at_ns: self.now_ns, direction, frame }
    }

    /// Rules, members, prefix lists, groups of the endpoint, or its timeouts.
    fn change(&mut self, random: &mut Random) {
        self.changes += 1;
        let other = World::random(random, 8);
        let cloud = &mut self.world.cloud;
        match random.below(6) {
            0 => {
                let ids: Vec<String> = cloud.groups.keys().cloned().collect();
                let id = &ids[random.below(ids.len())];
                let rules = other.cloud.groups.get(id).map(|group| group.rules.clone()).unwrap_or_default();
                cloud.groups.get_mut(id).expect("a group").rules = rules;
            }
            // Back to what was: going back to a policy is no change from it.
            1 => cloud.groups = self.source.cloud.groups.clone(),
            2 => cloud.prefix_lists = other.cloud.prefix_lists,
            3 => self.members(random, other.cloud.interfaces),
            4 => {
                let own = cloud.interfaces.get_mut(&self.world.endpoint).expect("the endpoint");
                own.groups = if random.once_in(2) { other.groups } else { self.source.groups.clone() };
            }
            _ => {
                let own = cloud.interfaces.get_mut(&self.world.endpoint).expect("the endpoint");
                let [tcp_established_s, udp_s, udp_stream_s] = random.one_of(&[[432_000, 30, 180], [60, 60, 60]]);
                own.timeouts = Timeouts { tcp_established_s, udp_s, udp_stream_s };
            }
        }
    }

    /// Some interfaces change their groups; addresses stay whose they are.
    fn members(&mut self, random: &mut Random, other: BTreeMap<String, NetworkInterface>) {
        let mut sets = other.into_values().map(|eni| eni.groups);
        let endpoint = self.world.endpoint.clone();
        for eni in self.world.cloud.interfaces.values_mut().filter(|eni| eni.id != endpoint) {
            if random.once_in(4)
                && let Some(groups) = sets.next()
            {
                eni.groups = groups;
            }
        }
    }

    fn packet(&self, random: &mut Random) -> (Direction, Vec<u8>) {
        let conversation = random.one_of(&self.conversations);
        let direction = if random.once_in(2) { Direction::Inbound } else { Direction::Outbound };
        let mut frame = match random.below(24) {
            0 => return (direction, oddity(random, direction)),
            1 => self.error(random, conversation, direction),
            2 => link_local(random, direction),
            _ => conversation.frame(random, direction),
        };
        if direction == Direction::Outbound {
            frame.source_mac = if random.once_in(60) { [2, 0, 0, 0, 9, 9] } else { POD_MAC };
        }
        let id = random.below(3) as u8;
        (direction, with_id(divided(random, frame).bytes(), id))
    }

    /// An ICMP error about a packet the other way.
    fn error(&self, random: &mut Random, about: Conversation, direction: Direction) -> Frame {
        let quoted = about.frame(random, direction.opposite());
        let quoted = if random.once_in(6) { divided(random, quoted) } else { quoted };
        let (v4, own) = (about.local.is_ipv4(), self.addresses(about.local.is_ipv4()));
        let router = ip(if v4 { "192.0.2.1" } else { "2001:db8:ffff::1" });
        let kind = random.one_of(if v4 { &[3, 11, 12, 5][..] } else { &[1, 2, 3, 4][..] });
        let (source, destination) = match direction {
            Direction::Inbound => (router, random.one_of(&own)),
            Direction::Outbound => (random.one_of(&own), about.ask.remote),
        };
        let mut error = Frame::icmp(source, destination, kind, random.below(3) as u8, 0);
        let quote = &quoted.bytes()[14..];
        let whole = random.one_of(&[quote.len(), if v4 { 28 } else { 48 }, 24, 7]).min(quote.len());
        error.payload.extend(&quote[..whole]);
        error
    }

    /// What a mismatch is told with.
    pub(crate) fn told(&self, frame: &[u8]) -> String {
        let own = &self.world.cloud.interfaces[&self.world.endpoint];
        let groups = own.groups.0.iter().filter_map(|id| self.world.cloud.groups.get(id));
        let rules: Vec<String> = groups.flat_map(|group| &group.rules).map(|rule| format!("{rule:?}")).collect();
        let scenario = format!("{} bytes, after {} changes, {:?}", frame.len(), self.changes, own.timeouts);
        format!("{scenario}\n{}", rules.join("\n"))
    }
}

fn interface(id: &str, groups: &GroupSet) -> NetworkInterface {
    NetworkInterface {
        id: id.into(),
        mac: "02:00:00:00:09:01".into(),
        addresses: vec![ip("10.9.9.1"), ip("10.9.9.2"), ip("2001:db8:9::1")],
        groups: groups.clone(),
        ..NetworkInterface::default()
    }
}

impl Conversation {
    fn frame(self, random: &mut Random, direction: Direction) -> Frame {
        let Ask { direction: opened, remote, protocol, said } = self.ask;
        // Seldom from or to an address that is not the pod's.
        let local = match (self.local, random.once_in(80)) {
            (IpAddr::V4(_), true) => ip("10.9.9.77"),
            (IpAddr::V6(_), true) => ip("2001:db8:9::77"),
            (own, false) => own,
        };
        let (source, destination) = match direction {
            Direction::Inbound => (remote, local),
            Direction::Outbound => (local, remote),
        };
        let asks = direction == opened;
        match said {
            Said::Port(service) => {
                let (from, to) = if asks { (self.port, service) } else { (service, self.port) };
                let (from, to) = ((source, from), (destination, to));
                let flags = random.one_of(&FLAGS);
                if protocol == 6 { Frame::tcp(from, to, flags) } else { Frame::udp(from, to) }
            }
            Said::Icmp(kind, code) => {
                let kind = if asks { kind } else { answer(kind, remote.is_ipv4()) };
                Frame::icmp(source, destination, kind, code, self.port % 3)
            }
            Said::Nothing => Frame::new(source, destination, protocol, vec![0xee; 24]),
        }
    }
}

/// The type that answers a query, or the same type again.
fn answer(kind: u8, v4: bool) -> u8 {
    match (kind, v4) {
        (8, true) => 0,
        (0, true) => 8,
        (13 | 15 | 17, true) => kind + 1,
        (128, false) => 129,
        (129, false) => 128,
        (other, _) => other,
    }
}

/// Sometimes with options or extension headers, sometimes a fragment.
fn divided(random: &mut Random, mut frame: Frame) -> Frame {
    if random.once_in(10) {
        frame.options = vec![1; 4 * random.below(11)];
        let count = random.below(8);
        let kind = random.one_of(&[frames::HOP_BY_HOP, frames::DESTINATION_OPTIONS]);
        frame.extensions = vec![(kind, vec![0; 7]); count];
    }
    match random.below(14) {
        0 => frame.fragment(0),
        1 => frame.fragment(random.one_of(&[1, 2, 3, 185, 8189])),
        2 => Frame { more_fragments: false, ..frame.fragment(random.one_of(&[1, 3, 185])) },
        _ => frame,
    }
}

/// With another identification, where it can have one.
fn with_id(mut frame: Vec<u8>, id: u8) -> Vec<u8> {
    match frame.get(12..14) {
        Some([8, 0]) => frame[19] = id,
        Some([0x86, 0xdd]) if frame.get(20) == Some(&frames::FRAGMENT) && frame.len() > 61 => frame[61] = id,
        _ => {}
    }
    frame
}

/// Neighbour discovery, listener reports, DHCP.
fn link_local(random: &mut Random, direction: Direction) -> Frame {
    let own = ip(random.one_of(&["fe80::1", "::", "2001:db8:9::1"]));
    let (here, there) = (own, ip(random.one_of(&["ff02::16", "fe80::9", "2001:db8:9::1"])));
    let (source, destination) = if direction == Direction::Outbound { (here, there) } else { (there, here) };
    match random.below(3) {
        0 => Frame::udp((ip("0.0.0.0"), random.one_of(&[68, 67])), (ip("255.255.255.255"), random.one_of(&[67, 68]))),
        1 => Frame::udp((source, random.one_of(&[546, 547])), (destination, random.one_of(&[547, 546]))),
        _ => Frame::icmp(source, destination, random.one_of(&[133, 135, 136, 137, 143, 131, 128, 138]), 0, 0),
    }
}

/// No IP, or not where it belongs.
fn oddity(random: &mut Random, direction: Direction) -> Vec<u8> {
    let mut frame = match random.below(4) {
        0 => arp(),
        1 => tagged(Frame::udp((ip("10.9.9.1"), 1), (ip("10.0.0.1"), 53)).bytes(), 7),
        2 => vec![0x88; 60],
        _ => {
            let mut posing = Frame::tcp((ip("10.0.0.1"), 1), (ip("10.9.9.1"), 80), 2).bytes();
            posing[12..14].copy_from_slice(&[0x86, 0xdd]);
            posing
        }
    };
    if direction == Direction::Outbound && !random.once_in(4) {
        frame[6..12].copy_from_slice(&POD_MAC);
    }
    frame
}

/// A byte or some are others, or the end is missing. Ethernet mostly stays: broken, it would mostly not be IP.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let from = if random.once_in(10) { 0 } else { 14 };
        if frame.len() > from {
            let at = from + random.below((frame.len() - from).min(60));
            frame[at] = if random.once_in(2) { random.next() as u8 } else { frame[at] ^ 1 << random.below(8) };
        }
    }
    if random.once_in(4) {
        frame.truncate(14 + random.below(frame.len() - 13));
    }
}
