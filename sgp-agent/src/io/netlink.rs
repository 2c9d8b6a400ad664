//! Links, addresses, routes, rules and neighbours of the network namespace the calling thread is in.

use std::net::IpAddr;
use std::os::fd::RawFd;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{
    Error, Handle, IpVersion, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, MulticastGroup, RouteMessageBuilder,
    new_connection, new_multicast_connection,
};

use crate::domain::observed::LinkFacts;

/// A connection to the kernel's routing tables.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

/// A routing rule of ours: traffic to or from one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodRule {
    /// Its priority.
    pub priority: u32,
    /// The table it leads to; `None` leads nowhere: the packet is unreachable.
    pub table: Option<u32>,
    /// Which end of the packet the address is.
    pub end: End,
    /// The address.
    pub address: IpAddr,
}

/// An end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Traffic from the address.
    Source,
    /// Traffic to the address.
    Destination,
}

/// A route; without a router it is on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Router, if any.
    pub via: Option<IpAddr>,
    /// Interface index.
    pub device: u32,
    /// Table.
    pub table: u32,
}

impl Netlink {
    /// Connects, in the namespace of the calling thread; needs a tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no netlink socket.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every link.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn links(&self) -> Result<Vec<LinkFacts>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.context("listing links")?;
        Ok(messages.into_iter().filter_map(facts).collect())
    }

    /// The link of a name, if there is one.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn link(&self, name: &str) -> Result<Option<LinkFacts>> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    /// Creates a veth pair, both ends here and down.
    ///
    /// # Errors
    /// Where a name is taken, or the kernel refuses.
    pub async fn add_veth(&self, name: &str, peer: &str, mtu: u32) -> Result<()> {
        let message = LinkVeth::new(name, peer).mtu(mtu).build();
        self.handle.link().add(message).execute().await.with_context(|| format!("creating the veth {name}"))
    }

    /// Creates a VLAN link on a trunk, down.
    ///
    /// # Errors
    /// EOPNOTSUPP on a kernel without 8021q.
    pub async fn add_vlan(&self, name: &str, trunk: u32, vlan_id: u16, mac: [u8; 6]) -> Result<()> {
        let message = LinkVlan::new(name, trunk, vlan_id).address(mac.to_vec()).build();
        self.handle.link().add(message).execute().await.with_context(|| format!("creating the VLAN link {name}"))
    }

    /// Changes a link.
    ///
    /// # Errors
    /// Where the link is gone, or the kernel refuses.
    pub async fn set(
        &self,
        index: u32,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let message = change(LinkUnspec::new_with_index(index)).build();
        self.handle.link().set(message).execute().await.with_context(|| format!("changing link {index}"))
    }

    /// Moves a link into another namespace.
    ///
    /// # Errors
    /// Where the link is gone, or the descriptor is no namespace.
    pub async fn move_to(&self, index: u32, namespace: RawFd) -> Result<()> {
        self.set(index, |link| link.setns_by_fd(namespace)).await
    }

    /// Deletes a link; one that is gone already is fine.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        gone(self.handle.link().del(link.index).execute().await).with_context(|| format!("deleting the link {name}"))
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let added = self.handle.address().add(index, address.addr(), address.prefix_len()).execute().await;
        added.with_context(|| format!("adding the address {address}"))
    }

    /// Adds a route, or replaces the one to the same destination.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn put_route(&self, route: &Route) -> Result<()> {
        let context = || format!("adding the route to {} in table {}", route.to, route.table);
        let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(route.device).table_id(route.table);
        let builder = builder.destination_prefix(route.to.addr(), route.to.prefix_len()).with_context(context)?;
        let message = match route.via {
            Some(router) => builder.gateway(router).with_context(context)?.onlink().build(),
            None => builder.scope(RouteScope::Link).build(),
        };
        self.handle.route().add(message).replace().execute().await.with_context(context)
    }

    /// Every route of a family, of all tables.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn routes(&self, version: IpVersion) -> Result<Vec<rtnetlink::packet_route::route::RouteMessage>> {
        let filter = match version {
            IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        self.handle.route().get(filter).execute().try_collect().await.context("listing routes")
    }

    /// Adds a rule; one that stands already is fine.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn add_rule(&self, rule: &PodRule) -> Result<()> {
        let request = self.handle.rule().add().priority(rule.priority);
        let request = match rule.table {
            Some(table) => request.action(RuleAction::ToTable).table_id(table),
            None => request.action(RuleAction::Unreachable),
        };
        let result = match (rule.address, rule.end) {
            (IpAddr::V4(addr), End::Source) => request.v4().source_prefix(addr, 32).execute().await,
            (IpAddr::V4(addr), End::Destination) => request.v4().destination_prefix(addr, 32).execute().await,
            (IpAddr::V6(addr), End::Source) => request.v6().source_prefix(addr, 128).execute().await,
            (IpAddr::V6(addr), End::Destination) => request.v6().destination_prefix(addr, 128).execute().await,
        };
        match result {
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
            result => result.with_context(|| format!("adding the rule {} for {}", rule.priority, rule.address)),
        }
    }

    /// Rules of a priority, as the kernel lists them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn rules(&self, version: IpVersion, priority: u32) -> Result<Vec<RuleMessage>> {
        let all: Vec<RuleMessage> =
            self.handle.rule().get(version).execute().try_collect().await.context("listing rules")?;
        let ours = |rule: &RuleMessage| rule.attributes.contains(&RuleAttribute::Priority(priority));
        Ok(all.into_iter().filter(ours).collect())
    }

    /// Removes a rule; one that is gone already is fine.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn delete_rule(&self, rule: RuleMessage) -> Result<()> {
        gone(self.handle.rule().del(rule).execute().await).context("removing a rule")
    }

    /// Pins a neighbour: its address will never be asked for.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn put_neighbour(&self, device: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let request = self.handle.neighbours().add(device, address).link_layer_address(&mac);
        let added = request.state(NeighbourState::Permanent).replace().execute().await;
        added.with_context(|| format!("pinning the neighbour {address}"))
    }
}

/// Calls `notify` whenever a link appears, changes or goes, for as long as the process lives.
///
/// # Errors
/// Where the kernel gives no netlink socket.
pub fn watch_links(notify: impl Fn() + Send + 'static) -> Result<()> {
    let (connection, _, mut messages) =
        new_multicast_connection(&[MulticastGroup::Link]).context("opening a netlink socket for link changes")?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            notify();
        }
    });
    Ok(())
}

fn facts(message: LinkMessage) -> Option<LinkFacts> {
    let mut link = LinkFacts { name: String::new(), index: message.header.index, mac: [0; 6], alias: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().unwrap_or_default(),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

/// A thing that is not there need not be removed.
fn gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV)) => Ok(()),
        result => result,
    }
}
