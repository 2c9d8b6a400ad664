//! One node in virtual time: events happen, the agent looks and acts by its real planner and dispatcher, calls
//! take their time, and it may be stopped after any of its steps and begin anew with nothing remembered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use sgp_agent::domain::branches::{BranchSettings, CloudStep, Notice};
use sgp_agent::domain::desired::Desired;
use sgp_agent::domain::observed::Observed;
use sgp_agent::reconcile::{Provisioner, Rates, Round};

use crate::burst::{Buckets, Pace, latency, throttled};
use crate::ec2::Ec2;
use crate::mishaps::{Effect, Event, Fault, Mishaps, Scope, Underway};
use crate::node::Node;

/// How long a call takes where that does not matter.
const CALL: Duration = Duration::from_millis(300);
/// How long news gather (`reconcile`).
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How long changes of the kernel may take.
const KERNEL: Duration = Duration::from_millis(250);
/// A simulation that is not at rest after this much virtual time never will be.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

struct Call {
    due: Duration,
    step: CloudStep,
    /// Of an agent that is dead: nobody hears the answer.
    orphaned: bool,
}

/// See the module.
pub(crate) struct Sim {
    pub(crate) ec2: Ec2,
    pub(crate) node: Node,
    pub(crate) now: Duration,
    settings: BranchSettings,
    agent: Provisioner,
    born: Duration,
    calls: Vec<Call>,
    mishaps: Mishaps,
    pub(crate) pace: Pace,
    /// The account's, which nodes can share.
    pub(crate) buckets: Rc<RefCell<Buckets>>,
    /// How far runtime and kernel may be behind, where only EC2 is of interest: they cost most of the time.
    pub(crate) node_lags: Duration,
    /// When they are looked at again.
    node_due: Duration,
    /// Calls that EC2 found too many.
    pub(crate) throttled: usize,
    /// When each pod, by name, had its annotation.
    pub(crate) annotated: BTreeMap<String, Duration>,
    /// Steps taken: of EC2, the API server and the kernel.
    pub(crate) steps: usize,
    /// Calls made.
    pub(crate) asked: Vec<(Duration, CloudStep)>,
    /// When the fault began, and on what.
    faulty: Option<(Duration, CloudStep)>,
    starts: u32,
    looks: u32,
    /// Everything that was said once, with how often it was said anew.
    pub(crate) said: BTreeMap<Notice, u32>,
    standing: BTreeSet<Notice>,
    /// What the last look refused.
    pub(crate) refused: BTreeMap<String, String>,
}

fn agent(settings: &BranchSettings, start: u32) -> Provisioner {
    let settings = BranchSettings { incarnation: format!("start-{start}"), ..settings.clone() };
    Provisioner::new(settings, Rates::default(), u64::from(start))
}

impl Sim {
    pub(crate) fn new(settings: BranchSettings, branch_limit: u32, mishaps: Mishaps) -> Self {
        Self {
            ec2: Ec2::new(branch_limit),
            node: Node::new(Duration::from_secs(settings.cooldown_s)),
            now: Duration::ZERO,
            agent: agent(&settings, 0),
            settings,
            born: Duration::ZERO,
            calls: Vec::new(),
            mishaps,
            pace: Pace::Even,
            buckets: Rc::default(),
            node_lags: Duration::ZERO,
            node_due: Duration::ZERO,
            throttled: 0,
            annotated: BTreeMap::new(),
            steps: 0,
            asked: Vec::new(),
            faulty: None,
            starts: 0,
            looks: 0,
            said: BTreeMap::new(),
            standing: BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Lets everything happen, in seconds from now, and goes on until the node is at rest.
    pub(crate) fn play(&mut self, events: &[(u64, Event)]) -> Result<(), String> {
        let begun = self.now;
        for (at_s, event) in events {
            self.run_until(begun + Duration::from_secs(*at_s))?;
            match event {
                Event::Create(name) => self.node.create(name),
                Event::Delete(name) => self.node.delete(name),
                Event::End(name) => self.node.end(name),
            }
        }
        self.run_to_rest()
    }

    pub(crate) fn run_until(&mut self, end: Duration) -> Result<(), String> {
        while self.now < end {
            let round = self.round();
            self.advance(&round, end)?;
        }
        Ok(())
    }

    /// At rest is who is still so after answers have settled and descriptions have caught up.
    pub(crate) fn run_to_rest(&mut self) -> Result<(), String> {
        let begun = self.now;
        let mut since = None;
        loop {
            let round = self.round();
            let quiet = round.at_rest && self.calls.is_empty();
            let since = *if quiet { since.get_or_insert(self.now) } else { since.insert(self.now) };
            if quiet && self.now - since > Duration::from_secs(45) {
                return Ok(());
            }
            if self.now - begun > PATIENCE {
                return Err(format!("never at rest: refused {:?}, notices {:?}", round.refused, round.notices));
            }
            self.advance(&round, self.now + Duration::from_secs(50))?;
        }
    }

    /// To whatever comes next: the end of a call, or when the agent wants to look again.
    fn advance(&mut self, round: &Round, end: Duration) -> Result<(), String> {
        let call = self.calls.iter().map(|call| call.due).min();
        let look = round.look_in.map(|wait| self.now + wait.max(Duration::from_millis(100)));
        let resync = self.now + Duration::from_secs(30);
        let call = call.map(|due| if self.pace == Pace::Modelled { due + DEBOUNCE } else { due });
        let next = call.into_iter().chain(look).chain([end, resync]).min().unwrap_or(end);
        self.now = self.now.max(next);
        self.answers();
        match self.node.wrongs.first() {
            Some(wrong) => Err(wrong.clone()),
            None => Ok(()),
        }
    }

    /// Calls that are over by now.
    fn answers(&mut self) {
        while let Some(at) = self.calls.iter().position(|call| call.due <= self.now) {
            let call = self.calls.remove(at);
            self.answer(call);
        }
    }

    /// The agent looks: first the kernel, then the cloud. One that died on the way looks anew.
    fn round(&mut self) -> Round {
        if self.now < self.node_due {
            let observed = self.observed();
            return self.plan(&observed);
        }
        self.node_due = self.now + self.node_lags;
        self.node.run_pods(&self.ec2, self.now);
        loop {
            let (observed, starts) = (self.observed(), self.starts);
            let steps = self.node.lacks(&Desired::from(&observed));
            for step in steps {
                self.node.change(&step);
                self.count();
                if starts != self.starts {
                    break;
                }
            }
            if starts == self.starts {
                return self.plan(&observed);
            }
        }
    }

    fn plan(&mut self, observed: &Observed) -> Round {
        // Between the look and the plan the kernel is changed, and calls may end meanwhile.
        self.looks += 1;
        if self.looks.is_multiple_of(2) && self.pace == Pace::Even {
            self.now += KERNEL;
            let starts = self.starts;
            self.answers();
            if starts != self.starts {
                return Round { look_in: Some(Duration::ZERO), ..Round::default() };
            }
        }
        let enforced: BTreeSet<_> = self.node.installed.endpoints.keys().copied().collect();
        let round = self.agent.round(observed, &enforced, self.now - self.born);
        for (at, step) in round.start.iter().enumerate() {
            // Calls that begin together end one after the other, so that the agent can die between them.
            let takes = match self.pace {
                // The API server is quicker than EC2: what may only follow EC2's answers must not begin with the calls.
                Pace::Even if step.action().is_none() => CALL / 10 + Duration::from_millis(at as u64),
                Pace::Even => CALL + Duration::from_millis(at as u64),
                Pace::Modelled => latency(step.action(), self.asked.len() + at),
            };
            let due = self.now + takes;
            self.calls.push(Call { due, step: step.clone(), orphaned: false });
        }
        let notices: BTreeSet<Notice> = round.notices.iter().cloned().collect();
        for notice in notices.difference(&self.standing) {
            *self.said.entry(notice.clone()).or_default() += 1;
        }
        (self.standing, self.refused) = (notices, round.refused.clone());
        round
    }

    pub(crate) fn observed(&mut self) -> Observed {
        let described = self.ec2.describe(self.now);
        let cloud = self.agent.facts(described, self.now - self.born);
        Observed {
            cluster: Some(self.node.cluster.clone()),
            cloud: Some(cloud),
            links: Some(self.node.links()),
            ..Observed::default()
        }
    }

    fn answer(&mut self, call: Call) {
        let number = self.asked.len();
        self.asked.push((self.now, call.step.clone()));
        let fault = self.fault(number, &call.step);
        let works = fault.as_ref().is_none_or(|fault| fault.effect == Effect::Done);
        let answer = works.then(|| match call.step.action() {
            Some(_) => self.ec2.apply(&call.step, self.now),
            None => self.node.apply(&call.step),
        });
        if let (CloudStep::Annotate { name, .. }, true) = (&call.step, works) {
            self.annotated.insert(name.clone(), self.now);
        }
        let outcome = match fault {
            Some(fault) => Err(fault.failure),
            None => answer.expect("a call without fault works"),
        };
        if call.orphaned {
            return;
        }
        let agent = self.starts;
        self.count();
        if agent == self.starts {
            self.agent.finished(&call.step, outcome, self.now - self.born);
        }
    }

    fn fault(&mut self, number: usize, step: &CloudStep) -> Option<Fault> {
        if let (Pace::Modelled, Some(action)) = (self.pace, step.action())
            && !self.buckets.borrow_mut().take(action, self.now)
        {
            self.throttled += 1;
            return Some(throttled());
        }
        let fault = self.mishaps.fault.clone()?;
        if number == fault.from {
            self.faulty = Some((self.now, step.clone()));
            return Some(fault);
        }
        let (since, first) = self.faulty.as_ref()?;
        let same = match fault.scope {
            Scope::Object => first.key() == step.key(),
            Scope::Kind => first.action() == step.action() && step.action().is_some(),
        };
        (same && self.now < *since + fault.lasting).then_some(fault)
    }

    /// One more step is taken; it may have been the last of this agent.
    fn count(&mut self) {
        self.steps += 1;
        if self.mishaps.crashes.contains(&self.steps) {
            self.restart();
        }
    }

    /// The agent dies, and another begins with nothing remembered.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        self.born = self.now;
        self.agent = agent(&self.settings, self.starts);
        match self.mishaps.underway {
            Some(Underway::Arrive) => self.calls.iter_mut().for_each(|call| call.orphaned = true),
            Some(Underway::Lost) | None => self.calls.retain(|call| call.orphaned),
        }
    }
}
