//! Conversations in a random world: few enough to meet again, of every kind, and always a little wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sgp_agent::domain::groups::GroupSet;
use sgp_agent::domain::model::World as Judged;
use sgp_agent::domain::observed::{NetworkInterface, Timeouts};
use sgp_common::Direction;

use crate::oracle::frames::{Frame, ip};
use crate::oracle::random::Random;
use crate::oracle::{Said, World};
use crate::said::{Conversation, divided, link_local, mutate, oddity, with_id};

/// Of the pod.
pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
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
