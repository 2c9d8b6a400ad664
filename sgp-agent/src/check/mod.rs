//! `sgp-agent check`: a scenario, put through one of two engines that judge packets.
//!
//! Architecture invariant: like `reconcile`, this is above `domain` and `io` and knows both.

pub mod kernel;

use anyhow::{Context, Result};
use sgp_common::{Direction, Verdict};

use crate::domain::model::{Judgement, Model, World};
use crate::domain::scenario::{Action, Expect, Probe, Scenario};

/// Something that judges packets by what EC2 says, with a memory of those before.
pub trait Engine {
    /// Takes over what EC2 says now. What is refused, a policy beyond a limit, is told in a sentence each, and its
    /// old form goes on judging.
    ///
    /// # Errors
    /// Where the engine itself fails.
    fn update(&mut self, world: &World) -> Result<Vec<String>>;

    /// Judges a packet. `at_ns` counts from the scenario's start and never goes back; `frame` begins with the
    /// Ethernet header.
    ///
    /// # Errors
    /// Where the engine itself fails.
    fn judge(&mut self, at_ns: u64, direction: Direction, frame: &[u8]) -> Result<Judgement>;
}

impl Engine for Model {
    fn update(&mut self, world: &World) -> Result<Vec<String>> {
        let groups = world.cloud.interfaces.get(&world.endpoint).map(|interface| interface.groups.to_string());
        let told = |why| format!("group set {}: {why}", groups.unwrap_or_default());
        Ok(Self::update(self, world.clone()).err().map(told).into_iter().collect())
    }

    fn judge(&mut self, at_ns: u64, direction: Direction, frame: &[u8]) -> Result<Judgement> {
        Ok(Self::judge(self, at_ns, direction, frame))
    }
}

/// What became of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// One for each of the scenario's steps; `None` for updates.
    pub judgements: Vec<Option<Judgement>>,
    /// What was refused: the step, or `None` for the start, and a sentence.
    pub refused: Vec<(Option<usize>, String)>,
}

/// Puts a scenario through an engine that has judged nothing yet.
///
/// # Errors
/// Where the engine fails; names the step.
pub fn run(scenario: &Scenario, engine: &mut dyn Engine) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let refused = engine.update(&scenario.start).context("at the start")?;
    outcome.refused.extend(refused.into_iter().map(|why| (None, why)));
    for (index, step) in scenario.steps.iter().enumerate() {
        let at = || format!("Steps[{index}]");
        let judgement = match &step.action {
            Action::Update(world) => {
                let refused = engine.update(world).with_context(at)?;
                outcome.refused.extend(refused.into_iter().map(|why| (Some(index), why)));
                None
            }
            Action::Packet(Probe { direction, frame, .. }) => {
                Some(engine.judge(step.at_ns, *direction, frame).with_context(at)?)
            }
        };
        outcome.judgements.push(judgement);
    }
    Ok(outcome)
}

/// Whether a packet fared as its author says.
pub fn holds(expect: Expect, judgement: &Judgement) -> bool {
    judgement.verdict.is_ok() == (expect == Expect::Allow)
}

/// Why a packet is dropped, or how it is allowed, in the words of reports.
pub fn reason(judgement: &Judgement) -> &'static str {
    match judgement.verdict {
        Err(reason) => reason.name(),
        Ok(Verdict::Rule) => "rule",
        Ok(Verdict::Flow) => "flow",
        Ok(Verdict::Exempt) => "exempt",
        Ok(Verdict::Passed) => "passed",
    }
}
