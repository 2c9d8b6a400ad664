//! Loading, pinning and attaching the programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::{Program, ProgramError, ProgramInfo, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use sgp_common::pins::{self, map, program};
use sha2::{Digest, Sha256};

use super::attachment::Attachment;
use super::early;
use super::maps::{Maps, PinDirs};
use super::{succession, tcx, trial};
use crate::domain::installed::Link;

/// The object that `cargo xtask build` made, or nothing.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sgp.bpf.o"));

/// The programs, pinned, and how they are held on interfaces.
pub(super) struct Programs {
    pub(super) attachment: Attachment,
    programs: Vec<(&'static str, SchedClassifier)>,
    /// The trunk's.
    pub(super) early: Xdp,
}

/// What the programs are loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Packets of pods.
    Enforcement,
    /// Packets of a test or of `sgp-agent check`.
    Trial,
}

/// Makes sure that the pinned programs are those of the embedded object: takes them over where they are,
/// else loads them against the pinned maps and puts them behind every link, without a gap.
///
/// # Errors
/// Where the object is not embedded, a map is pinned in another shape, or the verifier refuses.
pub(super) fn ensure(dirs: &PinDirs, purpose: Purpose, attachment: Attachment) -> Result<Programs> {
    if OBJECT.is_empty() {
        bail!("this sgp-agent was built without the data path: run `cargo xtask build`");
    }
    ensure_object(OBJECT, dirs, purpose, attachment)
}

/// Likewise of an object that need not be the embedded one.
pub(super) fn ensure_object(
    object: &[u8],
    dirs: &PinDirs,
    purpose: Purpose,
    attachment: Attachment,
) -> Result<Programs> {
    let wanted = digest(object);
    if let Ok(maps) = Maps::open(dirs)
        && maps.object.get(&0, 0).ok() == Some(wanted)
        && let Ok(programs) = Programs::from_pins(dirs, attachment)
    {
        return Ok(programs);
    }
    succession::carry(dirs)?;
    let mut programs = load(object, dirs, purpose, attachment)?;
    // Filters are found by name alone, and an older layout's wait for theirs until all that ours ask is there.
    if attachment == Attachment::Tcx || succession::predecessor(dirs)?.is_none() {
        programs.replace(dirs)?;
    }
    early::replace(dirs, &programs.early)?;
    Maps::open(dirs)?.object.set(0, wanted, 0).context("recording which object the programs came from")?;
    Ok(programs)
}

fn digest(object: &[u8]) -> u64 {
    let hash = Sha256::digest(object);
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

fn load(object: &[u8], dirs: &PinDirs, purpose: Purpose, attachment: Attachment) -> Result<Programs> {
    for name in [pins::MAPS, pins::LINKS, pins::PROGRAMS, pins::POLICIES] {
        let dir = dirs.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let trial: &[&str] = if purpose == Purpose::Trial { &[map::CLOCK, map::OUTCOME] } else { &[] };
    let paths: Vec<_> = map::ALL.iter().chain(trial).map(|name| (*name, dirs.map(name))).collect();
    let mut loader = EbpfLoader::new();
    let test = u8::from(purpose == Purpose::Trial);
    loader.override_global(map::TEST, &test, true);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let mut object = loader.load(object).context("loading the data path's maps")?;
    for name in program::ALL {
        let program: &mut SchedClassifier = found(&mut object, name)?;
        program.load().with_context(|| format!("the kernel's verifier on program {name}"))?;
        pin_program(name, &dirs.program(name), |path| Ok(program.pin(path)?))?;
    }
    let name = program::FROM_TRUNK;
    let program: &mut Xdp = found(&mut object, name)?;
    program.load().with_context(|| format!("the kernel's verifier on program {name}"))?;
    pin_program(name, &dirs.program(name), |path| Ok(program.pin(path)?))?;
    Programs::from_pins(dirs, attachment)
}

/// A program of the object, of the kind that it is for.
fn found<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let found = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    found.try_into().with_context(|| format!("program {name}"))
}

/// Pins under a passing name first: the pin is one or the other program, never missing.
fn pin_program(name: &str, path: &Path, pin: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let passing = path.with_file_name(format!("{name}-new"));
    // Left by a run that was stopped here; if it cannot go, pinning says so.
    drop(fs::remove_file(&passing));
    pin(&passing).with_context(|| format!("pinning program {name}"))?;
    fs::rename(&passing, path).with_context(|| format!("renaming the pin of program {name}"))
}

/// What a program cost the verifier, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Its name.
    pub program: &'static str,
    /// Instructions the verifier walked, of a million it allows (Linux 5.16 tells).
    pub verified_instructions: Option<u32>,
    /// Bytes of the translated program.
    pub bytes: Option<u32>,
}

impl Programs {
    /// What each cost.
    pub(super) fn costs(&self) -> Vec<Cost> {
        let cost = |(program, info): (&'static str, Option<ProgramInfo>)| Cost {
            program,
            verified_instructions: info.as_ref().and_then(ProgramInfo::verified_instruction_count),
            bytes: info.and_then(|info| info.size_translated()),
        };
        let tc = self.programs.iter().map(|(name, program)| (*name, program.info().ok()));
        tc.chain([(program::FROM_TRUNK, self.early.info().ok())]).map(cost).collect()
    }

    fn from_pins(dirs: &PinDirs, attachment: Attachment) -> Result<Self> {
        Ok(Self { attachment, programs: pinned(dirs)?, early: trial::early(dirs)? })
    }

    /// Id of one of the programs, for readers of its log map.
    pub(super) fn any_id(&self) -> Option<u32> {
        self.programs.first().and_then(|(_, program)| program.info().ok()).map(|info| info.id())
    }

    fn get(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let found = self.programs.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, program)| program).with_context(|| format!("there is no program {name}"))
    }

    fn replace(&mut self, dirs: &PinDirs) -> Result<()> {
        let attachment = self.attachment;
        self.programs.iter_mut().try_for_each(|(name, program)| attachment.replace(dirs, name, program))
    }

    /// Does something with each, by name.
    pub(super) fn each(&mut self, mut act: impl FnMut(&'static str, &mut SchedClassifier) -> Result<()>) -> Result<()> {
        self.programs.iter_mut().try_for_each(|(name, program)| act(name, program))
    }

    /// Puts ours in the place of an older layout's.
    pub(super) fn take_over(&mut self, old: &PinDirs, dirs: &PinDirs) -> Result<()> {
        let attachment = self.attachment;
        self.programs.iter_mut().try_for_each(|(name, program)| attachment.take_over(old, dirs, name, program))
    }

    /// Takes a program off an interface.
    pub(super) fn detach(&self, dirs: &PinDirs, link: &Link) -> Result<()> {
        if link.program == program::FROM_TRUNK {
            return tcx::detach(dirs, link).with_context(|| format!("taking XDP off {}", link.interface));
        }
        self.attachment.detach(dirs, link)
    }

    /// Attaches a program to an interface, in place of one that may be there.
    pub(super) fn attach(&mut self, dirs: &PinDirs, link: &Link) -> Result<()> {
        let attachment = self.attachment;
        attachment.attach(dirs, self.get(link.program)?, link)
    }
}

fn pinned(dirs: &PinDirs) -> Result<Vec<(&'static str, SchedClassifier)>> {
    let open = |name: &'static str| {
        let pinned = SchedClassifier::from_pin(dirs.program(name));
        Ok((name, pinned.with_context(|| format!("opening the pinned program {name}"))?))
    };
    program::ALL.into_iter().map(open).collect()
}

/// The kernel's ids of the pinned programs.
///
/// # Errors
/// Where one is not pinned.
pub(super) fn ids(dirs: &PinDirs) -> Result<BTreeMap<&'static str, u32>> {
    let id = |(name, program): (&'static str, SchedClassifier)| {
        Ok((name, program.info().with_context(|| format!("reading the program {name}"))?.id()))
    };
    pinned(dirs)?.into_iter().map(id).collect()
}
