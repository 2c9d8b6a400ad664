//! The command line: `run` and `cni` do the work, `check` judges a scenario, all other commands read the pinned
//! maps and need no agent.

mod branches;
mod check;
mod controller;
mod counts;
mod doctor;
mod endpoints;
mod explain;
mod flows;
mod insist;
mod install_cni;
mod instance_types;
mod live;
mod orphans;
mod policy;
mod run;
mod snat;
mod status;
mod uninstall;
mod variables;
mod verify;
mod view;
mod watching;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::builder::Resettable;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use view::{Target, View};

const EXAMPLES: &str = "Examples:
  sgp-agent run --cluster-name prod            enforce, on a node
  sgp-agent status                             what is enforced here
  sgp-agent explain shop/cart-0 in tcp 10.0.2.20 443
  sgp-agent drops --pod shop/cart-0 --json
  sgp-agent check web-and-database.json        would these packets pass? on any machine
Every command but `run` works with the agent dead: it reads the pinned maps.";

/// Security groups for pods, enforced in eBPF: the node agent.
#[derive(Parser)]
#[command(name = "sgp-agent", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Keep this node's data path in step with Kubernetes and EC2
    Run(Box<run::Settings>),
    /// What a cluster needs once: the webhooks that admit pods, and the sweep of orphans
    Controller(Box<controller::Asked>),
    /// The CNI plugin; container runtimes start it under the name `sgp-cni`
    Cni,
    /// Put the CNI plugin, this binary under the name `sgp-cni`, where the container runtime finds it
    InstallCni(install_cni::Into),
    /// What is enforced on this node, and how much room is left
    Status(status::Asked),
    /// Every pod with a branch on this node
    Endpoints(View),
    /// Look into compiled policies
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Would this packet pass, and by which rule?
    Explain(explain::Question),
    /// Judge packets by security groups before they are real: unit tests for rules
    Check(check::Question),
    /// Tracked conversations, each with the rule that let it in
    Flows(flows::Watched),
    /// What leaves the VPC under the node's address
    Snat(Target),
    /// What was dropped, by pod, direction and reason; with -f packet by packet
    Drops(counts::Drops),
    /// Look for what could be wrong on this node; exit status 1 if anything is
    Doctor(doctor::Doctor),
    /// Find interfaces in EC2 that were made for this cluster and that nobody looks after any more
    Orphans(orphans::Asked),
    /// The table of instance types and how many branches each carries
    InstanceTypes(instance_types::InstanceTypes),
    /// Would this kernel take the programs? Loads them where nobody else is, and says what its verifier counted
    Verify(View),
    /// Print what a shell completes this command's words by
    #[command(
        after_help = "Examples:\n  source <(sgp-agent completion bash)\n  sgp-agent completion fish > ~/.config/fish/completions/sgp-agent.fish"
    )]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Remove every pin and with them all programs, and put the node's own settings back: enforcement ends and branch
    /// pods are open to the node
    Uninstall(uninstall::Uninstall),
}

/// The whole program: started as `sgp-cni` it is the CNI plugin.
pub fn main() -> ExitCode {
    if std::env::args().next().is_some_and(|name| name.ends_with("sgp-cni")) {
        return crate::cni::main();
    }
    match dispatch(parsed().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What was asked for. A variable that is empty counts as unset, as manifests render what nobody has chosen.
fn parsed() -> Cli {
    let is_empty = |arg: &Arg| arg.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|it| it.is_empty()));
    let without = |arg: Arg| if is_empty(&arg) { arg.env(Resettable::Reset) } else { arg };
    let command = Cli::command().mut_subcommands(|command| command.mut_args(without));
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Cni => return Ok(crate::cni::main()),
        Command::Orphans(asked) => return orphans::print(&asked),
        Command::InstanceTypes(asked) => instance_types::print(&asked)?,
        Command::Doctor(doctor) => return doctor::print(&doctor),
        Command::Check(question) => return Ok(check::print(&question)),
        Command::InstallCni(into) => install_cni::run(&into)?,
        Command::Run(settings) => run::run(*settings)?,
        Command::Controller(asked) => controller::start(*asked)?,
        Command::Status(asked) => status::print(&asked)?,
        Command::Endpoints(view) => endpoints::print(&view)?,
        Command::Policy(policy::Policy::Show(target)) => policy::print(&target)?,
        Command::Explain(question) => explain::print(&question)?,
        Command::Verify(view) => verify::print(&view)?,
        Command::Flows(watched) => flows::print(&watched)?,
        Command::Snat(target) => snat::print(&target)?,
        Command::Drops(drops) => counts::print(&drops)?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sgp-agent", &mut std::io::stdout());
        }
        Command::Uninstall(uninstall) => uninstall::run(&uninstall)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs what waits for EC2 or the API server.
fn asynchronously<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new().context("starting the async runtime")?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
