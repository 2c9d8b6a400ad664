//! Packets on trial: put through the pinned programs without a wire (`BPF_PROG_TEST_RUN`), at a time of one's choice.

use anyhow::{Context, Result, bail};
use aya::TestRunOptions;
use aya::maps::{Array, MapData};
use aya::programs::{SchedClassifier, TestRun, Xdp};
use sgp_common::event::Outcome;
use sgp_common::pins::{map, program};

use super::maps::{PinDirs, pinned};

/// Where a packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Name of the program that sees it.
    pub program: &'static str,
    /// Interface it is on.
    pub ifindex: u32,
    /// Interface it came by; 0 for packets of the node itself.
    pub ingress: u32,
    /// Its mark.
    pub mark: u32,
}

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Whether it goes on.
    pub passed: bool,
    /// Whether it goes on by another interface.
    pub redirected: bool,
    /// The mark it came out with.
    pub mark: u32,
}

/// Programs that were loaded by [`super::Bpf::open_for_trial`].
pub struct Trial {
    programs: Vec<(&'static str, SchedClassifier)>,
    clock: Array<MapData, u64>,
    outcome: Array<MapData, Outcome>,
}

impl Trial {
    /// Opens them.
    ///
    /// # Errors
    /// Where a pin is missing: of programs that enforce, the clock and the outcome are not pinned.
    pub fn open(dirs: &PinDirs) -> Result<Self> {
        let program = |name: &'static str| {
            let opened = SchedClassifier::from_pin(dirs.program(name));
            Ok((name, opened.with_context(|| format!("opening the pinned program {name}"))?))
        };
        Ok(Self {
            programs: program::ALL.into_iter().map(program).collect::<Result<_>>()?,
            clock: pinned(dirs, map::CLOCK)?.try_into().context("CLOCK is no array")?,
            outcome: pinned(dirs, map::OUTCOME)?.try_into().context("OUTCOME is no array")?,
        })
    }

    /// Says what time it is for the programs, in nanoseconds.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn set_clock(&mut self, now_ns: u64) -> Result<()> {
        self.clock.set(0, now_ns, 0).context("writing CLOCK")
    }

    /// Puts a packet through a program, and tells what the program says of it.
    ///
    /// # Errors
    /// Where the kernel does not run the packet.
    pub fn run(&self, at: At, frame: &[u8]) -> Result<(Ran, Outcome)> {
        let found = self.programs.iter().find(|(name, _)| *name == at.program);
        let (_, program) = found.with_context(|| format!("there is no program {}", at.program))?;
        let ran = run(program, at, frame)?;
        Ok((ran, self.outcome.get(&0, 0).context("reading OUTCOME")?))
    }
}

/// Puts a packet through a program.
///
/// # Errors
/// Where the kernel does not run the packet: it has less than an IP header, or more than fits into a page (some 3,500
/// bytes).
pub fn run(program: &SchedClassifier, at: At, frame: &[u8]) -> Result<Ran> {
    run_into(program, at, frame, None)
}

/// The trunk's program, pinned.
///
/// # Errors
/// Where it is not.
pub fn early(dirs: &PinDirs) -> Result<Xdp> {
    let name = program::FROM_TRUNK;
    let opened = Xdp::from_pin(dirs.program(name), aya_obj::programs::XdpAttachType::Interface);
    opened.with_context(|| format!("opening the pinned program {name}"))
}

/// Puts a frame through the trunk's program: whether it goes on.
///
/// # Errors
/// As [`run`].
pub fn run_early(program: &Xdp, frame: &[u8]) -> Result<bool> {
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
    let ran = program.test_run(options).with_context(|| format!("the kernel does not run {} bytes", frame.len()))?;
    match ran.return_value {
        // XDP_DROP and XDP_PASS of linux/bpf.h.
        1 => Ok(false),
        2 => Ok(true),
        other => bail!("the trunk's program answered {other}"),
    }
}

/// Likewise, and what the packet looks like then.
///
/// # Errors
/// As [`run`].
pub fn run_and_read(program: &SchedClassifier, at: At, frame: &[u8]) -> Result<(Ran, Vec<u8>)> {
    let mut written = vec![0; frame.len()];
    let ran = run_into(program, at, frame, Some(&mut written))?;
    Ok((ran, written))
}

fn run_into(program: &SchedClassifier, at: At, frame: &[u8], written: Option<&mut [u8]>) -> Result<Ran> {
    // `struct __sk_buff` of linux/bpf.h: `mark` stands at 8, `ingress_ifindex` at 36, `ifindex` at 40.
    let mut context = [0_u8; 192];
    for (offset, value) in [(8, at.mark), (36, at.ingress), (40, at.ifindex)] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let mut after = [0_u8; 192];
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        ctx_out: Some(&mut after),
        data_out: written,
        ..TestRunOptions::default()
    };
    let refused = || format!("the kernel does not run {} bytes in {}, as too many or too few", frame.len(), at.program);
    let ran = program.test_run(options).with_context(refused)?;
    let mark = u32::from_ne_bytes([after[8], after[9], after[10], after[11]]);
    match ran.return_value {
        // TC_ACT_SHOT, TC_ACT_REDIRECT and TC_ACT_UNSPEC of linux/pkt_cls.h: what the programs say.
        2 => Ok(Ran { passed: false, redirected: false, mark }),
        7 => Ok(Ran { passed: true, redirected: true, mark }),
        u32::MAX => Ok(Ran { passed: true, redirected: false, mark }),
        other => bail!("{} answered {other}, with which tc does nothing", at.program),
    }
}
