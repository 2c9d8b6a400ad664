//! Nothing is ever lost: the agent is stopped after every single step of a pod's life, and after every pair of
//! them, EC2 answers every call with every documented error, and in the end all agrees and nothing is left over.
//!
//! EC2, API server, container runtime and kernel are models (`ec2.rs`, `node.rs`); planner, dispatcher and what
//! the kernel shall hold are the agent's own.

mod aws;
mod burst;
mod ec2;
mod faults;
mod mishaps;
mod node;
mod reference;
mod rest;
mod scale;
mod scenarios;
mod sim;

use std::io::Write;

use mishaps::{Event, Mishaps, Underway};
use scenarios::{SCENARIOS, Scenario};
use sgp_agent::domain::branches::CloudStep;

/// libtest hides what a passing test prints; these figures are to be seen.
fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").expect("standard output");
}

/// Plays a scenario with mishaps; gives how many steps it took.
fn survives(scenario: &Scenario, mishaps: &Mishaps) -> usize {
    match scenario.play(mishaps.clone()) {
        Ok(steps) => steps,
        Err(wrong) => panic!("{}: {mishaps:?}: {wrong}", scenario.name),
    }
}

fn crash(crashes: &[usize], underway: Underway) -> Mishaps {
    Mishaps { crashes: crashes.to_vec(), underway: Some(underway), fault: None }
}

#[test]
fn a_crash_after_any_step_leaves_nothing_over() {
    let mut points = 0;
    for scenario in &SCENARIOS {
        let steps = survives(scenario, &Mishaps::default());
        for at in 1..=steps {
            for underway in [Underway::Lost, Underway::Arrive] {
                survives(scenario, &crash(&[at], underway));
                points += 1;
            }
        }
        tell(&format!("  {}: {steps} steps", scenario.name));
    }
    tell(&format!("{points} crash points: after each step, calls under way lost or arriving"));
    assert!(points > 100, "{points}");
}

#[test]
fn a_crash_after_any_step_leaves_nothing_over_where_descriptions_lag() {
    let mut points = 0;
    for scenario in SCENARIOS.map(Scenario::lagging) {
        let steps = survives(&scenario, &Mishaps::default());
        for at in 1..=steps {
            for underway in [Underway::Lost, Underway::Arrive] {
                survives(&scenario, &crash(&[at], underway));
                points += 1;
            }
        }
    }
    tell(&format!("{points} crash points with descriptions 5 s behind"));
}

/// A call may end between the agent's look at EC2 and its plan; it must not be made twice for that.
#[test]
fn without_mishaps_no_branch_is_made_that_no_pod_or_pool_wants() {
    let only_grows =
        |scenario: &&Scenario| scenario.events().iter().all(|(_, event)| matches!(event, Event::Create(_)));
    for scenario in SCENARIOS.iter().filter(only_grows) {
        let mut sim = scenario.sim(Mishaps::default());
        sim.play(scenario.events()).expect("an undisturbed life");
        let created = sim.asked.iter().filter(|(_, step)| matches!(step, CloudStep::CreateBranch { .. })).count();
        let (pooled, had_pods) = (scenario.pool, sim.node.branches_ever_wired());
        assert!(created <= pooled + had_pods, "{}: {created} made, {had_pods} had pods", scenario.name);
    }
}

#[test]
fn a_crash_after_any_two_steps_leaves_nothing_over() {
    // The first deaths are shared out to the processors; each with all its second ones.
    let firsts: Vec<(&Scenario, usize)> = SCENARIOS
        .iter()
        .flat_map(|scenario| (1..=survives(scenario, &Mishaps::default())).map(move |first| (scenario, first)))
        .collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let points: usize = std::thread::scope(|scope| {
        let share =
            |worker: usize| firsts.iter().skip(worker).step_by(workers).map(|(s, first)| pairs(s, *first)).sum();
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || -> usize { share(worker) })).collect();
        running.into_iter().map(|worker| worker.join().expect("a worker survives")).sum()
    });
    tell(&format!("{points} crash points: pairs"));
    assert!(points > 1000, "{points}");
}

/// Every second death after a first one.
fn pairs(scenario: &Scenario, first: usize) -> usize {
    let until = survives(scenario, &crash(&[first], Underway::Arrive));
    for second in first + 1..=until {
        survives(scenario, &crash(&[first, second], Underway::Arrive));
    }
    until - first
}
