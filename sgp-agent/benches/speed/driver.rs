//! The floors, and the driver that makes packets of many flows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun};
use aya::{Ebpf, EbpfLoader, TestRunOptions};

use crate::drive::{Drive, Word};
use crate::node::At;

/// Odd, and far from any power of two: 2^32 divided by the golden ratio.
const STEP: u32 = 0x9e37_79b9;

/// See the module.
pub(crate) struct Driver {
    object: Ebpf,
    drive: Array<MapData, Drive>,
    target: ProgramArray<MapData>,
}

// SAFETY: plain numbers without padding.
unsafe impl aya::Pod for Drive {}

/// Packets to run.
pub(crate) struct Load<'a> {
    /// One of them.
    pub(crate) frame: &'a [u8],
    /// How the others differ.
    pub(crate) words: [Word; 3],
    /// How many flows there are: a power of two.
    pub(crate) flows: u32,
    /// How many packets.
    pub(crate) packets: u32,
    /// Where they are seen.
    pub(crate) at: At,
    /// What tc is to be told, if it matters.
    pub(crate) answer: Option<u32>,
}

/// A key of the floors' table.
type Key = [u64; 6];

impl Driver {
    /// Loads the floors.
    pub(crate) fn load(object: &Path) -> Result<Self> {
        let bytes = fs::read(object).with_context(|| format!("reading {}", object.display()))?;
        let mut object = EbpfLoader::new().load(&bytes).context("loading the floors")?;
        for (name, program) in object.programs_mut() {
            let program: &mut SchedClassifier = program.try_into().with_context(|| format!("program {name}"))?;
            program.load().with_context(|| format!("the kernel's verifier on floor {name}"))?;
        }
        let mut taken = |name| object.take_map(name).with_context(|| format!("there is no map {name}"));
        let (drive, target) = (taken("DRIVE")?, taken("TARGET")?);
        Ok(Self { drive: drive.try_into()?, target: target.try_into()?, object })
    }

    /// One of the floors.
    pub(crate) fn floor(&self, name: &str) -> Result<ProgramFd> {
        let program: &SchedClassifier = self.object.program(name).context("there is no such floor")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }

    /// Forgets the flows of the floors' table.
    pub(crate) fn forget(&mut self) -> Result<()> {
        let map = self.object.map_mut("TABLE").context("there is no TABLE")?;
        let mut table: HashMap<_, Key, [u64; 9]> = HashMap::try_from(map)?;
        let keys: Vec<Key> = table.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| table.remove(key)).context("emptying TABLE")
    }

    /// Runs packets through a program; nanoseconds for each, the driver's own included.
    pub(crate) fn run(&mut self, program: &ProgramFd, load: &Load<'_>) -> Result<f64> {
        self.run_from(0, program, load)
    }

    /// Likewise, beginning with a later one.
    pub(crate) fn run_from(&mut self, next: u32, program: &ProgramFd, load: &Load<'_>) -> Result<f64> {
        let (ns, answer) = self.go(next, program, load)?;
        let expected = load.answer.unwrap_or(answer);
        ensure!(answer == expected, "{} answered {answer:#x} instead of {expected:#x}", load.at.program);
        Ok(ns)
    }

    fn go(&mut self, next: u32, program: &ProgramFd, load: &Load<'_>) -> Result<(f64, u32)> {
        self.target.set(0, program, 0).context("naming the program to the driver")?;
        let drive = Drive { mask: load.flows - 1, step: STEP, next, words: load.words };
        self.drive.set(0, drive, 0).context("ordering packets")?;
        let context = context(&load.at);
        let mut after = context;
        let options = TestRunOptions {
            data_in: Some(load.frame),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            repeat: load.packets,
            ..TestRunOptions::default()
        };
        let driver: &mut SchedClassifier =
            self.object.program_mut("drive").context("there is no driver")?.try_into()?;
        let ran = driver.test_run(options).context("BPF_PROG_TEST_RUN")?;
        Ok((ran.duration.as_nanos() as f64, ran.return_value))
    }

    /// Runs packets through a program and through one that does nothing; the difference.
    pub(crate) fn net(&mut self, program: &ProgramFd, load: &Load<'_>) -> Result<f64> {
        let gross = self.run(program, load)?;
        let nothing = self.floor("nothing")?;
        let own = self.run(&nothing, &Load { answer: None, ..*load })?;
        Ok(gross - own)
    }
}

/// `struct __sk_buff` of linux/bpf.h: `mark` stands at 8, `ingress_ifindex` at 36, `ifindex` at 40.
fn context(at: &At) -> [u8; 192] {
    let mut context = [0_u8; 192];
    for (offset, value) in [(8, at.mark), (36, at.ingress), (40, at.ifindex)] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    context
}
