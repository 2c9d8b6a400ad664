//! `cargo xtask setup`: finds what building and testing need, and installs what is not there.

mod bpf;
mod cache;
mod controlplane;
pub(crate) mod fuzzer;
mod go;
mod helm;
pub(crate) mod kernels;
mod packages;
mod promtool;
mod python;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::progress;
pub(crate) use bpf::BpfRustc;
pub(crate) use cache::root as cache_root;

/// The order is that of need: the BPF toolchain is waited for first.
const STEPS: [Step; 12] = [
    bpf::RUSTC,
    bpf::LINKER,
    packages::TOOLS_STEP,
    promtool::STEP,
    packages::VM_STEP,
    kernels::STEP,
    python::STEP,
    controlplane::STEP,
    python::HADOLINT_STEP,
    helm::STEP,
    fuzzer::COMPILER_STEP,
    fuzzer::STEP,
];

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask setup                 everything, for `demo` and `test`
  cargo xtask setup --only bpf      only what `cargo xtask build` needs
  cargo xtask setup --list --json   what is there and what would be done, for scripts")]
pub(crate) struct Args {
    /// Only the BPF toolchain, only what the local cluster needs, or only what testing on other kernels needs
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Tell what is there and what would be installed, and install nothing
    #[arg(long)]
    list: bool,
    /// Give the list as JSON
    #[arg(long, requires = "list")]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Bpf,
    Cluster,
    Vm,
}

/// What a step is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Compiling the data path.
    Bpf,
    /// Network tools and others, for tests with real packets or real readers and for the cluster.
    Tools,
    /// The control plane and EC2 of the local cluster.
    Cluster,
    /// The emulator, for tests on other kernels than this machine's.
    Vm,
    /// The kernels that are tested on unless others are asked for.
    Kernels,
    /// What reads the chart and the Dockerfile of `deploy/`.
    Deploy,
    /// What fuzzing needs.
    Fuzz,
}

impl Part {
    /// Everything.
    pub(crate) const ALL: [Part; 7] =
        [Part::Bpf, Part::Tools, Part::Cluster, Part::Vm, Part::Kernels, Part::Deploy, Part::Fuzz];
}

/// One thing setup knows how to find and to install.
struct Step {
    name: &'static str,
    part: Part,
    present: fn() -> Option<String>,
    how: fn() -> String,
    /// Seconds it usually takes, from nothing.
    about: fn() -> u64,
    install: fn() -> Result<()>,
}

impl Step {
    fn run(&self) -> Result<()> {
        let about = Duration::from_secs((self.about)());
        progress::Step { name: self.name, how: &(self.how)(), about, silent: Duration::ZERO }.run(|| {
            (self.install)()?;
            let found = (self.present)().map(drop);
            found.ok_or_else(|| anyhow!("its installation succeeded, but it is still not found"))
        })
    }
}

/// One line of `cargo xtask setup --list`.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    part: Part,
    found: Option<String>,
    /// How it would be installed, where it is not there.
    install: Option<String>,
}

impl Listed {
    fn of(step: &Step) -> Listed {
        let found = (step.present)();
        let install = found.is_none().then(step.how);
        Listed { name: step.name, part: step.part, found, install }
    }

    fn print(&self) {
        match (&self.found, &self.install) {
            (Some(found), _) => println!("{:<14} there: {found}", self.name),
            (None, install) => println!("{:<14} MISSING: {}", self.name, install.as_deref().unwrap_or_default()),
        }
    }
}

/// Runs `cargo xtask setup`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let parts: &[Part] = match args.only {
        Some(Only::Bpf) => &[Part::Bpf],
        Some(Only::Cluster) => &[Part::Tools, Part::Cluster],
        Some(Only::Vm) => &[Part::Tools, Part::Vm, Part::Kernels],
        None => &Part::ALL,
    };
    let listed: Vec<Listed> = steps(parts).map(Listed::of).collect();
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&listed)?),
        false => listed.iter().for_each(Listed::print),
    }
    if args.list { Ok(()) } else { conclude(parts, &listed) }
}

fn conclude(parts: &[Part], listed: &[Listed]) -> Result<()> {
    if listed.iter().any(|line| line.found.is_none()) {
        ensure(parts)?;
    }
    println!("all is there; what was built is kept in {}", cache_root().display());
    Ok(())
}

fn steps(parts: &[Part]) -> impl Iterator<Item = &'static Step> {
    STEPS.iter().filter(|step| parts.contains(&step.part))
}

/// Whether all of these parts are there already.
pub(crate) fn is_complete(parts: &[Part]) -> bool {
    steps(parts).all(|step| (step.present)().is_some())
}

/// Installs what is missing of these parts, side by side, and says nothing if nothing is.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    let missing: Vec<&Step> = steps(parts).filter(|step| (step.present)().is_none()).collect();
    let failures: Vec<String> = thread::scope(|scope| {
        let running: Vec<_> = missing.iter().map(|step| (step.name, scope.spawn(|| step.run()))).collect();
        running.into_iter().filter_map(|(name, step)| failure(name, step.join())).collect()
    });
    match failures.is_empty() {
        true => go::forget(),
        false => bail!("setup could not provide everything; `cargo xtask setup` tries again\n{}", failures.join("\n")),
    }
}

fn failure(name: &str, outcome: thread::Result<Result<()>>) -> Option<String> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{name}: {error:#}")),
        Err(_) => Some(format!("{name}: setup itself broke, see above")),
    }
}

/// Where everything is that setup provides; none for what is not there.
pub(crate) struct Found {
    /// How to compile for BPF.
    pub(crate) rustc: Option<BpfRustc>,
    /// The program `bpf-linker`.
    pub(crate) linker: Option<PathBuf>,
    /// The directory with the control plane's programs, kubectl and etcd.
    pub(crate) kube_bin: Option<PathBuf>,
    /// The Python environment with moto and the AWS command line.
    pub(crate) venv: Option<PathBuf>,
    /// The program `promtool`.
    pub(crate) promtool: Option<PathBuf>,
    /// The program `helm`.
    pub(crate) helm: Option<PathBuf>,
    /// The program `hadolint`.
    pub(crate) hadolint: Option<PathBuf>,
}

/// Looks for everything setup provides.
pub(crate) fn found() -> Found {
    Found {
        rustc: bpf::rustc(),
        linker: bpf::linker(),
        kube_bin: controlplane::found(),
        venv: python::found(),
        promtool: promtool::found(),
        helm: helm::found(),
        hadolint: python::hadolint(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_step() {
        assert!(Part::ALL.iter().all(|part| steps(&[*part]).count() > 0));
    }

    #[test]
    fn a_failed_step_is_told_by_name() {
        assert_eq!(failure("venv", Ok(Ok(()))), None);
        assert_eq!(failure("venv", Ok(Err(anyhow!("no pip")))).as_deref(), Some("venv: no pip"));
    }
}
