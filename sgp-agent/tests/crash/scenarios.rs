//! The lives that are interrupted.

use std::time::Duration;

use sgp_agent::domain::branches::BranchSettings;

use crate::mishaps::Event::{self, Create, Delete, End};
use crate::mishaps::{Mishaps, TrunkCalls};
use crate::rest::check;
use crate::sim::Sim;

/// One life of a node.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    warm: u32,
    minimum: u32,
    branch_limit: u32,
    /// Seconds, and what happens then.
    events: &'static [(u64, Event)],
    /// Free branches there are in the end.
    pub(crate) pool: usize,
    /// Seconds that descriptions lag behind.
    lag_s: u64,
    trunk_calls: TrunkCalls,
}

const fn scenario(name: &'static str, warm: u32, branch_limit: u32, events: &'static [(u64, Event)]) -> Scenario {
    Scenario {
        name,
        warm,
        minimum: 0,
        branch_limit,
        events,
        pool: warm as usize,
        lag_s: 0,
        trunk_calls: TrunkCalls::Own,
    }
}

/// Long enough for a trunk, short enough for a cool-down to be interrupted.
pub(crate) const SCENARIOS: [Scenario; 10] = [
    scenario("trunk create", 0, 18, &[]),
    scenario("pod create, cold", 0, 18, &[(10, Create("a-1")), (10, Create("b-1"))]),
    scenario("pod create, warm", 1, 18, &[(10, Create("a-1"))]),
    scenario("pod delete and cool-down", 0, 18, &[(0, Create("a-1")), (20, Delete("a-1"))]),
    scenario("pod deleted while it is made", 0, 18, &[(0, Create("a-1")), (2, Delete("a-1")), (3, Create("a-1"))]),
    scenario(
        "a full node: the next pod takes the branch",
        0,
        1,
        &[(0, Create("a-1")), (20, Delete("a-1")), (25, Create("b-1"))],
    ),
    scenario(
        "pool refill",
        2,
        18,
        &[(0, Create("a-1")), (20, Create("b-1")), (20, Create("b-2")), (40, Delete("a-1"))],
    ),
    scenario("a job ends, its branch goes on", 1, 18, &[(0, Create("a-1")), (20, End("a-1")), (90, Create("b-1"))]),
    Scenario {
        trunk_calls: TrunkCalls::AnotherAccounts,
        ..scenario("trunk calls of another account", 0, 18, &[(5, Create("a-1")), (20, Delete("a-1"))])
    },
    Scenario { minimum: 3, pool: 2, ..scenario("at least three", 0, 18, &[(5, Create("a-1"))]) },
];

impl Scenario {
    /// The same where EC2's descriptions are 5 s behind.
    pub(crate) fn lagging(self) -> Self {
        Self { lag_s: 5, ..self }
    }

    pub(crate) fn sim(&self, mishaps: Mishaps) -> Sim {
        let settings = BranchSettings {
            cluster_name: "prod".into(),
            cooldown_s: 60,
            warm: self.warm,
            minimum: self.minimum,
            trunk_account: (self.trunk_calls == TrunkCalls::AnotherAccounts).then(|| "111122223333".to_owned()),
            ..BranchSettings::default()
        };
        let mut sim = Sim::new(settings, self.branch_limit, mishaps);
        sim.ec2.lag = Duration::from_secs(self.lag_s);
        sim.ec2.trunk_calls = self.trunk_calls;
        sim
    }

    /// Plays it to its rest and checks that; gives the steps it took.
    pub(crate) fn play(&self, mishaps: Mishaps) -> Result<usize, String> {
        let mut sim = self.sim(mishaps);
        sim.play(self.events)?;
        check(&mut sim, self.pool)?;
        Ok(sim.steps)
    }

    pub(crate) fn events(&self) -> &'static [(u64, Event)] {
        self.events
    }
}
