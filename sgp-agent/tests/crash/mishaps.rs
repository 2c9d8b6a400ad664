//! What happens to pods, to the agent and to its calls.

use std::time::Duration;

use sgp_agent::domain::failure::Failure;

/// What happens to pods.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Create(&'static str),
    Delete(&'static str),
    End(&'static str),
}

/// What becomes of calls under way when the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Underway {
    /// They were never sent.
    Lost,
    /// They arrive, and nobody hears the answer.
    Arrive,
}

/// A failure that EC2 or the API server answers with.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Which call, by its number, is the first to fail.
    pub(crate) from: usize,
    /// That call's object only, or all calls of its kind.
    pub(crate) scope: Scope,
    /// How long the same goes on failing; zero: it fails once.
    pub(crate) lasting: Duration,
    /// What is answered.
    pub(crate) failure: Failure,
    /// Whether the call works all the same.
    pub(crate) effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Object,
    Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Done,
}

/// Where the agent is stopped, and what fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mishaps {
    /// After which steps (counted from 1) the agent dies.
    pub(crate) crashes: Vec<usize>,
    pub(crate) underway: Option<Underway>,
    pub(crate) fault: Option<Fault>,
}

/// Whose the trunk calls are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TrunkCalls {
    /// The account's own.
    #[default]
    Own,
    /// Another account's, which needs a permission for each interface (facts 0.1).
    AnotherAccounts,
}
