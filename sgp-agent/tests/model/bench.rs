//! The place that facts 5.3 describe, and a pod in it whose packets are judged.

use std::collections::BTreeMap;

use sgp_agent::domain::enforcement::{Enforcement, RelatedIcmp, Revoked};
use sgp_agent::domain::groups::{GroupSet, SecurityGroup};
use sgp_agent::domain::model::{Judgement, Limits, Model, Settings, World};
use sgp_agent::domain::observed::{CloudFacts, Instance, NetworkInterface};
use sgp_common::{Direction, Verdict};

use crate::text::{OWN_GROUP, host, packet, rule};

/// The interface that judges: P's.
pub(crate) const ENDPOINT: &str = "eni-p";

/// Seconds as nanoseconds.
pub(crate) const fn s(seconds: u64) -> u64 {
    seconds * 1_000_000_000
}

/// A time, a packet, and what is said to it.
pub(crate) type Step<'a> = (u64, &'a str, &'a str);

/// A model with its world.
pub(crate) struct Bench {
    pub(crate) cloud: CloudFacts,
    pub(crate) model: Model,
}

fn chosen(enforcement: Enforcement) -> Settings {
    Settings { enforcement, ..Settings::default() }
}

impl Bench {
    /// P with these rules, judged as AWS documents.
    pub(crate) fn new(rules: &[&str]) -> Self {
        Self::with(Settings::default(), rules)
    }

    pub(crate) fn cutting(rules: &[&str]) -> Self {
        Self::with(chosen(Enforcement { revoked: Revoked::IsCut, ..Enforcement::default() }), rules)
    }

    pub(crate) fn relating(rules: &[&str]) -> Self {
        Self::with(chosen(Enforcement { related_icmp: RelatedIcmp::PassesByFlow, ..Enforcement::default() }), rules)
    }

    pub(crate) fn limited(node_flows: usize, endpoint_flows: usize, rules: &[&str]) -> Self {
        Self::with(Settings { limits: Limits { node_flows, endpoint_flows }, ..Settings::default() }, rules)
    }

    pub(crate) fn with(settings: Settings, rules: &[&str]) -> Self {
        let mut bench = Self { cloud: place(), model: Model::new(settings) };
        bench.rules(rules);
        bench
    }

    /// From now on these are the rules; P carries every group that has some.
    pub(crate) fn rules(&mut self, lines: &[&str]) {
        self.change(|cloud| {
            let mut groups = BTreeMap::from([(OWN_GROUP.to_owned(), Vec::new())]);
            for (at, line) in lines.iter().enumerate() {
                let rule = rule(at + 1, line);
                groups.entry(rule.group_id.clone()).or_default().push(rule);
            }
            interface(cloud, ENDPOINT).groups = GroupSet::of(groups.keys().cloned());
            let group = |(id, rules): (String, _)| (id.clone(), SecurityGroup { id, vpc_id: "vpc-1".into(), rules });
            cloud.groups = groups.into_iter().map(group).collect();
        });
    }

    /// Changes the world.
    pub(crate) fn change(&mut self, how: impl FnOnce(&mut CloudFacts)) {
        how(&mut self.cloud);
        self.model.update(self.world()).expect("a world within the limits");
    }

    /// This interface carries these groups from now on.
    pub(crate) fn groups(&mut self, eni: &str, ids: &[&str]) {
        self.change(|cloud| interface(cloud, eni).groups = GroupSet::of(ids.iter().copied()));
    }

    pub(crate) fn world(&self) -> World {
        World { cloud: self.cloud.clone(), endpoint: ENDPOINT.into() }
    }

    /// What is said to a packet, at a time in nanoseconds.
    pub(crate) fn judge(&mut self, at_ns: u64, line: &str) -> String {
        let (direction, frame) = packet(line);
        self.frame(at_ns, direction, &frame.bytes())
    }

    /// What is said to a frame.
    pub(crate) fn frame(&mut self, at_ns: u64, direction: Direction, frame: &[u8]) -> String {
        told(&self.model.judge(at_ns, direction, frame))
    }

    /// Holds each step against what is expected.
    #[track_caller]
    pub(crate) fn run(&mut self, steps: &[Step]) {
        for (at, line, expected) in steps {
            assert_eq!(self.judge(*at, line), *expected, "{line}, at {at} ns");
        }
    }
}

/// `rule sgr-1`, `flow sgr-1`, `exempt`, or the reason of a drop.
pub(crate) fn told(judgement: &Judgement) -> String {
    let rule = judgement.rule.as_ref().map(|rule| rule.rule_id.as_str());
    match (judgement.verdict, rule) {
        (Ok(Verdict::Rule), Some(rule)) => format!("rule {rule}"),
        (Ok(Verdict::Flow), Some(rule)) => format!("flow {rule}"),
        (Ok(Verdict::Exempt), None) => "exempt".into(),
        (Err(reason), None) => reason.name().into(),
        odd => panic!("no judgement looks like {odd:?}"),
    }
}

/// An interface of the place.
pub(crate) fn interface<'a>(cloud: &'a mut CloudFacts, eni: &str) -> &'a mut NetworkInterface {
    cloud.interfaces.get_mut(eni).expect("an interface of the place")
}

fn place() -> CloudFacts {
    let eni = |id: &str, names: &[&str], group: &str| {
        let addresses = names.iter().flat_map(|name| [host(name), host(&format!("{name}6"))]).collect();
        let id = format!("eni-{id}");
        NetworkInterface { id: id.clone(), addresses, groups: GroupSet::of([group]), ..NetworkInterface::default() }
    };
    let mut own = eni("p", &["P", "P2"], OWN_GROUP);
    own.mac = "02:00:00:00:00:01".into();
    let others = [
        ("a", "A", "sg-app"),
        ("b", "B", "sg-db"),
        ("q", "Q", OWN_GROUP),
        ("n", "N", "sg-node"),
        ("c", "C", "sg-peer"),
    ];
    let others = others.map(|(id, name, group)| eni(id, &[name], group));
    let interfaces = others.into_iter().chain([own]).map(|eni| (eni.id.clone(), eni)).collect();
    let instance = Instance { subnet_cidr: Some("10.0.1.0/24".parse().expect("a CIDR")), ..Instance::default() };
    let vpc_cidrs = ["2001:db8::/56", "10.0.0.0/16", "10.8.0.0/16"].map(|cidr| cidr.parse().expect("a CIDR")).to_vec();
    CloudFacts { instance, interfaces, vpc_cidrs, ..CloudFacts::default() }
}
