//! What is measured of each configuration.

use crate::lane::Far;
use crate::traffic::Sender;

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Measure {
    /// Packets from the pod, of this many flows that stand.
    Out(u32),
    /// Packets to the pod, likewise.
    In(u32),
    /// Packets from the pod, of which each opens a flow.
    New,
    /// Streams of TCP from the pod.
    Tcp(usize),
    /// Connections that the pod opens, asks on, and closes.
    Connections,
    /// Questions and answers on one connection.
    Requests,
}

impl Measure {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Out(1 << 10),
        Self::Out(1 << 16),
        Self::In(1 << 10),
        Self::New,
        Self::Tcp(1),
        Self::Tcp(4),
        Self::Connections,
        Self::Requests,
    ];

    /// Whether programs at both ends take part.
    pub(crate) fn is_by_sockets(self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Connections | Self::Requests)
    }

    /// Who sends what is counted. What is translated is not asked from far: answers come from there.
    pub(crate) fn sender(self, far: Far) -> Sender {
        match (self, far) {
            (Self::In(_), Far::Vpc) => Sender::Outside,
            (Self::In(_), Far::Beyond) => Sender::Answering,
            _ => Sender::Pod,
        }
    }

    /// As tables call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Out(flows) => format!("out, {flows} flows"),
            Self::In(flows) => format!("in, {flows} flows"),
            Self::New => "new flows".into(),
            Self::Tcp(1) => "TCP, 1 stream".into(),
            Self::Tcp(streams) => format!("TCP, {streams} streams"),
            Self::Connections => "connections".into(),
            Self::Requests => "requests".into(),
        }
    }

    /// Of what a second has so many.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Out(_) | Self::In(_) | Self::New => "packets",
            Self::Tcp(_) => "bytes",
            Self::Connections => "connections",
            Self::Requests => "requests",
        }
    }
}
