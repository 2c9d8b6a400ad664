//! Whole lists, one at a time: what a connection shared by the loop and by those that look after each of its rounds must see to.

use std::time::Duration;

use futures::StreamExt;
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Error, Handle};

use super::{Netlink, errno};

/// How often a list is asked for that changes while it is read. The last answer is taken as it is: iproute2 does so after one, and
/// some kernels say "changed" of lists that did not.
const ATTEMPTS: u32 = 5;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

impl Netlink {
    /// Everything that answers a request for a list, in the form `one` takes out.
    ///
    /// A socket reads one list at a time, and answers EBUSY to who asks for another meanwhile (`__netlink_dump_start`). It is still
    /// busy where somebody stopped listening in the middle of one.
    ///
    /// # Errors
    /// Where the kernel refuses, or answers with something else.
    pub(super) async fn list<T>(
        &self,
        request: RouteNetlinkMessage,
        one: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let _turn = self.turn.lock().await;
        for _ in 1..ATTEMPTS {
            match read(&self.handle, request.clone(), &one).await {
                Ok((list, Seen::Whole)) => return Ok(list),
                Err(error) if errno(&error) != Some(libc::EBUSY) => return Err(error),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        read(&self.handle, request, &one).await.map(|(list, _)| list)
    }
}

/// Whether things came or went while the kernel told of them, so that one may be missing that stood all the time.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    Whole,
    Changing,
}

async fn read<T>(
    handle: &Handle,
    request: RouteNetlinkMessage,
    one: impl Fn(RouteNetlinkMessage) -> Option<T>,
) -> Result<(Vec<T>, Seen), Error> {
    let mut request = NetlinkMessage::from(request);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.clone().request(request)?;
    let (mut list, mut seen) = (Vec::new(), Seen::Whole);
    while let Some(answer) = answers.next().await {
        if answer.header.flags & NLM_F_DUMP_INTR != 0 {
            seen = Seen::Changing;
        }
        match answer.payload {
            NetlinkPayload::Error(error) => return Err(Error::NetlinkError(error)),
            NetlinkPayload::InnerMessage(message) => list.extend(one(message)),
            payload => return Err(Error::UnexpectedMessage(NetlinkMessage::new(answer.header, payload))),
        }
    }
    Ok((list, seen))
}
