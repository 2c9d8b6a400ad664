//! `check`: a scenario of security groups and packets, judged before it is real.

use std::io::Read;
use std::process::ExitCode;
use std::{fs, io};

use anyhow::{Context, Error, Result};
use clap::{Args, ValueEnum};
use comfy_table::{Cell, Color, Row};
use serde::Serialize;
use sgp_common::Direction;

use super::run::Choices;
use super::view::table;
use crate::check::kernel::Kernel;
use crate::check::{Engine, Outcome, holds, reason, run};
use crate::domain::groups::RuleName;
use crate::domain::model::{Judgement, Model, Settings};
use crate::domain::scenario::{Action, Expect, Scenario, Step};

/// Exit status for a scenario that cannot be read, and for an engine that cannot be had.
const UNUSABLE: u8 = 2;

const ABOUT: &str =
    "A scenario is one JSON object: SecurityGroups and NetworkInterfaces as `aws ec2 describe-...` prints
them, PrefixLists, Vpc, the Endpoint whose rules judge, and Steps, each a packet with what you expect
of it, or an update of what EC2 says. docs/check.md describes all of it.

Engines:
  kernel  the BPF programs that enforce on a node, in namespaces of their own; needs root
  model   a plain reading of the rules; needs nothing
Without --engine it is the kernel where that is permitted, else the model.

Exit status: 0 if every packet fared as expected, 1 if one did not, 2 if the scenario cannot be read or
the engine cannot be had.

Examples:
  sgp-agent check web-and-database.json
  sgp-agent check --engine model --json web-and-database.json
  terraform-to-scenario | sgp-agent check --engine model -";

/// What to check, and how.
#[derive(Args, Debug)]
#[command(after_help = ABOUT)]
pub(super) struct Question {
    /// The scenario, a file, or - for standard input
    scenario: String,
    /// What judges
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// One JSON object a packet, each on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    choices: Choices,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EngineName {
    /// The BPF programs that enforce on a node
    Kernel,
    /// A plain reading of the rules
    Model,
}

/// Judges and prints; everything that keeps it from doing so is told here.
pub(super) fn print(question: &Question) -> ExitCode {
    match checked(question) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

/// How many packets fared otherwise than expected.
fn checked(question: &Question) -> Result<usize> {
    let scenario = read(&question.scenario)?;
    let outcome = run(&scenario, engine(question)?.as_mut())?;
    for (step, why) in &outcome.refused {
        let step = step.map_or_else(|| "at the start".to_owned(), |step| format!("Steps[{step}]"));
        eprintln!("{step}: refused, the old rules stay: {why}");
    }
    let rows = rows(&scenario, &outcome);
    let verdicts = rows.iter().filter_map(|row| row.holds());
    let (good, bad) = verdicts.fold((0, 0), |(good, bad), holds| if holds { (good + 1, bad) } else { (good, bad + 1) });
    if question.json {
        print_lines(&rows)?;
    } else {
        print_table(&rows);
        println!("{good} as expected, {bad} not");
    }
    Ok(bad)
}

fn read(place: &str) -> Result<Scenario> {
    let text = match place {
        "-" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("reading the scenario from standard input")?;
            text
        }
        path => fs::read_to_string(path).with_context(|| format!("reading the scenario {path}"))?,
    };
    Scenario::read(&text).map_err(Error::msg).with_context(|| format!("scenario {place}"))
}

fn engine(question: &Question) -> Result<Box<dyn Engine>> {
    let enforcement = question.choices.enforcement();
    let model = || Box::new(Model::new(Settings { enforcement, ..Settings::default() }));
    let kernel = || Kernel::start(enforcement).map(|kernel| Box::new(kernel) as Box<dyn Engine>);
    match question.engine {
        Some(EngineName::Model) => Ok(model()),
        Some(EngineName::Kernel) => kernel().context("the kernel engine cannot be had"),
        None => kernel().or_else(|error| {
            eprintln!("judged by the model; the kernel engine cannot be had: {error:#}");
            Ok(model() as Box<dyn Engine>)
        }),
    }
}

/// A step and what became of it.
struct Seen<'a> {
    index: usize,
    step: &'a Step,
    judgement: Option<&'a Judgement>,
}

fn rows<'a>(scenario: &'a Scenario, outcome: &'a Outcome) -> Vec<Seen<'a>> {
    let steps = scenario.steps.iter().zip(&outcome.judgements).enumerate();
    steps.map(|(index, (step, judgement))| Seen { index, step, judgement: judgement.as_ref() }).collect()
}

impl Seen<'_> {
    fn expect(&self) -> Option<Expect> {
        match &self.step.action {
            Action::Packet(probe) => probe.expect,
            Action::Update(_) => None,
        }
    }

    /// Whether it fared as expected; `None` where nobody said what to expect.
    fn holds(&self) -> Option<bool> {
        Some(holds(self.expect()?, self.judgement?))
    }

    fn cells(&self) -> Row {
        let direction = match &self.step.action {
            Action::Packet(probe) if probe.direction == Direction::Inbound => "in",
            Action::Packet(_) => "out",
            Action::Update(_) => "",
        };
        let rule = self.judgement.and_then(|judgement| judgement.rule.as_ref());
        let cells = [
            self.index.to_string(),
            format!("{}s", self.step.at_ns as f64 / 1e9),
            direction.to_owned(),
            self.step.words.clone(),
            self.judgement.map_or_else(String::new, |judgement| verdict(judgement).to_owned()),
            self.judgement.map_or_else(String::new, |judgement| reason(judgement).to_owned()),
            rule.map_or_else(String::new, RuleName::to_string),
        ];
        let mut row = Row::from(cells.to_vec());
        row.add_cell(self.expected());
        row.add_cell(Cell::new(self.step.name.as_deref().unwrap_or_default()));
        row
    }

    fn expected(&self) -> Cell {
        let word = match self.expect() {
            Some(Expect::Allow) => "allow",
            Some(Expect::Drop) => "drop",
            None => "",
        };
        match self.holds() {
            Some(true) => Cell::new(word).fg(Color::Green),
            Some(false) => Cell::new(format!("{word} !!")).fg(Color::Red),
            None => Cell::new(word),
        }
    }
}

fn verdict(judgement: &Judgement) -> &'static str {
    if judgement.verdict.is_ok() { "allow" } else { "drop" }
}

fn print_table(rows: &[Seen<'_>]) {
    let header = ["STEP", "AT", "WAY", "PACKET", "VERDICT", "WHY", "RULE", "EXPECTED", "NAME"];
    println!("{}", table(&header, rows.iter().map(Seen::cells)));
}

/// A packet's verdict, for scripts.
#[derive(Serialize)]
struct Line<'a> {
    step: usize,
    verdict: &'static str,
    reason: &'static str,
    rule: Option<Named<'a>>,
}

#[derive(Serialize)]
struct Named<'a> {
    group: &'a str,
    id: &'a str,
}

fn print_lines(rows: &[Seen<'_>]) -> Result<()> {
    for (row, judgement) in rows.iter().filter_map(|row| Some((row, row.judgement?))) {
        let rule = judgement.rule.as_ref().map(|rule| Named { group: &rule.group_id, id: &rule.rule_id });
        let line = Line { step: row.index, verdict: verdict(judgement), reason: reason(judgement), rule };
        println!("{}", serde_json::to_string(&line).context("writing JSON")?);
    }
    Ok(())
}
