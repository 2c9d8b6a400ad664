//! BPF programs, maps and links: read `Installed`, apply node steps.

mod attachment;
mod clsact;
mod counts;
mod early;
mod held;
pub mod maps;
mod names;
mod others;
mod peers;
mod policies;
pub mod preflight;
mod programs;
mod readback;
mod slots;
mod succession;
mod sweep;
mod sys;
mod tcx;
pub mod trial;
mod uninstall;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use sgp_common::Addr;
use sgp_common::pins::map;
use sgp_common::snat::SnatKey;

use crate::domain::desired::EndpointPlan;
use crate::domain::groups::EndpointId;
use crate::domain::installed::Installed;
use crate::domain::leaving::NodePlan;
use crate::domain::plan::Step;
pub use attachment::Attachment;
pub use counts::Counted;
use held::Held;
use maps::{Maps, PinDirs, gone};
pub use others::{shared, without_ours};
pub use programs::Cost;
use programs::{Programs, Purpose};
pub use readback::attached;
use readback::{prefixes, read_back};
use slots::Slots;
pub use sweep::Swept;
pub use uninstall::uninstall;

/// What enforces: the kernel, or a model of it in tests.
pub trait Kernel: Send {
    /// Puts back what somebody took away from under the running agent.
    ///
    /// # Errors
    /// Where it cannot be put back; what enforces goes on as long as this process.
    fn restore(&mut self) -> Result<()>;
    /// Reads back what is installed.
    ///
    /// # Errors
    /// Where a map or link cannot be read.
    fn installed(&self) -> Result<Installed>;
    /// Takes one step.
    ///
    /// # Errors
    /// Names the object; the step can be taken again.
    fn apply(&mut self, step: &Step) -> Result<()>;
    /// Reclaims memory.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    fn sweep(&mut self) -> Result<Swept>;
}

/// The real one.
pub struct Bpf {
    dirs: PinDirs,
    maps: Maps,
    programs: Programs,
    slots: Slots,
    held: Held,
    /// Reply keys that the last sweep found without a flow: the data path writes them before it.
    suspects: BTreeSet<SnatKey>,
    peers: peers::Known,
}

impl Bpf {
    /// Takes over what is pinned below `bpf_dir`, or loads and pins it.
    ///
    /// # Errors
    /// One sentence each for: no permission, no bpffs, a kernel too old, an object that was not built in.
    /// What a failed first start made is taken away again.
    pub fn open(bpf_dir: &Path) -> Result<Self> {
        Self::open_by(bpf_dir, Attachment::offered()?)
    }

    /// Loads it below a directory of its own for packets on trial: the programs take the time from the map `CLOCK` and
    /// write each verdict to `OUTCOME`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for_trial(bpf_dir: &Path) -> Result<Self> {
        Self::open_for(bpf_dir, Purpose::Trial, Attachment::offered()?, programs::ensure)
    }

    /// Takes it over or loads it, with programs attached in a way that need not be the best one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_by(bpf_dir: &Path, attachment: Attachment) -> Result<Self> {
        Self::open_for(bpf_dir, Purpose::Enforcement, attachment, programs::ensure)
    }

    /// Likewise with the programs of another object than the embedded one, whose maps must have the same layout: how a
    /// benchmark compares two versions.
    ///
    /// # Errors
    /// As [`Self::open`]; where a map has another type.
    pub fn open_object(bpf_dir: &Path, attachment: Attachment, object: &[u8]) -> Result<Self> {
        let ensure = |dirs: &PinDirs, purpose, attachment| programs::ensure_object(object, dirs, purpose, attachment);
        Self::open_for(bpf_dir, Purpose::Enforcement, attachment, ensure)
    }

    fn open_for(
        bpf_dir: &Path,
        purpose: Purpose,
        attachment: Attachment,
        ensure: impl FnOnce(&PinDirs, Purpose, Attachment) -> Result<Programs>,
    ) -> Result<Self> {
        preflight::check(bpf_dir)?;
        succession::refuse_newer(bpf_dir)?;
        let dirs = PinDirs::new(bpf_dir);
        let first = !dirs.root.exists();
        let opened = ensure(&dirs, purpose, attachment);
        let opened = opened.and_then(|programs| Ok((Maps::open(&dirs)?, programs, Held::open(&dirs)?)));
        match opened {
            Ok((maps, programs, held)) => Ok(Self {
                dirs,
                maps,
                programs,
                slots: Slots::default(),
                held,
                suspects: BTreeSet::new(),
                peers: peers::Known::default(),
            }),
            Err(error) => {
                if first {
                    // The error that is returned matters more than one of cleaning up.
                    drop(fs::remove_dir_all(&dirs.root));
                }
                Err(error)
            }
        }
    }

    /// Id of one of the programs: its log map is where all of them log.
    pub fn program_id(&self) -> Option<u32> {
        self.programs.any_id()
    }

    /// What each program cost the verifier.
    pub fn costs(&self) -> Vec<Cost> {
        self.programs.costs()
    }

    /// Where everything is pinned.
    pub fn dirs(&self) -> &PinDirs {
        &self.dirs
    }

    fn put_endpoint(&mut self, id: EndpointId, plan: &EndpointPlan) -> Result<()> {
        self.maps.names.insert(id.0, plan.name, 0).context("writing ENDPOINT_NAMES")?;
        let before = self.maps.endpoints.get(&id.0, 0).map(|before| before.vlan_id);
        if before.ok() != Some(plan.endpoint.vlan_id) {
            self.maps.count_anew(plan.endpoint.vlan_id)?;
        }
        self.slots.put(&mut self.maps.endpoints, map::ENDPOINTS, id.0, plan.endpoint)?;
        let stale = self.addresses_of(id).into_iter().filter(|addr| !plan.addresses.contains(addr));
        for addr in stale.collect::<Vec<_>>() {
            self.slots.remove(&mut self.maps.local, map::LOCAL, &addr)?;
        }
        for addr in &plan.addresses {
            self.slots.put(&mut self.maps.local, map::LOCAL, *addr, id.0)?;
        }
        Ok(())
    }

    /// What is excluded first: for a moment too little is translated, and that leaves by the branch, where it is judged.
    fn put_node(&mut self, plan: &NodePlan) -> Result<()> {
        self.slots.put(&mut self.maps.endpoints, map::ENDPOINTS, plan.id.0, plan.endpoint)?;
        let known = prefixes(&self.maps.excluded);
        for (bits, addr) in plan.excluded.difference(&known) {
            self.maps.excluded.insert(&Key::new(*bits, *addr), 1, 0).context("SNAT_EXCLUDED has no room")?;
        }
        for (bits, addr) in known.difference(&plan.excluded) {
            gone(self.maps.excluded.remove(&Key::new(*bits, *addr))).context("writing SNAT_EXCLUDED")?;
        }
        self.slots.put(&mut self.maps.node, map::NODE, 0, plan.node)
    }

    fn remove_endpoint(&mut self, id: EndpointId) -> Result<()> {
        for addr in self.addresses_of(id) {
            self.slots.remove(&mut self.maps.local, map::LOCAL, &addr)?;
        }
        self.slots.remove(&mut self.maps.endpoints, map::ENDPOINTS, &id.0)?;
        gone(self.maps.names.remove(&id.0)).context("writing ENDPOINT_NAMES")
    }

    fn addresses_of(&self, id: EndpointId) -> Vec<Addr> {
        self.maps.local.iter().flatten().filter(|(_, owner)| *owner == id.0).map(|(addr, _)| addr).collect()
    }
}

impl Kernel for Bpf {
    fn restore(&mut self) -> Result<()> {
        self.held.restore(&self.dirs, &self.maps, &mut self.programs)
    }

    fn installed(&self) -> Result<Installed> {
        let peers = self.peers.get(&self.maps)?;
        Ok(Installed { peers, ..read_back(&self.maps, &self.dirs, self.programs.attachment)? })
    }

    fn apply(&mut self, step: &Step) -> Result<()> {
        let done = self.take(step);
        if !matches!(step, Step::RemovePeer(_) | Step::PutPeer(..) | Step::PutPolicy(..)) {
            // Also after an error: part of it may have been done.
            self.tell_programs()?;
        }
        done
    }

    fn sweep(&mut self) -> Result<Swept> {
        self.peers.forget();
        // Flows are shared with programs that know endpoints which are not written here yet.
        if succession::predecessor(&self.dirs)?.is_some() {
            return Ok(Swept::default());
        }
        sweep::sweep(&mut self.maps, &mut self.suspects)
    }
}

impl Bpf {
    /// Has programs read interfaces, endpoints and revisions again.
    fn tell_programs(&mut self) -> Result<()> {
        let changes = self.maps.changes.get(&0, 0).context("reading CHANGES")?;
        self.maps.changes.set(0, changes.wrapping_add(1), 0).context("writing CHANGES")
    }

    fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::RemovePeer(addr) => self.peers.put(&mut self.maps, addr, None),
            Step::PutPolicy(id, policy) => policies::put(&mut self.maps, &self.dirs, *id, policy),
            Step::PutPeer(addr, set) => self.peers.put(&mut self.maps, addr, Some(*set)),
            Step::PutRevision(id, revision) => {
                self.maps.revisions.insert(id.0, revision, 0).context("writing REVISIONS")
            }
            Step::PutEndpoint(id, plan) => self.put_endpoint(*id, plan),
            Step::PutNode(plan) => self.put_node(plan),
            Step::PutInterface(index, interface) => {
                self.slots.put(&mut self.maps.interfaces, map::INTERFACES, *index, *interface)
            }
            Step::Attach(link) => {
                self.programs.attach(&self.dirs, link)?;
                self.held.look(&self.dirs)
            }
            Step::TakeOver(version) => {
                succession::take_over(&mut self.programs, &self.dirs, *version)?;
                self.held.look(&self.dirs)
            }
            Step::AttachEarly(link, how) => {
                early::attach(&self.dirs, &mut self.programs.early, link, *how)?;
                self.held.look(&self.dirs)
            }
            Step::PutStackNet((bits, addr)) => {
                self.maps.stack_nets.insert(&Key::new(*bits, *addr), 1, 0).context("STACK_NETS has no room")
            }
            Step::RemoveStackNet((bits, addr)) => {
                gone(self.maps.stack_nets.remove(&Key::new(*bits, *addr))).context("writing STACK_NETS")
            }
            Step::PutVlan(id, told) => self.maps.vlans.set(u32::from(*id), told, 0).context("writing VLANS"),
            Step::Detach(link) => {
                self.programs.detach(&self.dirs, link)?;
                self.held.look(&self.dirs)
            }
            Step::RemoveInterface(index) => self.slots.remove(&mut self.maps.interfaces, map::INTERFACES, index),
            Step::RemoveEndpoint(id) => self.remove_endpoint(*id),
            Step::RemovePolicy(id) => {
                policies::remove(&mut self.maps, &self.dirs, *id)?;
                gone(self.maps.revisions.remove(&id.0)).context("writing REVISIONS")
            }
        }
    }
}
