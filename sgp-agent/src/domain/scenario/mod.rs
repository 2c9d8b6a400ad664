//! A scenario: what EC2 says, and packets that go in and out of one interface while it changes. It is what
//! `sgp-agent check` reads; `docs/check.md` describes the format.

mod frame;
mod given;
mod packet;
mod place;
mod sequence;
#[cfg(test)]
mod tests;
mod text;
mod world;

use sgp_common::Direction;

use self::frame::Macs;
use self::packet::{Packet, Sent};
use self::place::Place;
use self::sequence::Connections;
use self::world::Facts;
use super::model::World;
use super::wiring::parse_mac;

pub use given::Expect;

/// What is told of EC2 at the start, and what happens then.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The world at the start.
    pub start: World,
    /// In order, times never decreasing.
    pub steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// When, in nanoseconds since the start.
    pub at_ns: u64,
    /// What its author calls it.
    pub name: Option<String>,
    /// What it is, for people.
    pub words: String,
    /// What happens.
    pub action: Action,
}

/// See [`Step`].
#[derive(Clone, Debug)]
pub enum Action {
    /// EC2 says something else: the whole world as it is from now on.
    Update(Box<World>),
    /// A packet is judged.
    Packet(Probe),
}

/// A packet, and what is expected of it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The pod's point of view.
    pub direction: Direction,
    /// A whole Ethernet frame.
    pub frame: Vec<u8>,
    /// What its author says of its verdict.
    pub expect: Option<Expect>,
}

/// Seconds that nanoseconds in 64 bits can hold, and then some room for idle times to be added.
const LATEST_S: f64 = 9e9;
/// MAC address of whatever is at the other side of the endpoint's interface.
const OTHER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// One sentence that begins with the place, such as `Steps[3].packet.source_port`.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_str(text);
        let given: given::Scenario = serde_path_to_error::deserialize(&mut json).map_err(told)?;
        json.end().map_err(|error| format!("behind the scenario: {error}"))?;
        let (place, mut facts) = (Place::default(), Facts::default());
        let start = given::Update {
            security_groups: Some(given.security_groups),
            network_interfaces: Some(given.network_interfaces),
            prefix_lists: Some(given.prefix_lists),
            endpoint: Some(given.endpoint),
            vpc: Some(given.vpc),
        };
        facts.replace(start, &place)?;
        let start = facts.world(&place)?;
        let drafts = drafts(given.steps, &mut facts, &place.key("Steps"))?;
        let steps = built(drafts, &start);
        Ok(Self { start, steps })
    }
}

/// serde's error, with the place before it where there is one.
fn told(error: serde_path_to_error::Error<serde_json::Error>) -> String {
    let place = error.path().to_string();
    if place == "." { error.inner().to_string() } else { format!("{place}: {}", error.inner()) }
}

/// A step of which the packet is not built yet.
struct Draft {
    at_ns: u64,
    name: Option<String>,
    what: What,
}

enum What {
    Update(String, Box<World>),
    Packet(Direction, Sent, Option<Expect>),
}

/// The verdict a step says beside its packet or inside of it.
fn expected(beside: Option<Expect>, inside: Option<Expect>, place: &Place) -> Result<Option<Expect>, String> {
    match (beside, inside) {
        (Some(one), Some(other)) if one != other => Err(place.key("expect").says("it contradicts the packet's own")),
        (one, other) => Ok(one.or(other)),
    }
}

fn drafts(given: Vec<given::Step>, facts: &mut Facts, place: &Place) -> Result<Vec<Draft>, String> {
    let mut drafts = Vec::with_capacity(given.len());
    let mut connections = Connections::default();
    let mut now_ns = 0;
    for (index, step) in given.into_iter().enumerate() {
        let place = place.index(index);
        now_ns = time(step.at, now_ns, &place.key("at"))?;
        let what = match (step.packet, step.update) {
            (Some(packet), None) => {
                let direction = packet::direction(packet.direction);
                let expect = expected(step.expect, packet.expect, &place)?;
                let mut sent = packet::sent(packet, &place.key("packet"))?;
                if let Sent::Packet(packet) = &mut sent {
                    connections.flag(packet);
                }
                What::Packet(direction, sent, expect)
            }
            (None, Some(update)) if step.expect.is_none() => {
                let place = place.key("update");
                let words = format!("new {}", update.keys().join(", "));
                facts.replace(*update, &place)?;
                What::Update(words, Box::new(facts.world(&place)?))
            }
            (None, Some(_)) => return Err(place.key("expect").says("an update has no verdict")),
            _ => return Err(place.says("a step has either a packet or an update")),
        };
        drafts.push(Draft { at_ns: now_ns, name: step.name, what });
    }
    Ok(drafts)
}

/// A step that says no time happens at the time of the step before it.
fn time(at_s: Option<f64>, before_ns: u64, place: &Place) -> Result<u64, String> {
    let Some(at_s) = at_s else { return Ok(before_ns) };
    if !(0.0..=LATEST_S).contains(&at_s) {
        return Err(place.says(&format!("{at_s} is no time in seconds from 0 to {LATEST_S}")));
    }
    let at_ns = (at_s * 1e9).round() as u64;
    if at_ns < before_ns {
        return Err(place.says(&format!("{at_s} s is before the step before it")));
    }
    Ok(at_ns)
}

/// Builds the frames: each by the packets that follow it, and by the interface as it is then.
fn built(drafts: Vec<Draft>, start: &World) -> Vec<Step> {
    let packets: Vec<Option<Packet>> = drafts.iter().map(Draft::packet).collect();
    let mut own = mac(start);
    let mut steps = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.into_iter().enumerate() {
        let (words, action) = match draft.what {
            What::Update(words, world) => {
                own = mac(&world);
                (words, Action::Update(world))
            }
            What::Packet(direction, Sent::Frame(frame), expect) => {
                (format!("a frame of {} bytes", frame.len()), Action::Packet(Probe { direction, frame, expect }))
            }
            What::Packet(direction, Sent::Packet(packet), expect) => {
                let length = sequence::length(&packet, packets[index + 1..].iter().flatten());
                let frame = frame::bytes(&packet, length, macs(direction, own));
                (packet.to_string(), Action::Packet(Probe { direction, frame, expect }))
            }
        };
        steps.push(Step { at_ns: draft.at_ns, name: draft.name, words, action });
    }
    steps
}

impl Draft {
    fn packet(&self) -> Option<Packet> {
        match &self.what {
            What::Packet(_, Sent::Packet(packet), _) => Some(packet.clone()),
            _ => None,
        }
    }
}

/// MAC address of the interface that judges.
fn mac(world: &World) -> [u8; 6] {
    let interface = world.cloud.interfaces.get(&world.endpoint);
    interface.and_then(|interface| parse_mac(&interface.mac)).unwrap_or_default()
}

fn macs(direction: Direction, own: [u8; 6]) -> Macs {
    match direction {
        Direction::Inbound => Macs { source: OTHER_MAC, destination: own },
        Direction::Outbound => Macs { source: own, destination: OTHER_MAC },
    }
}
