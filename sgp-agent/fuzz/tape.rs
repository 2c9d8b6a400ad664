//! Packets on a tape: bytes that a fuzzer can change, played to kernel and model, which must say the same of each.
//!
//! A tape is a row of `[what, length, bytes…]`: a packet in, a packet out, a pause, or EC2 saying something else. What is cut off
//! at the end is left out, so every tape can be played.

use sgp_agent::check::Engine;
use sgp_agent::check::kernel::Kernel;
use sgp_agent::domain::enforcement::{Enforcement, RelatedIcmp};
use sgp_agent::domain::model::{Judgement, Model, Settings, World};
use sgp_agent::domain::scenario::{Action, Scenario};
use sgp_common::Direction;

/// Two worlds of one pod: the second is that of the only step.
const WORLDS: &str = include_str!("worlds.json");
/// The interface that judges in both.
const ENDPOINT: &str = "eni-pod";
const SECOND: u64 = 1_000_000_000;
/// Around every lifetime that there is in these worlds, in seconds.
const PAUSES: [u64; 8] = [1, 11, 29, 31, 59, 61, 121, 181];
/// Longer than anything is remembered.
const BETWEEN_TAPES: u64 = 1_000 * SECOND;
/// Flows of tapes before are over and still fill the table: after so many the endpoint becomes another.
const TAPES_OF_ONE_ENDPOINT: u64 = 500;
/// A change of rules takes the kernel some 10 ms.
const TURNS_MAX: usize = 2;

/// What a tape has next.
#[derive(Clone, Copy, Debug)]
enum Note<'a> {
    Packet(Direction, &'a [u8]),
    Pause(u64),
    Turn,
}

/// Reads a tape to its end.
fn notes(mut tape: &[u8]) -> impl Iterator<Item = Note<'_>> {
    std::iter::from_fn(move || {
        let [what, length, rest @ ..] = tape else { return None };
        let own = if what % 4 < 2 { usize::from(*length) } else { 0 };
        let (bytes, rest) = rest.split_at_checked(own)?;
        tape = rest;
        Some(match what % 4 {
            0 => Note::Packet(Direction::Inbound, bytes),
            1 => Note::Packet(Direction::Outbound, bytes),
            2 => Note::Pause(PAUSES[usize::from(*length) % PAUSES.len()] * SECOND),
            _ => Note::Turn,
        })
    })
}

/// Plays tapes to the kernel's engine and to one model each.
pub(crate) struct Player {
    kernel: Kernel,
    worlds: [World; 2],
    enforcement: Enforcement,
    tapes: u64,
    now_ns: u64,
}

impl Player {
    /// Loads the programs; the thread stays secluded for good.
    ///
    /// # Panics
    /// Without root, or where the programs do not load.
    pub(crate) fn start() -> Self {
        let scenario = Scenario::read(WORLDS).unwrap_or_else(|error| panic!("worlds.json: {error}"));
        let [Action::Update(second)] = scenario.steps.iter().map(|step| &step.action).collect::<Vec<_>>()[..] else {
            panic!("worlds.json has one step, an update");
        };
        // Under this choice more of a packet is read than under the others.
        let enforcement = Enforcement { related_icmp: RelatedIcmp::PassesByFlow, ..Enforcement::default() };
        let kernel = Kernel::start(enforcement).unwrap_or_else(|error| panic!("{error:#}"));
        Self { kernel, worlds: [scenario.start.clone(), World::clone(second)], enforcement, tapes: 0, now_ns: 0 }
    }

    /// Plays one; how many packets it had.
    ///
    /// # Panics
    /// Where kernel and model differ, with the tape as steps of a scenario.
    pub(crate) fn play(&mut self, tape: &[u8]) -> usize {
        let mut model = self.begin();
        let (start, mut turns, mut told) = (self.now_ns, 0, Vec::new());
        let at = |now_ns: u64| (now_ns - start) / SECOND;
        for note in notes(tape) {
            match note {
                Note::Pause(pause) => self.now_ns += pause,
                Note::Turn if turns == TURNS_MAX => {}
                Note::Turn => {
                    turns += 1;
                    told.push(serde_json::json!({"at": at(self.now_ns), "update": {}, "name": "the other world"}));
                    self.turn(&mut model, turns);
                }
                Note::Packet(direction, frame) => {
                    let by_model = model.judge(self.now_ns, direction, frame);
                    let by_kernel = self.kernel.judge(self.now_ns, direction, frame).expect("the kernel judges");
                    told.push(step(at(self.now_ns), direction, frame, &by_kernel, &by_model));
                    assert_eq!(by_kernel, by_model, "kernel, model; in the worlds of fuzz/worlds.json: {told:#?}");
                }
            }
        }
        if turns % 2 == 1 {
            self.turn(&mut model, 0);
        }
        told.len()
    }

    /// A model that knows the first world, at a time when nothing is left of the tape before.
    fn begin(&mut self) -> Model {
        let mut model = Model::new(Settings { enforcement: self.enforcement, ..Settings::default() });
        if self.tapes.is_multiple_of(TAPES_OF_ONE_ENDPOINT) {
            self.rename(self.tapes / TAPES_OF_ONE_ENDPOINT);
            self.turn(&mut model, 0);
            self.kernel.sweep().expect("what the last endpoint left is swept");
        } else {
            model.update(self.worlds[0].clone()).expect("a world within the limits");
        }
        self.tapes += 1;
        self.now_ns += BETWEEN_TAPES;
        model
    }

    fn rename(&mut self, number: u64) {
        for world in &mut self.worlds {
            let mut interface = world.cloud.interfaces.remove(&world.endpoint).expect("the endpoint");
            world.endpoint = format!("{ENDPOINT}{number}");
            interface.id = world.endpoint.clone();
            world.cloud.interfaces.insert(interface.id.clone(), interface);
        }
    }

    /// Both know the world of this turn from now on; the kernel, if it does not already.
    fn turn(&mut self, model: &mut Model, turn: usize) {
        let world = &self.worlds[turn % 2];
        self.kernel.update(world).expect("the kernel takes the world over");
        model.update(world.clone()).expect("a world within the limits");
    }
}

/// A packet as a step of a scenario, as `sgp-agent check` reads it.
fn step(at: u64, direction: Direction, frame: &[u8], kernel: &Judgement, model: &Judgement) -> serde_json::Value {
    let direction = if direction == Direction::Inbound { "in" } else { "out" };
    let name = format!("kernel {:?}, model {:?}", kernel.verdict, model.verdict);
    serde_json::json!({"at": at, "name": name, "packet": {"direction": direction, "frame": hex::encode(frame)}})
}
