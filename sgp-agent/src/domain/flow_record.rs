//! A line of the flow log: the fields of VPC flow logs (version 5), under their names, and what EC2 does not say: the pod,
//! its peer, the rule, and the reason for a drop.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use sgp_common::event::Event;
use sgp_common::packet::TCP;
use sgp_common::{Addr, Direction, DropReason};

/// One sampled verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FlowRecord {
    /// Version of VPC flow logs whose fields these are.
    pub version: u8,
    /// The branch, `eni-…`; empty where no endpoint was found.
    pub interface_id: String,
    /// Source address.
    pub srcaddr: String,
    /// Destination address.
    pub dstaddr: String,
    /// Source port.
    pub srcport: u16,
    /// Destination port.
    pub dstport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 1: a record is one packet, not an interval's sum.
    pub packets: u64,
    /// Bytes of the IP packet.
    pub bytes: u64,
    /// Unix time, seconds.
    pub start: u64,
    /// The same as `start`.
    pub end: u64,
    /// `ACCEPT` or `REJECT`.
    pub action: String,
    /// `OK`.
    pub log_status: String,
    /// TCP flags of the packet, else 0.
    pub tcp_flags: u8,
    /// `IPv4` or `IPv6`.
    #[serde(rename = "type")]
    pub family: String,
    /// `ingress` to the pod, `egress` from it.
    pub flow_direction: String,
    /// `namespace/name`.
    pub pod: String,
    /// Who is at the other end: a pod of this node, or the group set of the address.
    pub peer: Option<String>,
    /// The rule that allowed it, `sgr-…`.
    pub rule_id: Option<String>,
    /// The group of that rule, `sg-…`.
    pub group_id: Option<String>,
    /// Why it was dropped, by `DropReason`.
    pub drop_reason: Option<String>,
}

/// What people call the things in an event.
#[derive(Clone, Debug, Default)]
pub struct EventNames {
    /// `namespace/name`.
    pub pod: String,
    /// `eni-…`.
    pub interface_id: String,
    /// See [`FlowRecord::peer`].
    pub peer: Option<String>,
    /// (`sgr-…`, `sg-…`) of the rule.
    pub rule: Option<(String, String)>,
}

impl FlowRecord {
    /// Of an event that happened at `seconds` (Unix time).
    pub fn of(event: &Event, names: EventNames, seconds: u64) -> Self {
        let reason = DropReason::from_code(event.reason);
        let local = (text(&event.local_addr), event.local_port);
        let remote = (text(&event.remote_addr), event.remote_port);
        let ((source, destination), way) = match event.direction {
            Direction::Inbound => ((remote, local), "ingress"),
            Direction::Outbound => ((local, remote), "egress"),
        };
        let (rule_id, group_id) = names.rule.unzip();
        Self {
            version: 5,
            interface_id: names.interface_id,
            family: if source.0.contains(':') { "IPv6" } else { "IPv4" }.to_owned(),
            srcaddr: source.0,
            dstaddr: destination.0,
            srcport: source.1,
            dstport: destination.1,
            protocol: event.protocol,
            packets: 1,
            bytes: u64::from(event.length),
            start: seconds,
            end: seconds,
            action: if reason.is_some() { "REJECT" } else { "ACCEPT" }.to_owned(),
            log_status: "OK".to_owned(),
            tcp_flags: if event.protocol == TCP { event.flags } else { 0 },
            flow_direction: way.to_owned(),
            pod: names.pod,
            peer: names.peer,
            rule_id,
            group_id,
            drop_reason: reason.map(|reason| reason.name().to_owned()),
        }
    }
}

fn text(addr: &Addr) -> String {
    Ipv6Addr::from(addr.bytes).to_canonical().to_string()
}

#[cfg(test)]
mod tests {
    use sgp_common::addr::v4_mapped;

    use super::*;

    #[test]
    fn a_dropped_packet_of_a_pod_is_an_egress_record_with_its_reason() {
        let event = Event {
            time_ns: 0,
            endpoint: 1,
            policy_digest: 0,
            local_addr: v4_mapped([10, 0, 2, 20]),
            remote_addr: v4_mapped([10, 0, 3, 1]),
            local_port: 40_000,
            remote_port: 53,
            ifindex: 7,
            length: 60,
            rule: u16::MAX,
            protocol: 17,
            direction: Direction::Outbound,
            reason: DropReason::NoMatchingRule as u8,
            flags: 0,
            reserved: [0; 6],
        };
        let names = EventNames {
            pod: "shop/cart".into(),
            interface_id: "eni-1".into(),
            peer: Some("shop/db".into()),
            rule: None,
        };
        let line = serde_json::to_value(FlowRecord::of(&event, names, 99)).expect("a record is JSON");
        let field = |name: &str| line[name].clone();
        assert_eq!(
            (field("srcaddr"), field("dstport"), field("flow-direction"), field("action"), field("type")),
            ("10.0.2.20".into(), 53.into(), "egress".into(), "REJECT".into(), "IPv4".into())
        );
        assert_eq!(
            (field("drop-reason"), field("rule-id"), field("start")),
            ("NoMatchingRule".into(), ().into(), 99.into())
        );
    }
}
