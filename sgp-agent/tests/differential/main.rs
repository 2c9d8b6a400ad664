//! The kernel and the model say the same of every packet, and name the same rule: random worlds, random conversations in
//! both directions, broken frames, rules and members that change in between, and time that moves.
//!
//! A mismatch prints the seed and what led there; `SGP_TEST_SEED` runs it again. Cases that were found this way stand in
//! `sgp-agent/examples/` as scenarios.

#[path = "../oracle/mod.rs"]
mod oracle;
mod said;
mod talk;
#[path = "../../fuzz/tape.rs"]
mod tape;

use std::path::Path;
use std::time::Instant;
use std::{fs, thread};

use oracle::random::Random;
use sgp_agent::check::Engine;
use sgp_agent::check::kernel::Kernel;
use sgp_agent::domain::enforcement::{Enforcement, RelatedIcmp, Revoked};
use sgp_agent::domain::model::{Judgement, Model, Settings};
use sgp_common::Verdict;
use talk::{Step, Talk};
use tape::Player;

/// Whether tests that need root may run; says how, if not.
fn allowed() -> bool {
    let allowed = std::env::var_os("SGP_TEST_ROOT").is_some_and(|value| value == "1");
    if !allowed {
        println!("skipped: needs root, run `cargo xtask test`");
    }
    allowed
}

/// What a run has seen, so that one in which everything drops does not pass for a comparison.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    packets: usize,
    by_rule: usize,
    by_flow: usize,
    exempt: usize,
    dropped: usize,
    updates: usize,
}

impl Seen {
    fn count(&mut self, judgement: &Judgement) {
        self.packets += 1;
        match judgement.verdict {
            Ok(Verdict::Rule) => self.by_rule += 1,
            Ok(Verdict::Flow) => self.by_flow += 1,
            Ok(_) => self.exempt += 1,
            Err(_) => self.dropped += 1,
        }
    }

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            by_rule: self.by_rule + other.by_rule,
            by_flow: self.by_flow + other.by_flow,
            exempt: self.exempt + other.exempt,
            dropped: self.dropped + other.dropped,
            updates: self.updates + other.updates,
        }
    }
}

/// Runs worlds until this many packets are judged; `broken`: frames are mutated first.
fn compare(enforcement: Enforcement, packets: usize, broken: bool) -> Seen {
    let mut kernel = Kernel::start(enforcement).expect("the kernel engine");
    let (mut random, mut seen) = (Random::seeded(), Seen::default());
    let mut round = 0;
    while seen.packets < packets {
        let rules = [3, 12, 40, 12, 300][round % 5];
        let mut talk = Talk::begin(&mut random, rules, round as u64);
        let mut model = Model::new(Settings { enforcement, ..Settings::default() });
        update(&mut kernel, &mut model, &talk);
        for _ in 0..4_000.min(packets - seen.packets) {
            match talk.next(&mut random, broken) {
                Step::Update => {
                    seen.updates += 1;
                    update(&mut kernel, &mut model, &talk);
                }
                Step::Packet { at_ns, direction, frame } => {
                    let by_model = model.judge(at_ns, direction, &frame);
                    let by_kernel = kernel.judge(at_ns, direction, &frame).expect("the kernel judges");
                    let told = || talk.told(&frame);
                    assert_eq!(
                        by_kernel,
                        by_model,
                        "kernel, model: {direction:?} at {at_ns}: {frame:02x?}\n{}",
                        told()
                    );
                    seen.count(&by_model);
                }
            }
        }
        round += 1;
    }
    seen
}

fn update(kernel: &mut Kernel, model: &mut Model, talk: &Talk) {
    let told = kernel.update(&talk.world).expect("the kernel takes the world over");
    let refused = Engine::update(model, &talk.world).expect("so does the model");
    assert_eq!(told.len(), refused.len(), "{told:?} {refused:?}");
}

/// Each of the operator's choices in a thread of its own: an engine keeps its thread to itself.
fn compare_all(packets: usize, broken: bool) -> Seen {
    let choice = |related_icmp, revoked| Enforcement { related_icmp, revoked, ..Enforcement::default() };
    let choices = [
        (choice(RelatedIcmp::NeedsRule, Revoked::LivesOn), 3),
        (choice(RelatedIcmp::PassesByFlow, Revoked::LivesOn), 1),
        (choice(RelatedIcmp::PassesByFlow, Revoked::IsCut), 1),
    ];
    let mut seen = Seen::default();
    for (enforcement, share) in choices {
        let ran = thread::spawn(move || compare(enforcement, packets * share / 5, broken));
        seen = seen.add(ran.join().expect("kernel and model agree"));
    }
    seen
}

#[test]
fn kernel_and_model_agree_on_a_million_packets() {
    if !allowed() {
        return;
    }
    let start = Instant::now();
    let seen = compare_all(1_000_000, false);
    println!("kernel and model agree: {seen:?}, in {:?}", start.elapsed());
    assert!(seen.packets >= 1_000_000 && seen.updates > 2_000);
    for part in [seen.by_rule, seen.by_flow, seen.dropped] {
        assert!(part > seen.packets / 20, "{seen:?}");
    }
    assert!(seen.exempt > 1_000, "{seen:?}");
}

#[test]
fn kernel_and_model_agree_on_frames_that_are_broken() {
    if !allowed() {
        return;
    }
    let start = Instant::now();
    let seen = compare_all(100_000, true);
    println!("kernel and model agree on mutated frames: {seen:?}, in {:?}", start.elapsed());
    assert!(seen.packets >= 100_000 && seen.dropped > seen.packets / 10, "{seen:?}");
}

/// Seeds of the fuzz target `packet`, and all tapes on which kernel and model ever differed (`fuzz/found`).
#[test]
fn kernel_and_model_agree_on_all_that_was_ever_found() {
    if !allowed() {
        return;
    }
    let mut player = Player::start();
    let mut packets = 0;
    for directory in ["fuzz/seeds", "fuzz/found"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        for file in fs::read_dir(directory).expect("tapes").flatten() {
            println!("{}", file.path().display());
            packets += player.play(&fs::read(file.path()).expect("a tape"));
        }
    }
    println!("kernel and model agree on {packets} packets of tapes");
    assert!(packets > 100, "only {packets} packets");
}
