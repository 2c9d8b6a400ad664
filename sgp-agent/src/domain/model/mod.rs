//! The model: what EC2's documentation says about a packet, judged slowly, plainly and with a memory.
//!
//! It is written from `docs/semantics.md`, section by section, and not from the data path: it has its own frame reader,
//! walks the rules row by row and compiles nothing, so that the two can be held against each other and a mistake
//! in one is not made twice. Of `sgp_common` it uses only the words of the verdict.
//!
//! It judges at the branch of one endpoint at a time; what a node does between two of its own pods is not in it. A tag
//! that the network card has taken out of the frame is not in the frame's bytes, so the model cannot see it.

mod exempt;
mod flows;
mod fragments;
mod frame;
mod judge;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;

use sgp_common::limits::{ENDPOINT_FLOWS_MAX, FLOWS_MAX};
use sgp_common::{Direction, DropReason, Verdict};

use super::enforcement::Enforcement;
pub use super::groups::RuleName;
use super::observed::CloudFacts;
use exempt::Endpoint;
use flows::Flows;
use fragments::Fragments;
use judge::Pass;
use rules::Row;

/// What is known while packets are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// EC2's word. `instance.subnet_cidr` says where the subnet's router is, the first IPv4 CIDR of `vpc_cidrs` where
    /// Amazon's resolver is; without them there is none.
    pub cloud: CloudFacts,
    /// The interface that judges, `eni-…` in `cloud.interfaces`. Its `mac`, unless empty, is the pod's.
    pub endpoint: String,
}

/// How to judge where there is a choice. The default is what AWS documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The operator's choices.
    pub enforcement: Enforcement,
    /// How much is remembered.
    pub limits: Limits,
}

/// How many live flows are remembered. One that is over does not count, swept or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of all endpoints that this model has judged for.
    pub node_flows: usize,
    /// Of one endpoint.
    pub endpoint_flows: usize,
}

impl Default for Limits {
    /// Those of the data path.
    fn default() -> Self {
        Self { node_flows: FLOWS_MAX as usize, endpoint_flows: ENDPOINT_FLOWS_MAX as usize }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// How it is allowed, or why it is dropped.
    pub verdict: Result<Verdict, DropReason>,
    /// The rule that admits it: its own, or its flow's. `None` for what is exempt or dropped.
    pub rule: Option<RuleName>,
}

/// The evaluator: a world, and what it remembers of the packets before.
#[derive(Clone, Debug, Default)]
pub struct Model {
    settings: Settings,
    cloud: CloudFacts,
    endpoint: Option<Endpoint>,
    /// The last rules of each endpoint that were within the limits. Flows point at those they were judged by.
    rows: BTreeMap<String, Arc<Vec<Row>>>,
    flows: Flows,
    fragments: Fragments,
}

impl Model {
    /// A model that knows no world yet: every packet is for an `UnknownEndpoint`.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Takes over a new world, between two packets. Flows and fragments live on.
    ///
    /// # Errors
    /// A sentence. Rules beyond a limit are refused: the old ones stay, the rest of the world (members, timeouts,
    /// addresses) is taken over. An endpoint that is not among the interfaces is refused, and nothing changes.
    pub fn update(&mut self, world: World) -> Result<(), String> {
        let endpoint = Endpoint::of(&world)?;
        let rows = rules::rows(&world);
        self.flows.set_timeouts(&endpoint.id, endpoint.timeouts);
        let id = endpoint.id.clone();
        self.endpoint = Some(endpoint);
        self.cloud = world.cloud;
        self.rows.insert(id, Arc::new(rows?));
        Ok(())
    }

    /// Judges one packet and remembers what it means for later ones.
    ///
    /// `at_ns` is the time in nanoseconds, from any start, never going back; `direction` the pod's point of view; `frame` begins
    /// with the Ethernet header.
    pub fn judge(&mut self, at_ns: u64, direction: Direction, frame: &[u8]) -> Judgement {
        match self.decide(at_ns, direction, frame) {
            Ok(Pass { verdict, rule }) => Judgement { verdict: Ok(verdict), rule },
            Err(reason) => Judgement { verdict: Err(reason), rule: None },
        }
    }
}
