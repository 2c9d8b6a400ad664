//! Loading, pinning and attaching the tc programs.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::{SchedClassifier, TcAttachType, tc::TcAttachOptions};
use aya::{Ebpf, EbpfLoader};
use sgp_common::pins::{self, map, program};
use sha2::{Digest, Sha256};

use super::maps::{Maps, PinDirs};
use super::sys;
use crate::domain::installed::Link;

/// The object that `cargo xtask build` made, or nothing.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sgp.bpf.o"));

/// The four programs, pinned.
pub(super) struct Programs {
    programs: Vec<(&'static str, SchedClassifier)>,
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
pub(super) fn ensure(dirs: &PinDirs, purpose: Purpose) -> Result<Programs> {
    if OBJECT.is_empty() {
        bail!("this sgp-agent was built without the data path: run `cargo xtask build`");
    }
    let wanted = object_digest();
    if let Ok(maps) = Maps::open(dirs)
        && maps.object.get(&0, 0).ok() == Some(wanted)
        && let Ok(programs) = Programs::from_pins(dirs)
    {
        return Ok(programs);
    }
    let mut programs = load(dirs, purpose)?;
    programs.replace_links(dirs)?;
    Maps::open(dirs)?.object.set(0, wanted, 0).context("recording which object the programs came from")?;
    Ok(programs)
}

fn object_digest() -> u64 {
    let hash = Sha256::digest(OBJECT);
    u64::from_be_bytes(std::array::from_fn(|i| hash[i]))
}

fn load(dirs: &PinDirs, purpose: Purpose) -> Result<Programs> {
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
    let mut object = loader.load(OBJECT).context("loading the data path's maps")?;
    for name in program::ALL {
        pin_program(&mut object, name, &dirs.program(name))?;
    }
    Programs::from_pins(dirs)
}

/// Pins under a passing name first: the pin is one or the other program, never missing.
fn pin_program(object: &mut Ebpf, name: &'static str, path: &Path) -> Result<()> {
    let found = object.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    let program: &mut SchedClassifier = found.try_into().with_context(|| format!("program {name}"))?;
    program.load().with_context(|| format!("the kernel's verifier on program {name}"))?;
    let passing = path.with_file_name(format!("{name}-new"));
    // Left by a run that was stopped here; if it cannot go, pinning says so.
    drop(fs::remove_file(&passing));
    program.pin(&passing).with_context(|| format!("pinning program {name}"))?;
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
        let cost = |(program, loaded): &(&'static str, SchedClassifier)| {
            let info = loaded.info().ok();
            Cost {
                program,
                verified_instructions: info.as_ref().and_then(|info| info.verified_instruction_count()),
                bytes: info.and_then(|info| info.size_translated()),
            }
        };
        self.programs.iter().map(cost).collect()
    }

    fn from_pins(dirs: &PinDirs) -> Result<Self> {
        let open = |name: &'static str| {
            let pinned = SchedClassifier::from_pin(dirs.program(name));
            Ok((name, pinned.with_context(|| format!("opening the pinned program {name}"))?))
        };
        Ok(Self { programs: program::ALL.into_iter().map(open).collect::<Result<_>>()? })
    }

    /// Id of one of the programs, for readers of its log map.
    pub(super) fn any_id(&self) -> Option<u32> {
        self.programs.first().and_then(|(_, program)| program.info().ok()).map(|info| info.id())
    }

    fn get(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let found = self.programs.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, program)| program).with_context(|| format!("there is no program {name}"))
    }

    fn replace_links(&mut self, dirs: &PinDirs) -> Result<()> {
        for link in links(dirs)?.into_iter().filter(|link| link.ifindex != 0) {
            let pinned = open_link(dirs, &link)?;
            let program = self.get(link.program)?;
            let fd = program.fd().context("a loaded program has a descriptor")?;
            sys::replace_program(pinned.as_fd(), fd.as_fd())
                .with_context(|| format!("replacing {} on {}", link.program, link.interface))?;
        }
        Ok(())
    }

    /// Attaches a program to an interface and pins the link (tcx, Linux 6.6).
    pub(super) fn attach(&mut self, dirs: &PinDirs, link: &Link) -> Result<()> {
        let context = || format!("attaching {} to {}", link.program, link.interface);
        detach(dirs, link)?;
        let hook = hook(link.program);
        let program = self.get(link.program)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(&link.interface, hook, options).with_context(context)?;
        let attached: FdLink = program.take_link(id).with_context(context)?.try_into().with_context(context)?;
        attached.pin(dirs.links().join(link_pin(link))).with_context(context).map(drop)
    }
}

/// Removes a link's pin; the kernel detaches the program with it.
pub(super) fn detach(dirs: &PinDirs, link: &Link) -> Result<()> {
    let path = dirs.links().join(link_pin(link));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing the link {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn hook(name: &str) -> TcAttachType {
    match name {
        program::TO_POD | program::TO_BRANCH => TcAttachType::Egress,
        _ => TcAttachType::Ingress,
    }
}

/// bpffs refuses dots in names, and interface names do not hold slashes: `vlan.eth.3` becomes `vlan:eth:3`.
fn link_pin(link: &Link) -> String {
    format!("{}-{}", link.interface.replace('.', ":"), link.program)
}

fn open_link(dirs: &PinDirs, link: &Link) -> Result<OwnedFd> {
    let path = dirs.links().join(link_pin(link));
    sys::open_pin(&path).with_context(|| format!("opening the link {}", path.display()))
}

/// Every pinned link, and what it is attached to now.
///
/// # Errors
/// Where the directory or a link cannot be read.
pub(super) fn links(dirs: &PinDirs) -> Result<BTreeSet<Link>> {
    let path = dirs.links();
    let entries = fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut links = BTreeSet::new();
    for mut link in names.filter_map(|name| parse_pin(&name)) {
        link.ifindex = sys::link_info(open_link(dirs, &link)?.as_fd())?.ifindex;
        links.insert(link);
    }
    Ok(links)
}

fn parse_pin(name: &str) -> Option<Link> {
    let (interface, program) = name.rsplit_once('-')?;
    let program = program::ALL.into_iter().find(|known| *known == program)?;
    Some(Link { interface: interface.replace(':', "."), ifindex: 0, program })
}
