//! `explain`: asks the installed maps what the programs would ask them.

mod answer;
mod case;
mod misfit;

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use sgp_common::addr::{UNSPECIFIED, v4_mapped};
use sgp_common::endpoint::Endpoint;
use sgp_common::packet::{ICMP, ICMPV6, Packet, TCP, Transport, UDP};
use sgp_common::{Addr, Direction, Family};

use super::variables::NodeFiles;
use super::view::View;
use answer::Answer;
use case::Case;
use misfit::Names;

const EXAMPLES: &str = "Examples:
  sgp-agent explain shop/cart-0 in tcp 10.0.2.20 443
  sgp-agent explain shop/cart-0 out udp 10.0.0.10 53 --json
  sgp-agent explain shop/cart-0 in icmp 10.0.2.20 8
It asks the maps as they are installed, and names each lookup.";

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
    files: NodeFiles,
    #[command(flatten)]
    view: View,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    In,
    Out,
}

pub(super) fn print(question: &Question) -> Result<()> {
    let maps = question.view.maps()?;
    let id = maps.endpoint_of(&question.pod)?;
    let endpoint = maps.endpoints.get(&id.0, 0).with_context(|| format!("reading the endpoint of {}", question.pod))?;
    let (packet, direction) = (question.packet(&endpoint)?, question.direction());
    let names = Names::of(&maps, &question.files.runtime_dir);
    let case = Case { maps: &maps, names: &names, id: id.0, endpoint, packet, direction };
    question.view.one(&case.answer(&question.pod)?, Answer::text)
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
            IpAddr::V6(addr) => (Family::V6, addr.octets().into(), endpoint.ipv6),
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
