//! `orphans`: interfaces of ours that nobody looks after any more, for people.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use comfy_table::Table;
use serde_json::json;

use crate::controller::sweep;
use crate::domain::orphans::{Census, Orphan, Sightings, orphans};
use crate::io::ec2::Account;

const EXAMPLES: &str = "Examples:
  sgp-agent orphans --cluster-name prod
  sgp-agent orphans --cluster-name prod --delete
  sgp-agent orphans --cluster-name prod --cluster-gone --delete     after the cluster was deleted
Only interfaces with the tags eks:eni:owner=sgp-agent and kubernetes.io/cluster/<name>=owned are looked at, and
nothing that is in use. With --delete it looks twice: what is on its way the first time is not the second.";

/// Which orphans, and what to do with them.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Asked {
    /// Name of the cluster, as its agents have it
    #[arg(long, env = "CLUSTER_NAME", value_name = "NAME", default_value = "kubernetes")]
    cluster_name: String,
    /// Delete them
    #[arg(long)]
    delete: bool,
    /// Seconds between the two looks of --delete
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    apart: u64,
    /// The cluster was deleted: ask no API server, and take no node and no pod for alive
    #[arg(long)]
    cluster_gone: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints orphans; exit status 1 if one could not be deleted.
pub(super) fn print(asked: &Asked) -> Result<ExitCode> {
    super::asynchronously(async {
        let account = Account::connect().await;
        let seen = look(&account, asked).await?;
        if !asked.delete {
            show(&seen, &[], asked)?;
            return Ok(ExitCode::SUCCESS);
        }
        let begun = Instant::now();
        let mut sightings = Sightings::default();
        sightings.second(&seen, 0, asked.apart);
        if !seen.is_empty() {
            tokio::time::sleep(Duration::from_secs(asked.apart.max(1))).await;
        }
        let again = sightings.second(&look(&account, asked).await?, begun.elapsed().as_secs(), asked.apart);
        let failures = delete(&account, &again).await;
        show(&again, &failures, asked)?;
        Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

async fn look(account: &Account, asked: &Asked) -> Result<Vec<Orphan>> {
    if !asked.cluster_gone {
        return sweep::look(account, &asked.cluster_name).await.context("was the cluster deleted? then --cluster-gone");
    }
    let (interfaces, associated) = tokio::try_join!(account.interfaces(&asked.cluster_name), account.associated())?;
    Ok(orphans(&Census { interfaces, associated, ..Census::default() }, &asked.cluster_name))
}

/// Gives what could not be deleted, and why.
async fn delete(account: &Account, orphans: &[Orphan]) -> Vec<(String, String)> {
    let mut failures = Vec::new();
    for orphan in orphans {
        if let Err(failure) = account.delete(&orphan.interface).await {
            failures.push((orphan.interface.clone(), failure.to_string()));
        }
    }
    failures
}

fn show(orphans: &[Orphan], failures: &[(String, String)], asked: &Asked) -> Result<()> {
    let outcome = |orphan: &Orphan| match failures.iter().find(|(id, _)| *id == orphan.interface) {
        Some((_, why)) => format!("not deleted: {why}"),
        None if asked.delete => "deleted".to_owned(),
        None => "left".to_owned(),
    };
    if asked.json {
        let row = |orphan: &Orphan| {
            json!({"interface": orphan.interface, "instance": orphan.instance, "pod": orphan.pod,
                   "why": orphan.why.sentence(), "outcome": outcome(orphan)})
        };
        let rows: Vec<_> = orphans.iter().map(row).collect();
        println!("{}", serde_json::to_string_pretty(&rows).context("writing JSON")?);
        return Ok(());
    }
    if orphans.is_empty() {
        println!("no orphans of cluster {}", asked.cluster_name);
        return Ok(());
    }
    let mut table = Table::new();
    table.set_header(["INTERFACE", "INSTANCE", "LAST POD", "WHY", "OUTCOME"]);
    for orphan in orphans {
        table.add_row([&orphan.interface, &orphan.instance, &orphan.pod, orphan.why.sentence(), &outcome(orphan)]);
    }
    println!("{table}");
    Ok(())
}
