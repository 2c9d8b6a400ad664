//! EC2 and the API server say no: to any call, by every documented error (facts 2.12), once and for three minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use sgp_agent::domain::branches::{BranchSettings, CloudStep, Purpose};
use sgp_agent::domain::failure::{Failure, FailureKind};

use crate::mishaps::{Effect, Event, Fault, Mishaps, Scope};
use crate::rest::check;
use crate::scenarios::{SCENARIOS, Scenario};
use crate::sim::Sim;
use crate::{survives, tell};

/// EC2's errors: code, HTTP status, and what else fails with it.
const OF_EC2: [(&str, u16, Scope); 16] = [
    ("InvalidSecurityGroupID.NotFound", 400, Scope::Object),
    ("InvalidGroup.NotFound", 400, Scope::Object),
    ("InvalidSubnetID.NotFound", 400, Scope::Kind),
    ("InvalidParameterValue", 400, Scope::Object),
    ("SecurityGroupsPerInterfaceLimitExceeded", 400, Scope::Object),
    ("NetworkInterfaceLimitExceeded", 400, Scope::Kind),
    ("InsufficientFreeAddressesInSubnet", 400, Scope::Kind),
    ("UnauthorizedOperation", 403, Scope::Kind),
    ("OperationNotPermitted", 400, Scope::Kind),
    ("RequestLimitExceeded", 503, Scope::Kind),
    ("InternalError", 500, Scope::Object),
    ("ServiceUnavailable", 503, Scope::Kind),
    ("IncorrectState", 400, Scope::Object),
    ("InvalidNetworkInterfaceID.NotFound", 400, Scope::Object),
    ("AttachmentLimitExceeded", 400, Scope::Object),
    ("IdempotentParameterMismatch", 400, Scope::Object),
];
/// The API server's: reason of the status, and what it means (`io::kubernetes::writes`).
const OF_API_SERVER: [(&str, FailureKind); 6] = [
    ("Forbidden", FailureKind::Unauthorized),
    ("NotFound", FailureKind::Refused),
    ("Conflict", FailureKind::NotYet),
    ("Invalid", FailureKind::Refused),
    ("TooManyRequests", FailureKind::Throttled),
    ("InternalError", FailureKind::Unavailable),
];
const LASTING: Duration = Duration::from_secs(180);
const SAID: &str = "as documented";
const ERRORS: &str = "16 errors of EC2 or 6 of the API server, or answered by nothing, having worked or not";

/// What a call may be answered with; the last two only lose the answer.
fn errors(step: &CloudStep) -> Vec<(Failure, Scope, Effect)> {
    let answered: Vec<_> = match step.action() {
        Some(_) => OF_EC2.iter().map(|(code, status, scope)| (Failure::of(code, *status, SAID), *scope)).collect(),
        None => OF_API_SERVER.iter().map(|(reason, kind)| (of_api_server(reason, *kind), Scope::Object)).collect(),
    };
    let answered = answered.into_iter().map(|(failure, scope)| (failure, scope, Effect::None));
    let timed_out = |effect| (Failure::unanswered("the call timed out"), Scope::Object, effect);
    answered.chain([timed_out(Effect::None), timed_out(Effect::Done)]).collect()
}

fn of_api_server(reason: &str, kind: FailureKind) -> Failure {
    Failure { kind, code: reason.to_owned(), message: SAID.to_owned() }
}

/// Every call of a life fails by each of its errors; how often that was.
fn every_call_fails(scenario: &Scenario, lasting: Duration) -> usize {
    let mut undisturbed = scenario.sim(Mishaps::default());
    undisturbed.play(scenario.events()).expect("an undisturbed life");
    let mut faults = 0;
    for (from, (_, step)) in undisturbed.asked.iter().enumerate() {
        for (failure, scope, effect) in errors(step) {
            let fault = Some(Fault { from, scope, lasting, failure, effect });
            survives(scenario, &Mishaps { fault, ..Mishaps::default() });
            faults += 1;
        }
    }
    faults
}

#[test]
fn any_call_may_fail_once_by_any_documented_error() {
    let faults: usize = SCENARIOS.iter().map(|scenario| every_call_fails(scenario, Duration::ZERO)).sum();
    tell(&format!("{faults} faults: each call once, by each of {ERRORS}"));
    assert!(faults > 500, "{faults}");
}

#[test]
fn any_call_may_fail_for_three_minutes_by_any_documented_error() {
    let faults: usize = SCENARIOS.iter().map(|scenario| every_call_fails(scenario, LASTING)).sum();
    tell(&format!("{faults} faults: each call for {LASTING:?}, by each of {ERRORS}"));
    assert!(faults > 500, "{faults}");
}

/// Ten pods of two groups; nobody touches the pool.
const TEN: [(u64, Event); 10] = [
    (10, Event::Create("a-1")),
    (10, Event::Create("a-2")),
    (10, Event::Create("a-3")),
    (10, Event::Create("a-4")),
    (10, Event::Create("a-5")),
    (10, Event::Create("b-1")),
    (10, Event::Create("b-2")),
    (10, Event::Create("b-3")),
    (10, Event::Create("b-4")),
    (10, Event::Create("b-5")),
];

fn ten(fault: Option<Fault>) -> Sim {
    let settings = BranchSettings { cluster_name: "prod".into(), cooldown_s: 60, ..BranchSettings::default() };
    Sim::new(settings, 18, Mishaps { fault, ..Mishaps::default() })
}

/// Number of the first call that a pod waits for.
fn first_of_pods() -> usize {
    let mut sim = ten(None);
    sim.play(&TEN).expect("an undisturbed life");
    let of_pod = |purpose: Purpose| matches!(purpose, Purpose::Pod { .. });
    sim.asked.iter().position(|(_, step)| of_pod(step.purpose())).expect("a pod's call")
}

fn refused(code: &str, status: u16, scope: Scope, from: usize, lasting_s: u64) -> Option<Fault> {
    let failure = Failure::of(code, status, SAID);
    Some(Fault { from, scope, lasting: Duration::from_secs(lasting_s), failure, effect: Effect::None })
}

#[test]
fn one_pods_failure_never_delays_anothers() {
    let mut sim = ten(refused("InvalidParameterValue", 400, Scope::Object, first_of_pods(), 3600));
    for (_, event) in TEN {
        let Event::Create(name) = event else { panic!("only creations") };
        sim.node.create(name);
    }
    sim.run_until(Duration::from_secs(15)).expect("15 s");
    let wired = sim.node.wired().len();
    assert_eq!(wired, 9, "wired while one fails: {:?}", sim.refused);
    assert!(sim.refused.values().all(|reason| reason.contains("InvalidParameterValue")), "{:?}", sim.refused);
    assert_eq!(sim.refused.len(), 1);
    sim.run_to_rest().expect("it ends");
    check(&mut sim, 0).expect("all is right in the end");
}

#[test]
fn a_missing_permission_is_told_once_with_its_action_and_not_hammered() {
    let hour = 3600;
    let mut sim = ten(refused("UnauthorizedOperation", 403, Scope::Kind, first_of_pods(), hour));
    sim.play(&TEN).expect("it ends");
    check(&mut sim, 0).expect("all is right in the end");
    let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
    let creations = sim.asked.iter().filter(|(_, step)| step.action() == Some("CreateNetworkInterface"));
    for (at, _) in creations.filter(|(at, _)| at.as_secs() < hour) {
        *by_second.entry(at.as_secs()).or_default() += 1;
    }
    // The trunk, the ten that began together, and one that asks every few minutes.
    let asked: usize = by_second.values().sum();
    assert!(asked <= 11 + 3600 / 60, "{asked} calls in an hour: {by_second:?}");
    let told: Vec<_> = sim.said.iter().filter(|(notice, _)| notice.reason == "MissingPermission").collect();
    let [(notice, times)] = &told[..] else { panic!("told {told:?}") };
    assert!(notice.message.contains("ec2:CreateNetworkInterface"), "{notice:?}");
    assert_eq!(**times, 1, "{notice:?}");
    tell(&format!("a missing permission: {asked} calls in an hour for ten pods, told once"));
}

#[test]
fn a_pod_hears_why_it_waits_while_its_kind_of_call_is_not_permitted() {
    let mut sim = ten(refused("UnauthorizedOperation", 403, Scope::Kind, first_of_pods(), 3600));
    for name in ["a-1", "a-2", "b-1"] {
        sim.node.create(name);
    }
    sim.run_until(Duration::from_secs(30)).expect("30 s");
    assert_eq!(sim.refused.len(), 3, "{:?}", sim.refused);
    for reason in sim.refused.values() {
        assert!(reason.starts_with("creating network interface, UnauthorizedOperation"), "{reason}");
        assert!(reason.contains("ec2:CreateNetworkInterface"), "{reason}");
    }
}

/// EC2 knows of a branch, and then somebody deletes it by hand before its pod has it.
#[test]
fn a_branch_that_somebody_deletes_is_made_again() {
    let mut sim = ten(None);
    sim.node.create("a-1");
    while sim.ec2.interfaces().len() < 3 {
        let next = sim.now + Duration::from_millis(100);
        sim.run_until(next).expect("it goes on");
    }
    let made = sim
        .ec2
        .interfaces()
        .keys()
        .find(|id| *id != "eni-primary" && sim.ec2.interfaces()[*id].interface_type != "trunk");
    let made = made.cloned().expect("the branch");
    sim.ec2.lose(&made, sim.now);
    sim.run_to_rest().expect("it ends");
    check(&mut sim, 0).expect("all is right in the end");
}
