//! Links, addresses, routes, rules and neighbours of the network namespace the calling thread is in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, MulticastGroup, new_connection,
    new_multicast_connection,
};
use sgp_common::addr::Family;
use tokio::sync::Mutex;

use crate::domain::observed::{LinkFacts, Queued, Vlan};

mod listing;
mod routes;
mod rules;

pub use routes::{HostRoute, Route};

/// A connection to the kernel's routing tables.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    /// Held by who is reading a list.
    turn: Arc<Mutex<()>>,
}

impl Netlink {
    /// Connects, in the namespace of the calling thread; needs a tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no netlink socket.
    pub fn connect() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle, turn: Arc::default() })
    }

    /// Every link.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn links(&self) -> Result<Vec<LinkFacts>> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let one = |told| if let RouteNetlinkMessage::NewLink(link) = told { facts(link) } else { None };
        self.list(all, one).await.context("listing links")
    }

    /// The link of a name, if there is one.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn link(&self, name: &str) -> Result<Option<LinkFacts>> {
        Ok(self.links().await?.into_iter().find(|link| link.name == name))
    }

    /// MTU of a link.
    ///
    /// # Errors
    /// Where the link is gone.
    pub async fn mtu(&self, index: u32) -> Result<u32> {
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        let found = found.with_context(|| format!("asking for link {index}"))?;
        let of = |attribute: &LinkAttribute| if let LinkAttribute::Mtu(mtu) = attribute { Some(*mtu) } else { None };
        found.and_then(|link| link.attributes.iter().find_map(of)).with_context(|| format!("link {index} has no MTU"))
    }

    /// Whether a link is set up; one that is gone is not.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub async fn is_up(&self, index: u32) -> Result<bool> {
        match self.handle.link().get().match_index(index).execute().try_next().await {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(false),
            found => {
                let found = found.with_context(|| format!("asking for link {index}"))?;
                Ok(found.is_some_and(|link| link.header.flags.contains(LinkFlags::Up)))
            }
        }
    }

    /// MAC address of the other end of a veth, in whichever namespace; `None` where it has none that can be seen.
    ///
    /// # Errors
    /// Where the link is gone.
    pub async fn peer_mac(&self, index: u32) -> Result<Option<[u8; 6]>> {
        let context = || format!("asking for the other end of link {index}");
        let own = self.handle.link().get().match_index(index).execute().try_next().await.with_context(context)?;
        let own = own.map(|link| link.attributes).unwrap_or_default();
        let peer = own.iter().find_map(|one| if let LinkAttribute::Link(peer) = one { Some(*peer) } else { None });
        let Some(peer) = peer else { return Ok(None) };
        let space = own.iter().find_map(|one| if let LinkAttribute::LinkNetNsId(id) = one { Some(*id) } else { None });
        let mut request = self.handle.link().get().match_index(peer);
        request.message_mut().attributes.extend(space.map(LinkAttribute::IfNetnsId));
        let peer = request.execute().try_next().await.with_context(context)?;
        Ok(peer.and_then(facts).map(|link| link.mac))
    }

    /// Creates a veth pair, both ends here, down and of one MTU.
    ///
    /// # Errors
    /// Where a name is taken, or the kernel refuses.
    pub async fn add_veth(&self, name: &str, peer: &str, mtu: u32) -> Result<()> {
        let message = LinkVeth::new(name, peer).mtu(mtu).build();
        self.handle.link().add(message).execute().await.with_context(|| format!("creating the veth {name}"))?;
        // The kernel gives the other end its own default.
        let other = self.link(peer).await?.with_context(|| format!("the link {peer} is gone"))?;
        self.set(other.index, |link| link.mtu(mtu)).await
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

    /// Every address of the namespace's own.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn own_addresses(&self) -> Result<BTreeSet<IpAddr>> {
        Ok(self.addresses().await?.iter().flat_map(addresses).collect())
    }

    /// Addresses of a link that may not be used yet, or turned out to be another's too.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub async fn tentative_addresses(&self, index: u32) -> Result<Vec<IpAddr>> {
        let all = self.addresses().await?;
        Ok(all.iter().filter(|message| message.header.index == index).filter_map(tentative).collect())
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>> {
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let one = |told| if let RouteNetlinkMessage::NewAddress(address) = told { Some(address) } else { None };
        self.list(all, one).await.context("listing addresses")
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

/// Calls `notify` whenever a link, an address, a filter or queue on one, or a routing rule of IPv4 appears, changes or goes, for as long as the process lives.
///
/// # Errors
/// Where the kernel gives no netlink socket.
pub fn watch_links(notify: impl Fn() + Send + 'static) -> Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Tc,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, _, mut messages) =
        new_multicast_connection(&groups).context("opening a netlink socket for link changes")?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            notify();
        }
    });
    Ok(())
}

fn tentative(message: &AddressMessage) -> Option<IpAddr> {
    let doubtful = message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        _ => false,
    });
    addresses(message).next().filter(|_| doubtful)
}

/// The address, and of a point-to-point link the near one.
fn addresses(message: &AddressMessage) -> impl Iterator<Item = IpAddr> {
    message.attributes.iter().filter_map(|attribute| match attribute {
        AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
}

/// The qdisc of interfaces that have no queue: of veths and VLAN links, unless somebody gives them one.
const UNQUEUED: &str = "noqueue";

fn facts(message: LinkMessage) -> Option<LinkFacts> {
    let mut link = LinkFacts { index: message.header.index, ..LinkFacts::default() };
    let (mut parent, mut vlan_id) = (0, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => parent = index,
            LinkAttribute::LinkInfo(infos) => vlan_id = infos.iter().find_map(vlan_id_in),
            LinkAttribute::Xdp(told) => link.others_xdp = told.iter().find_map(program_in),
            LinkAttribute::Qdisc(name) if name != UNQUEUED => link.queued = Queued::Yes,
            _ => {}
        }
    }
    link.vlan = vlan_id.map(|id| Vlan { parent, id });
    (!link.name.is_empty()).then_some(link)
}

fn vlan_id_in(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(told)) = info else { return None };
    told.iter().find_map(|one| if let InfoVlan::Id(id) = one { Some(*id) } else { None })
}

fn program_in(told: &LinkXdp) -> Option<u32> {
    if let LinkXdp::ProgId(id) = told { Some(*id) } else { None }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
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
