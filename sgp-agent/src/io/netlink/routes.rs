//! Routes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use sgp_common::addr::Family;

use super::{Netlink, gone};
use crate::domain::restoring::Standing;
use crate::domain::wiring::{CLOSED_METRIC, MAIN};

/// A route; without a router it is on the link, without a device it leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Router, if any; it must be on the link by a route of the same table.
    pub via: Option<IpAddr>,
    /// Interface index.
    pub device: Option<u32>,
    /// Table.
    pub table: u32,
}

/// A route to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// The address.
    pub to: IpAddr,
    /// Interface index.
    pub device: u32,
}

impl Netlink {
    /// Adds a route, or replaces the one to the same destination.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn put_route(&self, route: &Route) -> Result<()> {
        let context = || format!("adding the route to {} in table {}", route.to, route.table);
        let message = message(route).with_context(context)?;
        self.handle.route().add(message).replace().execute().await.with_context(context)
    }

    /// Every route of a family to a single address that can be a pod's, of all tables.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn host_routes(&self, family: Family) -> Result<Vec<HostRoute>> {
        Ok(self.routes(family).await?.iter().filter_map(host_route).collect())
    }

    /// Every route of a family that leads out of an interface: table, destination, index of the interface.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn device_routes(&self, family: Family) -> Result<BTreeSet<Standing>> {
        let everywhere = if family == Family::V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let standing = |route: &RouteMessage| {
            let to = destination(route).unwrap_or(everywhere);
            Some((table_of(route), IpNet::new(to, route.header.destination_prefix_length).ok()?, device_of(route)?))
        };
        Ok(self.routes(family).await?.iter().filter_map(standing).collect())
    }

    /// Index of the interface that the default route of a family leaves by, if there is one: the one asked first.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn default_device(&self, family: Family) -> Result<Option<u32>> {
        let routes = self.routes(family).await?;
        let ways = routes.iter().filter(|route| {
            route.header.destination_prefix_length == 0
                && table_of(route) == MAIN
                && route.header.kind == RouteType::Unicast
        });
        let found = ways.filter_map(|route| Some((metric_of(route), device_of(route)?))).min();
        Ok(found.map(|(_, device)| device))
    }

    /// Removes every route of a table.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn empty_table(&self, family: Family, table: u32) -> Result<()> {
        for route in self.routes(family).await?.into_iter().filter(|route| table_of(route) == table) {
            let removed = gone(self.handle.route().del(route).execute().await);
            removed.with_context(|| format!("emptying table {table}"))?;
        }
        Ok(())
    }

    async fn routes(&self, family: Family) -> Result<Vec<RouteMessage>> {
        let filter = match family {
            Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let one = |told| if let RouteNetlinkMessage::NewRoute(route) = told { Some(route) } else { None };
        self.list(RouteNetlinkMessage::GetRoute(filter), one).await.context("listing routes")
    }
}

fn message(route: &Route) -> Result<RouteMessage> {
    let builder = RouteMessageBuilder::<IpAddr>::new().table_id(route.table);
    let builder = builder.destination_prefix(route.to.addr(), route.to.prefix_len())?;
    let Some(device) = route.device else {
        return Ok(builder.kind(RouteType::Unreachable).priority(CLOSED_METRIC).build());
    };
    let builder = builder.output_interface(device);
    Ok(match route.via {
        Some(router) => builder.gateway(router)?.build(),
        None => builder.scope(RouteScope::Link).build(),
    })
}

fn host_route(route: &RouteMessage) -> Option<HostRoute> {
    let to = destination(route)?;
    let full = if to.is_ipv4() { 32 } else { 128 };
    let of_a_link = matches!(to, IpAddr::V6(addr) if addr.is_unicast_link_local());
    let single = route.header.destination_prefix_length == full && !to.is_multicast() && !of_a_link;
    single.then_some(HostRoute { to, device: device_of(route)? })
}

/// The destination; a default route names none.
fn destination(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        RouteAttribute::Destination(RouteAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })
}

fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|one| if let RouteAttribute::Oif(device) = one { Some(*device) } else { None })
}

fn metric_of(route: &RouteMessage) -> u32 {
    let metric =
        route.attributes.iter().find_map(|one| if let RouteAttribute::Priority(it) = one { Some(*it) } else { None });
    metric.unwrap_or(0)
}

/// The header has room for one byte; the attribute says all of it.
fn table_of(route: &RouteMessage) -> u32 {
    let table = route
        .attributes
        .iter()
        .find_map(|one| if let RouteAttribute::Table(table) = one { Some(*table) } else { None });
    table.unwrap_or_else(|| route.header.table.into())
}
