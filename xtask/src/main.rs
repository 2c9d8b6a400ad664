//! Developer tasks of sgp. This program depends on little, so that it starts within seconds of a fresh clone;
//! what needs Kubernetes and EC2 clients is `sgp-dev` (`src/cluster`), which it builds and becomes.

mod bench;
mod build;
mod check;
mod dev;
mod fuzz;
mod progress;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer tasks of sgp
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
#[command(after_help = "Examples:
  cargo xtask demo         AWS's tutorial with real packets, on a cluster made for it (root)
  cargo xtask test         every check and test, from lints to that cluster (root)
  cargo xtask check        what needs no root: fmt, clippy, budgets, ABI, docs
  cargo xtask bench        what enforcement costs a packet (root)
  cargo xtask setup        only find or install what the others need")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what building and testing need
    Setup(setup::Args),
    /// Build the data path, and the agent with it inside
    Build(build::Args),
    /// Lints, size budgets, layout, links, ABI golden file and documentation
    Check(check::Args),
    /// Every check and test; ends with `N passed, N failed`
    Test(test::Args),
    /// Feeds the parser or the data path what nobody thought of
    Fuzz(fuzz::Args),
    /// What enforcement costs a packet, beside what it is held against
    Bench(bench::Args),
    /// AWS's tutorial "Security groups for pods" on a cluster made for it
    Demo(dev::Args),
    /// A local cluster to work with: up, down, exec, status
    Dev(dev::Args),
}

fn main() -> ExitCode {
    run(&Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: &Task) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match task {
        Task::Setup(args) => setup::run(args).map(done),
        Task::Build(args) => build::run(args).map(done),
        Task::Check(args) => check::run(args),
        Task::Test(args) => test::run(args),
        Task::Fuzz(args) => fuzz::run(args).map(done),
        Task::Bench(args) => bench::run(args).map(done),
        Task::Demo(args) => dev::demo(args).map(done),
        Task::Dev(args) => dev::dev(args).map(done),
    }
}
