//! `cargo xtask demo` and `cargo xtask dev`: provide what the local cluster needs, then become `sgp-dev`, which runs it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::{self, cargo};
use crate::progress::command;
use crate::setup::{self, Part};

const DEMO_HELP: &str = "AWS's tutorial \"Security groups for pods\", with real packets, on a cluster made for it

Usage: cargo xtask demo [ARGS]...

Examples:
  sudo -E env PATH=\"$PATH\" cargo xtask demo    the whole tutorial; leaves nothing behind

`cargo xtask demo --help` tells more once `cargo xtask build` has run.";

const DEV_HELP: &str = "A local cluster to work with: real Kubernetes, an EC2 emulator, and a VPC of network namespaces

Usage: cargo xtask dev <up|down|exec|status> [ARGS]...

Examples:
  cargo xtask dev up --nodes 2             starts it; prints KUBECONFIG and the AWS environment
  cargo xtask dev exec -n NS POD -- CMD    runs a command in a pod
  cargo xtask dev down                     leaves nothing behind

`cargo xtask dev --help` tells more once `cargo xtask build` has run.";

/// Arguments of `cargo xtask demo` and `cargo xtask dev`; `sgp-dev` reads them.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Runs `cargo xtask demo`.
pub(crate) fn demo(args: &Args) -> Result<()> {
    match asks_for_help(&args.args) {
        true => help("demo", &args.args, DEMO_HELP),
        false => prepared("demo", &args.args),
    }
}

/// Runs `cargo xtask dev`. A cluster that is up is looked at and taken down by the program that is there.
pub(crate) fn dev(args: &Args) -> Result<()> {
    let is_up = args.args.first().is_some_and(|task| ["down", "exec", "status"].iter().any(|known| task == known));
    match asks_for_help(&args.args) || args.args.is_empty() {
        true => help("dev", &args.args, DEV_HELP),
        false if is_up && is_built() => become_dev("dev", &args.args),
        false => prepared("dev", &args.args),
    }
}

/// Help is asked for before `--`: what follows is a command for a pod.
fn asks_for_help(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h")
}

fn help(task: &str, args: &[OsString], light: &str) -> Result<()> {
    if is_built() && !args.is_empty() {
        return become_dev(task, args);
    }
    println!("{light}");
    Ok(())
}

fn prepared(task: &str, args: &[OsString]) -> Result<()> {
    need_root(task)?;
    build::while_arriving(&[Part::Tools, Part::Cluster], || build::everything(false))?;
    become_dev(task, args)
}

/// Replaces this process, so that signals and the exit status are those of `sgp-dev`.
fn become_dev(task: &str, args: &[OsString]) -> Result<()> {
    let mut program = program();
    let error = program.arg(task).args(args).exec();
    Err(error)
        .with_context(|| format!("`{}` cannot be started; `cargo xtask build` makes it", command::shown(&program)))
}

fn is_built() -> bool {
    command::is_program(&path())
}

fn path() -> PathBuf {
    cargo::debug_directory().join("sgp-dev")
}

/// `sgp-dev` with everything it needs named in its environment.
pub(crate) fn program() -> Command {
    let found = setup::found();
    let mut program = Command::new(path());
    program.env("SGP_AGENT", cargo::debug_directory().join("sgp-agent")).env("SGP_CACHE_DIR", setup::cache_root());
    found.kube_bin.map(|directory| program.env("SGP_KUBE_BIN", directory));
    found.venv.map(|directory| program.env("SGP_VENV", directory));
    found.helm.map(|helm| program.env("HELM", helm));
    program
}

/// BPF and network namespaces need root; says how to become it with this user's cargo.
pub(crate) fn need_root(task: &str) -> Result<()> {
    let is_root = nix::unistd::geteuid().is_root();
    ensure!(
        is_root,
        "`cargo xtask {task}` needs root for BPF and network namespaces; run `sudo -E env PATH=\"$PATH\" cargo xtask {task}`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_for_a_command_in_a_pod_is_not_ours() {
        let asks = |line: &str| asks_for_help(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(asks("--help") && asks("up -h") && !asks("exec pod -- ls --help") && !asks("up --nodes 2"));
    }
}
