//! Routing rules: `domain::routing::RoutingRule` to and from the kernel's own form.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{IpProtocol, RouteNetlinkMessage};
use sgp_common::addr::Family;

use super::{Netlink, address_family, errno, gone};
use crate::domain::routing::{Packets, RoutingRule};

/// Protocol number (IANA).
const ICMPV6: IpProtocol = IpProtocol::Other(58);

impl Netlink {
    /// Adds a rule; one that stands already is fine.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn add_rule(&self, rule: &RoutingRule) -> Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = message(rule);
        match request.execute().await {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            result => result.with_context(|| format!("adding the routing rule \"{rule}\"")),
        }
    }

    /// Rules of a family, in the order in which the kernel asks them. Rules that say more than ours can are
    /// left out.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn rules(&self, family: Family) -> Result<Vec<RoutingRule>> {
        let mut all = RuleMessage::default();
        all.header.family = address_family(family);
        let one = |told| if let RouteNetlinkMessage::NewRule(message) = told { rule(family, &message) } else { None };
        match self.list(RouteNetlinkMessage::GetRule(all), one).await {
            // A kernel started without IPv6 has no rules of it.
            Err(error) if errno(&error) == Some(libc::EAFNOSUPPORT) => Ok(Vec::new()),
            listed => listed.context("listing rules"),
        }
    }

    /// Removes a rule; one that is gone already is fine. The kernel removes the first that fits: of priority 0,
    /// which it takes for "any", that may be another.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn delete_rule(&self, rule: &RoutingRule) -> Result<()> {
        let removed = gone(self.handle.rule().del(message(rule)).execute().await);
        removed.with_context(|| format!("removing the routing rule \"{rule}\""))
    }
}

fn message(rule: &RoutingRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.header.action = if rule.table.is_some() { RuleAction::ToTable } else { RuleAction::Unreachable };
    message.attributes = vec![RuleAttribute::Priority(rule.priority)];
    message.attributes.extend(rule.table.map(RuleAttribute::Table));
    let full = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    match &rule.packets {
        Packets::All => {}
        Packets::From(address) => {
            message.header.src_len = full(address);
            message.attributes.push(RuleAttribute::Source(*address));
        }
        Packets::Icmpv6From(address) => {
            message.header.src_len = 128;
            message.attributes.push(RuleAttribute::Source((*address).into()));
            message.attributes.push(RuleAttribute::IpProtocol(ICMPV6));
        }
        Packets::To(net) => {
            message.header.dst_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Destination(net.addr()));
        }
        Packets::CameBy(name) => message.attributes.push(RuleAttribute::Iifname(name.clone())),
        Packets::Marked(mark) => {
            message.attributes.extend([RuleAttribute::FwMark(*mark), RuleAttribute::FwMask(*mark)]);
        }
    }
    message
}

/// What the kernel says of a rule, as far as it has a part in ours.
#[derive(Default)]
struct Said {
    priority: u32,
    table: Option<u32>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    came_by: Option<String>,
    mark: Option<u32>,
    mask: Option<u32>,
    icmpv6: bool,
}

fn rule(family: Family, message: &RuleMessage) -> Option<RoutingRule> {
    let said = said(message)?;
    let table = match message.header.action {
        RuleAction::ToTable => Some(said.table.unwrap_or_else(|| message.header.table.into())),
        RuleAction::Unreachable => None,
        _ => return None,
    };
    let (src_len, dst_len) = (message.header.src_len, message.header.dst_len);
    let packets = match (said.source, said.destination, said.came_by, said.mark) {
        (None, None, None, None) => Packets::All,
        (Some(IpAddr::V6(from)), None, None, None) if said.icmpv6 && src_len == 128 => Packets::Icmpv6From(from),
        (Some(from), None, None, None) if src_len == if from.is_ipv4() { 32 } else { 128 } => Packets::From(from),
        (None, Some(to), None, None) => Packets::To(IpNet::new(to, dst_len).ok()?),
        (None, None, Some(name), None) => Packets::CameBy(name),
        (None, None, None, Some(mark)) if said.mask == Some(mark) => Packets::Marked(mark),
        _ => return None,
    };
    let odd = said.icmpv6 && !matches!(packets, Packets::Icmpv6From(_));
    (!odd).then_some(RoutingRule { family, priority: said.priority, packets, table })
}

/// `None` where the rule says something that no rule of ours says.
fn said(message: &RuleMessage) -> Option<Said> {
    if message.header.tos != 0 || message.header.flags.contains(RuleFlags::Invert) {
        return None;
    }
    let mut said = Said::default();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => said.priority = *priority,
            RuleAttribute::Table(table) => said.table = Some(*table),
            RuleAttribute::Source(address) => said.source = Some(*address),
            RuleAttribute::Destination(address) => said.destination = Some(*address),
            RuleAttribute::Iifname(name) => said.came_by = Some(name.clone()),
            RuleAttribute::FwMark(mark) => said.mark = Some(*mark),
            RuleAttribute::FwMask(mask) => said.mask = Some(*mask),
            RuleAttribute::IpProtocol(ICMPV6) => said.icmpv6 = true,
            // Who made it, and what the kernel adds to each: "suppress nothing".
            RuleAttribute::Protocol(_)
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            _ => return None,
        }
    }
    Some(said)
}
