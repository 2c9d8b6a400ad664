//! Asks the maps in the order in which the programs do (`docs/semantics.md`).

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use sgp_common::endpoint::Endpoint;
use sgp_common::endpoint::settings::{CUT_ON_REVOKE, RELATED_ICMP, SNAT};
use sgp_common::exempt::exempt;
use sgp_common::flow::{Flow, FlowKey, FlowState, Tracking};
use sgp_common::packet::{Packet, Transport};
use sgp_common::policy::{Question, RuleKey, Selector};
use sgp_common::snat::{Node, SnatPolicy};
use sgp_common::{Addr, Direction, DropReason, Family};

use super::answer::{Answer, Asked, Named};
use super::misfit::Names;
use crate::cli::flows::{Row, is_live, monotonic_ns};
use crate::cli::snat::{judges, prefix};
use crate::domain::explain::explain;
use crate::domain::groups::GroupSetId;
use crate::io::kernel::maps::{Maps, digest, policy_name};
use crate::io::telemetry::address;

const ADDR_BITS: u32 = 128;

/// A packet at an endpoint.
pub(super) struct Case<'a> {
    pub(super) maps: &'a Maps,
    pub(super) names: &'a Names<'a>,
    pub(super) id: u64,
    pub(super) endpoint: Endpoint,
    pub(super) packet: Packet,
    pub(super) direction: Direction,
}

/// What decided.
pub(super) struct Decided {
    pub(super) reason: Option<DropReason>,
    pub(super) because: String,
    pub(super) rule: Option<Named>,
}

impl Case<'_> {
    pub(super) fn answer(&self, pod: &str) -> Result<Answer> {
        let node = self.maps.node.get(&0, 0).ok().filter(|node| node.ifindex != 0);
        let exempt = exempt(&self.packet, self.direction, &self.endpoint);
        let flow = self.flow()?;
        let asked = self.policies(node.as_ref())?;
        let decided = self.decide(node.as_ref(), exempt, flow.as_ref(), &asked)?;
        let (rule_id, group_id) = decided.rule.map(|rule| (rule.rule_id, rule.group_id)).unzip();
        Ok(Answer {
            pod: pod.to_owned(),
            verdict: if decided.reason.is_none() { "allowed" } else { "dropped" },
            reason: decided.reason.map(DropReason::name),
            because: decided.because,
            rule_id,
            group_id,
            peer: self.names.peer(self.packet.remote(self.direction)),
            way: self.way(node.as_ref()),
            exempt,
            asked,
            flow: match flow {
                Some((key, flow)) => Some(Row::of(self.maps, &key, &flow, monotonic_ns()?)),
                None => None,
            },
        })
    }

    /// Whether it leaves under the node's address, as `leaving` in the programs has it.
    fn is_translated(&self) -> bool {
        let excluded = || self.maps.excluded.get(&Key::new(ADDR_BITS, self.packet.destination), 0).is_ok();
        self.direction == Direction::Outbound
            && self.endpoint.settings & SNAT != 0
            && self.packet.family == Family::V4
            && !excluded()
    }

    fn way(&self, node: Option<&Node>) -> String {
        match (self.is_translated(), node, self.direction) {
            (_, _, Direction::Inbound) => "to the pod's own address".into(),
            (false, ..) => self.untranslated(),
            (true, None, _) => "under the node's address, which is not known yet".into(),
            (true, Some(node), _) => {
                let (who, addr) = (judges(node.policy), address(&node.addr));
                format!("translated to the node's address {addr}: judged by {who} (--snat-policy)")
            }
        }
    }

    /// Why it keeps the pod's address; what excludes it is named, where it would be translated else.
    fn untranslated(&self) -> String {
        let covers = |(bits, net): &(u32, Addr)| {
            let (net, addr) = (u128::from_be_bytes(net.bytes), u128::from_be_bytes(self.packet.destination.bytes));
            (net ^ addr).checked_shr(ADDR_BITS - bits).unwrap_or_default() == 0
        };
        let nets = self.maps.excluded.keys().flatten().map(|key| (key.prefix_len(), key.data())).filter(covers);
        match nets.max().filter(|_| self.endpoint.settings & SNAT != 0) {
            Some(net) => format!(
                "under the pod's own address: {} is not translated (the VPC's, or AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS)",
                prefix(net)
            ),
            None => "under the pod's own address".into(),
        }
    }

    /// Whose rules are asked, in order.
    fn policies(&self, node: Option<&Node>) -> Result<Vec<Asked>> {
        let policy = node.filter(|_| self.is_translated()).map(|node| node.policy);
        let mut asked = Vec::new();
        if policy != Some(SnatPolicy::Node) {
            asked.push(self.ask(&self.endpoint, "the pod's"));
        }
        if let (Some(SnatPolicy::Node | SnatPolicy::Both), Some(node)) = (policy, node) {
            let primary =
                self.maps.endpoints.get(&node.endpoint, 0).context("reading the primary interface's endpoint")?;
            asked.push(self.ask(&primary, "the node's"));
        }
        Ok(asked)
    }

    fn ask(&self, of: &Endpoint, whose: &str) -> Asked {
        let set = GroupSetId(of.group_set);
        let mut asked = Asked {
            of: format!("{whose} groups: {}", self.names.set(set)),
            policy: policy_name(set),
            set,
            rules_allowing_service: None,
            rules_allowing_address: Vec::new(),
            rules_allowing_group: Vec::new(),
            rule: None,
            tracked: true,
        };
        let Some(trie) = self.maps.policy(set) else { return asked };
        let peer = self.maps.group_set_of(self.packet.remote(self.direction)).map(|set| set.0);
        let lookup = |bits, selector| trie.get(&Key::new(bits, selector), 0).ok();
        let found = explain(lookup, &self.packet, self.direction, peer);
        let (bits, service) = Selector::service(&Question::of(&self.packet, self.direction));
        asked.tracked = !lookup(bits, service).is_some_and(|answer| answer.is_untracked(self.packet.protocol));
        let policy_digest = digest(&trie);
        let named = |indices: &[usize]| indices.iter().map(|index| self.named(policy_digest, *index as u16)).collect();
        asked.rules_allowing_service = Some(named(&found.service));
        asked.rules_allowing_address = named(&found.remote);
        asked.rules_allowing_group = named(&found.peer);
        asked.rule = found.rule.map(|rule| self.named(policy_digest, rule));
        asked
    }

    pub(super) fn named(&self, policy_digest: u64, rule: u16) -> Named {
        let (direction, family) = (self.direction, self.packet.family);
        let key = RuleKey { policy_digest, rule, direction, family, reserved: [0; 4] };
        let (rule_id, group_id) = self.maps.rule_name(&key).unwrap_or_else(|| (format!("#{rule}"), "?".into()));
        Named { rule_id, group_id }
    }

    fn decide(
        &self,
        node: Option<&Node>,
        exempt: bool,
        flow: Option<&(FlowKey, Flow)>,
        asked: &[Asked],
    ) -> Result<Decided> {
        let by = |because: String| Decided { reason: None, because, rule: None };
        if exempt && !self.is_translated() {
            return Ok(by("EC2 never filters this".into()));
        }
        if let Some((_, flow)) = flow.filter(|(_, flow)| !self.is_attempt(flow) && !self.is_due(flow, node)) {
            let lives = if flow.tracking == Tracking::Tracked {
                "tracked: it outlives its rule"
            } else {
                "untracked, and its rule stands"
            };
            return Ok(by(format!("a live flow ({lives})")));
        }
        if self.is_translated() && (node.is_none() || self.packet.transport == Transport::None) {
            return Ok(self.refused(DropReason::SnatUnsupported, "what leaves under the node's address must be TCP, UDP or an ICMP query, and the primary interface known"));
        }
        if exempt {
            return Ok(by("EC2 never filters this".into()));
        }
        Ok(self.by_rules(asked).within_limits(self))
    }

    /// Whether nobody has answered yet what opened the flow: that says nothing of another attempt, from another port.
    fn is_attempt(&self, flow: &Flow) -> bool {
        flow.state == FlowState::Opening && flow.opened == self.direction
    }

    /// Every policy that is asked must allow it.
    fn by_rules(&self, asked: &[Asked]) -> Decided {
        for policy in asked {
            if policy.rules_allowing_service.is_none() {
                return self
                    .refused(DropReason::NoPolicy, "no policy is installed: `sgp-agent status` says what was refused");
            }
            if policy.rule.is_none() {
                return self.refused(DropReason::NoMatchingRule, &self.half_missing(policy));
            }
        }
        let Some(last) = asked.last() else { return self.refused(DropReason::NoPolicy, "no policy is asked") };
        let rule = last.rule.clone();
        let name = rule.as_ref().map(|rule| format!("rule {} of {}", rule.rule_id, rule.group_id)).unwrap_or_default();
        let tracked = if last.tracked { "a tracked flow" } else { "an untracked flow: it ends with its rule" };
        Decided { reason: None, because: format!("{name} ({tracked})"), rule }
    }

    /// Which half of which rule does not fit.
    fn half_missing(&self, asked: &Asked) -> String {
        let service = asked.rules_allowing_service.as_ref().is_some_and(|rules| !rules.is_empty());
        let who = !asked.rules_allowing_address.is_empty() || !asked.rules_allowing_group.is_empty();
        let why = match (service, who) {
            (false, false) => "no rule allows the service, and none the address or its groups".to_owned(),
            (false, true) => "rules allow the address, but none of them this service".to_owned(),
            (true, false) => format!(
                "rules allow the service, but none of them this address or its groups: {}",
                self.who_is_wanted(asked)
            ),
            (true, true) => "some rules allow the service and others the address, but none both".to_owned(),
        };
        let related = self.packet.is_icmp_error() && self.endpoint.settings & RELATED_ICMP != 0;
        let related = if related { "; an error that quotes a live flow passes by it (--related-icmp)" } else { "" };
        format!("{why} ({}){related}", asked.of)
    }

    pub(super) fn refused(&self, reason: DropReason, why: &str) -> Decided {
        Decided { reason: Some(reason), because: format!("{}: {why}", reason.name()), rule: None }
    }

    /// Whether the rules have changed since the flow was judged, and it does not outlive that.
    fn is_due(&self, flow: &Flow, node: Option<&Node>) -> bool {
        if flow.tracking == Tracking::Tracked && self.endpoint.settings & CUT_ON_REVOKE == 0 {
            return false;
        }
        let primary =
            || node.and_then(|node| self.maps.endpoints.get(&node.endpoint, 0).ok()).map_or(0, |it| self.revision(&it));
        let revision = match node.filter(|_| flow.nat_port != 0).map(|node| node.policy) {
            None | Some(SnatPolicy::Pod) => self.revision(&self.endpoint),
            Some(SnatPolicy::Node) => primary(),
            Some(SnatPolicy::Both) => primary() ^ self.revision(&self.endpoint),
        };
        flow.revision != revision
    }

    fn revision(&self, endpoint: &Endpoint) -> u64 {
        self.maps.revisions.get(&endpoint.group_set, 0).unwrap_or_default()
    }

    /// A live flow to this service, from any port of the other side.
    fn flow(&self) -> Result<Option<(FlowKey, Flow)>> {
        let now_ns = monotonic_ns()?;
        let Some(wanted) = FlowKey::of(self.id, &self.packet, self.direction) else { return Ok(None) };
        let same = |key: &FlowKey| {
            let service = match self.direction {
                Direction::Inbound => key.local_port == wanted.local_port,
                Direction::Outbound => key.remote_port == wanted.remote_port,
            };
            key.endpoint == self.id
                && key.remote_addr == wanted.remote_addr
                && key.protocol == wanted.protocol
                && service
        };
        let mut live =
            self.maps.flows.iter().flatten().filter(|(key, flow)| {
                same(key) && flow.opened == self.direction && is_live(self.maps, key, flow, now_ns)
            });
        Ok(live.next())
    }
}
