//! `explain`: asks the installed maps what the programs would ask them.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::Key;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sgp_common::addr::{UNSPECIFIED, v4_mapped};
use sgp_common::endpoint::Endpoint;
use sgp_common::exempt::exempt;
use sgp_common::flow::FlowKey;
use sgp_common::packet::{ICMP, ICMPV6, Packet, TCP, Transport, UDP};
use sgp_common::policy::RuleKey;
use sgp_common::{Addr, Direction, DropReason, Family};

use super::flows::{Row, is_live, monotonic_ns};
use super::view::View;
use crate::domain::explain::explain;
use crate::domain::groups::GroupSetId;
use crate::io::kernel::maps::{Maps, digest, policy_name};

const EXAMPLES: &str = "Examples:
  sgp-agent explain shop/cart-0 in tcp 10.0.2.20 443
  sgp-agent explain shop/cart-0 out udp 10.0.0.10 53 --json
  sgp-agent explain shop/cart-0 in icmp 10.0.2.20 8";

/// A packet of a pod, as a person thinks of it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Question {
    /// The pod, as NAMESPACE/NAME
    pod: String,
    /// in: to the pod; out: from the pod
    direction: Way,
    /// tcp, udp, icmp or a protocol number
    protocol: String,
    /// Address at the other end
    remote: IpAddr,
    /// Destination port; for icmp the type, or TYPE/CODE
    port: Option<String>,
    #[command(flatten)]
    view: View,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    In,
    Out,
}

/// What the maps say.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    verdict: &'static str,
    reason: Option<&'static str>,
    exempt: bool,
    rule_id: Option<String>,
    group_id: Option<String>,
    policy: String,
    peer_group_set: Option<String>,
    rules_allowing_service: Vec<usize>,
    rules_allowing_address: Vec<usize>,
    rules_allowing_group: Vec<usize>,
    flow: Option<Row>,
}

pub(super) fn print(question: &Question) -> Result<()> {
    let maps = question.view.maps()?;
    let answer = answer(question, &maps)?;
    question.view.one(&answer, text)
}

fn answer(question: &Question, maps: &Maps) -> Result<Answer> {
    let id = maps.endpoint_of(&question.pod)?;
    let endpoint = maps.endpoints.get(&id.0, 0).with_context(|| format!("reading the endpoint of {}", question.pod))?;
    let packet = question.packet(&endpoint)?;
    let direction = question.direction();
    let peer = maps.peers.get(packet.remote(direction), 0).ok().map(|peer| peer.group_set);
    let set = GroupSetId(endpoint.group_set);
    let mut answer = Answer {
        pod: question.pod.clone(),
        verdict: "dropped",
        reason: Some(DropReason::NoPolicy.name()),
        exempt: exempt(&packet, direction, &endpoint),
        rule_id: None,
        group_id: None,
        policy: policy_name(set),
        peer_group_set: peer.map(|peer| format!("{peer:016x}")),
        rules_allowing_service: Vec::new(),
        rules_allowing_address: Vec::new(),
        rules_allowing_group: Vec::new(),
        flow: flow(maps, id.0, &packet, direction)?,
    };
    if let Some(trie) = maps.policy(set) {
        let found = explain(|bits, selector| trie.get(&Key::new(bits, selector), 0).ok(), &packet, direction, peer);
        let named = found.rule.and_then(|rule| {
            let (policy_digest, family) = (digest(&trie), packet.family);
            maps.rule_name(&RuleKey { policy_digest, rule, direction, family, reserved: [0; 4] })
        });
        answer.reason = if found.rule.is_some() { None } else { Some(DropReason::NoMatchingRule.name()) };
        (answer.rule_id, answer.group_id) = named.unzip();
        answer.rules_allowing_service = found.service;
        answer.rules_allowing_address = found.remote;
        answer.rules_allowing_group = found.peer;
    }
    if answer.exempt || answer.flow.is_some() {
        answer.reason = None;
    }
    answer.verdict = if answer.reason.is_none() { "allowed" } else { "dropped" };
    Ok(answer)
}

/// A live flow to this service, from any port of the other side.
fn flow(maps: &Maps, endpoint: u64, packet: &Packet, direction: Direction) -> Result<Option<Row>> {
    let now_ns = monotonic_ns()?;
    let Some(wanted) = FlowKey::of(endpoint, packet, direction) else { return Ok(None) };
    let same = |key: &FlowKey| {
        let service = match direction {
            Direction::Inbound => key.local_port == wanted.local_port,
            Direction::Outbound => key.remote_port == wanted.remote_port,
        };
        key.endpoint == endpoint && key.remote_addr == wanted.remote_addr && key.protocol == wanted.protocol && service
    };
    let mut live = maps.flows.iter().flatten().filter(|(key, flow)| same(key) && is_live(maps, key, flow, now_ns));
    Ok(live.find(|(_, flow)| flow.opened == direction).map(|(key, flow)| Row::of(maps, &key, &flow, now_ns)))
}

impl Question {
    fn direction(&self) -> Direction {
        match self.direction {
            Way::In => Direction::Inbound,
            Way::Out => Direction::Outbound,
        }
    }

    fn packet(&self, endpoint: &Endpoint) -> Result<Packet> {
        let (family, remote, local) = match self.remote {
            IpAddr::V4(addr) => (Family::V4, v4_mapped(addr.octets()), endpoint.ipv4),
            IpAddr::V6(addr) => (Family::V6, addr.octets(), endpoint.ipv6),
        };
        if local == UNSPECIFIED {
            bail!("pod {} has no address of the family of {}", self.pod, self.remote);
        }
        let (source, destination): (Addr, Addr) = match self.direction() {
            Direction::Inbound => (remote, local),
            Direction::Outbound => (local, remote),
        };
        let protocol = protocol(&self.protocol, family)?;
        let (transport, destination_port, (icmp_type, icmp_code)) = self.service(protocol)?;
        Ok(Packet {
            source,
            destination,
            length: 60,
            destination_port,
            family,
            protocol,
            transport,
            icmp_type,
            icmp_code,
            ..Packet::EMPTY
        })
    }

    fn service(&self, protocol: u8) -> Result<(Transport, u16, (u8, u8))> {
        let missing = || format!("{} needs a port (or an ICMP type) after the address", self.protocol);
        match protocol {
            TCP | UDP => {
                let port = self.port.as_deref().with_context(missing)?;
                let port = port.parse().with_context(|| format!("{port:?} is no port"))?;
                Ok((Transport::Ports, port, (0, 0)))
            }
            ICMP | ICMPV6 => {
                let text = self.port.as_deref().with_context(missing)?;
                let (kind, code) = text.split_once('/').unwrap_or((text, "0"));
                let number = |text: &str| text.parse::<u8>().with_context(|| format!("{text:?} is no ICMP number"));
                Ok((Transport::Icmp, 0, (number(kind)?, number(code)?)))
            }
            _ => Ok((Transport::None, 0, (0, 0))),
        }
    }
}

fn protocol(text: &str, family: Family) -> Result<u8> {
    Ok(match (text, family) {
        ("tcp", _) => TCP,
        ("udp", _) => UDP,
        ("icmp", Family::V4) => ICMP,
        ("icmp" | "icmpv6", Family::V6) => ICMPV6,
        (number, _) => number.parse().with_context(|| format!("{number:?} is none of tcp, udp, icmp and no number"))?,
    })
}

fn text(answer: &Answer) -> String {
    let why = match (&answer.rule_id, &answer.group_id, &answer.flow, answer.reason) {
        (_, _, _, Some(reason)) => format!("reason {reason}"),
        _ if answer.exempt => "EC2 never filters this".to_owned(),
        (Some(rule), Some(group), _, None) => format!("rule {rule} of {group}"),
        _ => "it belongs to a flow that was allowed before".to_owned(),
    };
    let list = |rules: &[usize]| if rules.is_empty() { "none".to_owned() } else { format!("{rules:?}") };
    format!(
        "{}: {why}\n  policy {}\n  rules that allow the service   {}\n  rules that allow the address   {}\n  \
         rules that allow its group set {} ({})\n  flow {}",
        answer.verdict,
        answer.policy,
        list(&answer.rules_allowing_service),
        list(&answer.rules_allowing_address),
        list(&answer.rules_allowing_group),
        answer.peer_group_set.as_deref().unwrap_or("no group set known"),
        if answer.flow.is_some() { "exists" } else { "none" },
    )
}
