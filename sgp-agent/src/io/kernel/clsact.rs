//! Filters of the clsact qdisc: how a program is held on an interface where the kernel has no tcx links (before
//! Linux 6.6). A filter cannot be pinned; it stands until it is deleted or its interface goes, and is found again by
//! its place: priority, handle, and the name of its program. Filters at other places are somebody else's, and so is
//! the qdisc, which is added where it is missing and never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use anyhow::{Context, Result, bail};
use aya::programs::links::Link as _;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use futures::TryStreamExt;
use nix::net::if_::if_nameindex;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use rtnetlink::{Error, Handle, new_connection};
use sgp_common::pins::program;

use super::attachment::hook;
use super::maps::PinDirs;
use super::programs;
use crate::domain::installed::Link;

/// Before every other priority. Others use it too (AWS's network policy agent does, with handle 1).
const PRIORITY: u16 = 1;
/// Among filters of one priority the kernel asks the youngest first. So ours comes to the front, and stays in force
/// meanwhile, by standing at the other of two handles before the first is given up.
const HANDLES: [u16; 2] = [0x5347, 0x5348];

/// A filter of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filter {
    interface: String,
    ifindex: u32,
    program: &'static str,
    program_id: u32,
    handle: u16,
    /// Whether the kernel asks it before every other filter of its hook.
    is_first: bool,
}

impl Filter {
    /// aya's view of it; dropping that deletes the filter.
    fn link(&self) -> Result<SchedClassifierLink> {
        let handle = TcHandle::new(0, self.handle);
        SchedClassifierLink::attached(&self.interface, hook(self.program), PRIORITY, handle, None)
            .with_context(|| format!("looking for the interface {}", self.interface))
    }

    fn delete(&self) -> Result<()> {
        match self.link()?.detach() {
            Err(error) if !is_gone(&error) => {
                Err(error).with_context(|| format!("deleting the filter {} of {}", self.program, self.interface))
            }
            _ => Ok(()),
        }
    }
}

/// Attaches a program at the front of its hook.
pub(super) fn attach(program: &mut SchedClassifier, link: &Link) -> Result<()> {
    provide_qdisc(&link.interface)?;
    let mut before = standing(Some(&link.interface))?;
    before.retain(|filter| filter.program == link.program);
    // Two stand where an earlier try was stopped: the one that is asked first goes on until ours is there.
    for filter in before.split_off(before.len().min(1)) {
        filter.delete()?;
    }
    let taken = before.first().map(|filter| filter.handle);
    let handle = HANDLES.into_iter().find(|handle| Some(*handle) != taken).unwrap_or(HANDLES[0]);
    let options = NlOptions { priority: PRIORITY, handle: TcHandle::new(0, handle), classid: None };
    let id = program.attach_with_options(&link.interface, hook(link.program), TcAttachOptions::Netlink(options));
    let id = id.with_context(|| format!("adding a filter of priority {PRIORITY}, handle {handle:#x}"))?;
    keep(program.take_link(id)?);
    before.iter().try_for_each(Filter::delete)
}

/// Takes a program's filters off an interface.
pub(super) fn detach(link: &Link) -> Result<()> {
    let standing = standing(Some(&link.interface))?;
    standing.iter().filter(|filter| filter.program == link.program).try_for_each(Filter::delete)
}

/// Puts a program into every filter of its name.
pub(super) fn replace(name: &'static str, program: &mut SchedClassifier) -> Result<()> {
    for filter in standing(None)?.into_iter().filter(|filter| filter.program == name) {
        let id = program.attach_to_link(filter.link()?);
        let id = id.with_context(|| format!("replacing {name} on {}", filter.interface))?;
        keep(program.take_link(id)?);
    }
    Ok(())
}

/// The filters that do what they are for: they run the program that is pinned, and nothing comes before them. Others
/// are left out, so that they are planned anew.
pub(super) fn links(dirs: &PinDirs) -> Result<BTreeSet<Link>> {
    let pinned: BTreeMap<&str, u32> = programs::ids(dirs)?;
    let works = |filter: &Filter| filter.is_first && pinned.get(filter.program) == Some(&filter.program_id);
    let link = |Filter { interface, ifindex, program, .. }| Link { interface, ifindex, program };
    Ok(standing(None)?.into_iter().filter(works).map(link).collect())
}

/// Deletes every filter of ours.
pub(super) fn remove_all() -> Result<()> {
    standing(None)?.iter().try_for_each(Filter::delete)
}

/// Those of some interfaces, by index, at which somebody else has filters.
pub(super) fn others(interfaces: &[(String, u32)]) -> Result<BTreeSet<u32>> {
    let hooks = listed(interfaces)?;
    let foreign = |(name, index, messages): &(String, u32, Vec<TcMessage>)| {
        (filters(messages).count() > ours_of(name, *index, messages).len()).then_some(*index)
    };
    Ok(hooks.iter().filter_map(foreign).collect())
}

fn provide_qdisc(interface: &str) -> Result<()> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result.context("adding the qdisc clsact (kernel module sch_ingress)"),
    }
}

/// aya deletes a filter when its link is dropped; ours outlive the agent.
fn keep(link: SchedClassifierLink) {
    std::mem::forget(link);
}

fn is_gone(error: &ProgramError) -> bool {
    let code = match error {
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    matches!(code, Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
}

/// Our filters on one interface, or on all of the namespace, in the order in which the kernel asks them.
fn standing(interface: Option<&str>) -> Result<Vec<Filter>> {
    let all = if_nameindex().context("listing interfaces")?;
    let named = all.iter().map(|found| (found.name().to_string_lossy().into_owned(), found.index()));
    let interfaces: Vec<(String, u32)> = named.filter(|(name, _)| interface.is_none_or(|only| only == name)).collect();
    Ok(listed(&interfaces)?.iter().flat_map(|(name, index, messages)| ours_of(name, *index, messages)).collect())
}

/// All filters of some interfaces, by hook.
fn listed(interfaces: &[(String, u32)]) -> Result<Vec<(String, u32, Vec<TcMessage>)>> {
    // A thread of its own, since the caller's may be driving futures already; it is in the caller's namespace.
    let read = thread::scope(|scope| scope.spawn(|| read(interfaces)).join());
    read.unwrap_or_else(|_| bail!("the thread that reads filters panicked"))
}

fn read(interfaces: &[(String, u32)]) -> Result<Vec<(String, u32, Vec<TcMessage>)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting a runtime")?;
    runtime.block_on(async {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        let mut hooks = Vec::new();
        for (name, index) in interfaces {
            for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
                let messages = dump(&handle, *index, hook).await;
                let messages = messages.with_context(|| format!("listing the filters of {name}"))?;
                hooks.push((name.clone(), *index, messages));
            }
        }
        Ok(hooks)
    })
}

async fn dump(handle: &Handle, index: u32, hook: TcAttachType) -> Result<Vec<TcMessage>, Error> {
    let request = handle.traffic_filter(index.cast_signed()).get();
    let request = if hook == TcAttachType::Egress { request.egress() } else { request.ingress() };
    match request.execute().try_collect().await {
        // Without the qdisc there are no filters; without the interface neither.
        Err(Error::NetlinkError(error)) if error.code.is_some_and(|code| absent(-code.get())) => Ok(Vec::new()),
        messages => messages,
    }
}

fn absent(errno: i32) -> bool {
    matches!(errno, libc::ENODEV | libc::ENOENT | libc::EINVAL)
}

/// Those of a hook's filters that are ours.
fn ours_of(interface: &str, ifindex: u32, messages: &[TcMessage]) -> Vec<Filter> {
    let placed = filters(messages).enumerate();
    placed.filter_map(|(place, message)| ours(interface, ifindex, message, place == 0)).collect()
}

/// Each priority is announced by a message of handle 0 that is no filter.
fn filters(messages: &[TcMessage]) -> impl Iterator<Item = &TcMessage> {
    messages.iter().filter(|message| u32::from(message.header.handle) != 0)
}

fn ours(interface: &str, ifindex: u32, message: &TcMessage, is_first: bool) -> Option<Filter> {
    let handle = u16::try_from(u32::from(message.header.handle)).ok().filter(|handle| HANDLES.contains(handle))?;
    let at_our_priority = message.header.info >> 16 == u32::from(PRIORITY);
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let (mut name, mut program_id) = (None, 0);
    for option in options {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(found)) => name = Some(found.trim_end_matches('\0')),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program_id = *id,
            _ => {}
        }
    }
    let program = program::ALL.into_iter().find(|known| Some(*known) == name).filter(|_| at_our_priority)?;
    Some(Filter { interface: interface.to_owned(), ifindex, program, program_id, handle, is_first })
}
