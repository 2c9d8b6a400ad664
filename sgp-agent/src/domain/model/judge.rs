//! The stages a packet goes through, in the order of docs/semantics.md: the first that decides, decides.

use std::sync::Arc;

use sgp_common::DropReason::{self, FragmentWithoutFlow, Malformed, NoMatchingRule, NoPolicy, UnknownEndpoint};
use sgp_common::{Direction, Verdict};

use super::super::enforcement::{RelatedIcmp, Revoked};
use super::exempt::Endpoint;
use super::flows::{Flow, Key, State, is_syn, opens_by_itself, opposite};
use super::fragments::{FirstFragment, FragmentKey};
use super::frame::{Content, Ethernet, ICMP, ICMPV6, Packet, Piece, Said, quoted};
use super::rules::{Grounds, Question, Row, Tracking, grounds};
use super::{Model, RuleName};

/// ICMP types that report an error about a packet they quote.
const ERRORS_V4: [u8; 3] = [3, 11, 12];
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];

/// How a packet is allowed.
pub(super) struct Pass {
    pub(super) verdict: Verdict,
    pub(super) rule: Option<RuleName>,
}

impl Pass {
    const EXEMPT: Self = Self { verdict: Verdict::Exempt, rule: None };

    fn by_rule(rule: RuleName) -> Self {
        Self { verdict: Verdict::Rule, rule: Some(rule) }
    }

    fn by_flow(rule: RuleName) -> Self {
        Self { verdict: Verdict::Flow, rule: Some(rule) }
    }
}

/// When and where a packet passes.
#[derive(Clone, Copy)]
struct Passage<'a> {
    at_ns: u64,
    direction: Direction,
    endpoint: &'a str,
}

impl Model {
    pub(super) fn decide(&mut self, at_ns: u64, direction: Direction, frame: &[u8]) -> Result<Pass, DropReason> {
        let endpoint = self.endpoint.clone().ok_or(UnknownEndpoint)?;
        let ethernet = Ethernet::read(frame)?;
        endpoint.sent_by(direction, ethernet.source)?;
        match ethernet.content()? {
            Content::Arp => Ok(Pass::EXEMPT),
            Content::Ip(packet) => self.ip(at_ns, direction, &endpoint, &packet),
        }
    }

    fn ip(&mut self, at_ns: u64, to: Direction, endpoint: &Endpoint, packet: &Packet) -> Result<Pass, DropReason> {
        endpoint.may_send(to, packet)?;
        if endpoint.exempts(to, packet) {
            return Ok(Pass::EXEMPT);
        }
        endpoint.concerned(to, packet)?;
        let passage = Passage { at_ns, direction: to, endpoint: &endpoint.id };
        match packet.piece {
            Piece::Whole => self.whole(passage, packet),
            Piece::First { id, end } => self.first_fragment(passage, packet, id, end),
            Piece::Later { id, start } => self.later_fragment(passage, packet, id, start),
        }
    }

    /// Judged like a whole packet; what comes of it is remembered for the fragments that follow.
    fn first_fragment(&mut self, at: Passage, packet: &Packet, id: u32, end: usize) -> Result<Pass, DropReason> {
        let key = FragmentKey::of(at.endpoint, at.direction, packet, id);
        let judged = self.whole(at, packet);
        match &judged {
            Ok(Pass { rule: Some(rule), .. }) => {
                self.fragments.remember(key, FirstFragment { at_ns: at.at_ns, end, rule: rule.clone() });
            }
            _ => self.fragments.forget(&key),
        }
        judged
    }

    fn later_fragment(&mut self, at: Passage, packet: &Packet, id: u32, start: usize) -> Result<Pass, DropReason> {
        let key = FragmentKey::of(at.endpoint, at.direction, packet, id);
        match self.fragments.first(at.at_ns, &key) {
            Some(first) if start < first.end => Err(Malformed),
            Some(first) => Ok(Pass::by_flow(first.rule.clone())),
            None => {
                let admitted = self.ask(at.endpoint, &Question::of(at.direction, packet))?;
                admitted.map(|grounds| Pass::by_rule(grounds.rule)).ok_or(FragmentWithoutFlow)
            }
        }
    }

    /// A packet with a transport header, if its protocol has one.
    fn whole(&mut self, at: Passage, packet: &Packet) -> Result<Pass, DropReason> {
        let Some(key) = Key::of(at.endpoint, at.direction, packet) else {
            return self.alone(at, packet);
        };
        let Some(flow) = self.flows.live(at.at_ns, &key) else {
            return self.open(at, key, packet);
        };
        if is_syn(packet) && flow.state != State::Opening {
            return self.open(at, key, packet);
        }
        let mut flow = flow.clone();
        match self.standing(at.endpoint, &flow)? {
            Some(grounds) => {
                let rule = grounds.rule.clone();
                flow.grounds = grounds;
                flow.advance(at.at_ns, at.direction, packet);
                self.flows.insert(key, flow);
                Ok(Pass::by_flow(rule))
            }
            None if opens_by_itself(packet) => self.open(at, key, packet),
            None => Err(NoMatchingRule),
        }
    }

    /// Why a live flow may go on today: for what it was opened, or, where EC2 would not let it outlive its rule, for
    /// what the rules of today say to the packet that opened it.
    fn standing(&self, endpoint: &str, flow: &Flow) -> Result<Option<Grounds>, DropReason> {
        let mortal =
            flow.grounds.tracking == Tracking::Untracked || self.settings.enforcement.revoked == Revoked::IsCut;
        if mortal && self.has_changed(endpoint, flow)? {
            return self.ask(endpoint, &flow.opener);
        }
        Ok(Some(flow.grounds.clone()))
    }

    /// Whether the rules differ from those the flow was last judged by. With `Cut` members count too; judging again where
    /// nothing has changed says the same again, so then it is done always.
    fn has_changed(&self, endpoint: &str, flow: &Flow) -> Result<bool, DropReason> {
        Ok(self.settings.enforcement.revoked == Revoked::IsCut || **self.rows(endpoint)? != *flow.grounds.rows)
    }

    /// The first packet of a flow, or one that is taken for it.
    fn open(&mut self, at: Passage, key: Key, packet: &Packet) -> Result<Pass, DropReason> {
        let question = Question::of(at.direction, packet);
        let grounds = self.ask(at.endpoint, &question)?.ok_or(NoMatchingRule)?;
        let rule = grounds.rule.clone();
        let room = self.flows.room(at.at_ns, &key, &self.settings.limits);
        match room {
            Ok(()) => self.flows.insert(key, Flow::open(at.at_ns, packet, question, grounds)),
            // EC2 would not track it, so it needs no place: the rules of both directions let it through.
            Err(_) if grounds.tracking == Tracking::Untracked || self.answers_untracked(at, packet)? => {}
            Err(reason) => return Err(reason),
        }
        Ok(Pass::by_rule(rule))
    }

    /// Whether a packet can be the answer to one whose flow EC2 would not track.
    fn answers_untracked(&self, at: Passage, packet: &Packet) -> Result<bool, DropReason> {
        match Question::answered_by(at.direction, packet).filter(|_| !is_syn(packet)) {
            Some(asked) => {
                Ok(self.ask(at.endpoint, &asked)?.is_some_and(|grounds| grounds.tracking == Tracking::Untracked))
            }
            None => Ok(false),
        }
    }

    /// A packet of no flow: an ICMP error, above all.
    fn alone(&mut self, at: Passage, packet: &Packet) -> Result<Pass, DropReason> {
        if let Some(grounds) = self.related(at, packet)? {
            return Ok(Pass::by_flow(grounds.rule));
        }
        let admitted = self.ask(at.endpoint, &Question::of(at.direction, packet))?;
        admitted.map(|grounds| Pass::by_rule(grounds.rule)).ok_or(NoMatchingRule)
    }

    /// The grounds of the live flow that an ICMP error is about, if that counts.
    fn related(&mut self, at: Passage, packet: &Packet) -> Result<Option<Grounds>, DropReason> {
        let Some(quote) = quote(packet).filter(|_| self.settings.enforcement.related_icmp == RelatedIcmp::PassesByFlow)
        else {
            return Ok(None);
        };
        let Some(key) = Key::of(at.endpoint, opposite(at.direction), &quote) else {
            return Ok(None);
        };
        match self.flows.live(at.at_ns, &key).cloned() {
            Some(flow) => self.standing(at.endpoint, &flow),
            None => Ok(None),
        }
    }

    fn ask(&self, endpoint: &str, question: &Question) -> Result<Option<Grounds>, DropReason> {
        Ok(grounds(self.rows(endpoint)?, question, &self.cloud))
    }

    fn rows(&self, endpoint: &str) -> Result<&Arc<Vec<Row>>, DropReason> {
        self.rows.get(endpoint).ok_or(NoPolicy)
    }
}

/// The packet that an ICMP error quotes.
fn quote<'a>(packet: &Packet<'a>) -> Option<Packet<'a>> {
    let Said::Icmp { icmp_type, rest, .. } = packet.said else {
        return None;
    };
    let is_error = match packet.protocol {
        ICMP => ERRORS_V4.contains(&icmp_type),
        ICMPV6 => ERRORS_V6.contains(&icmp_type),
        _ => false,
    };
    is_error.then(|| quoted(rest, packet.protocol)).flatten()
}
