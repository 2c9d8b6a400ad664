//! Deletes interfaces that nobody looks after any more, at their second sighting.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Role, Settings};
use crate::domain::orphans::{Census, Orphan, Sightings, orphans};
use crate::io::ec2::Account;
use crate::io::kubernetes::census;

/// The orphans of a cluster now.
///
/// # Errors
/// Where EC2 or the API server does not answer: then nothing is called lost.
pub async fn look(account: &Account, cluster_name: &str) -> Result<Vec<Orphan>> {
    let (instances, pods) = census().await.context("asking what lives in the cluster")?;
    let (interfaces, associated) = tokio::try_join!(account.interfaces(cluster_name), account.associated())?;
    Ok(orphans(&Census { interfaces, associated, instances, pods }, cluster_name))
}

/// Sweeps while this replica leads. A new leader has seen nothing yet.
pub(super) async fn keep(settings: &Settings, mut role: watch::Receiver<Role>) {
    let account = Account::connect().await;
    while role.wait_for(|role| *role == Role::Leader).await.is_ok() {
        let mut lost = role.clone();
        tokio::select! {
            () = sweep(&account, settings) => {}
            _ = lost.wait_for(|role| *role == Role::Standby) => {}
        }
    }
}

async fn sweep(account: &Account, settings: &Settings) {
    let (begun, mut sightings, mut told) = (Instant::now(), Sightings::default(), String::new());
    loop {
        match look(account, &settings.cluster_name).await {
            Ok(seen) => {
                told.clear();
                let apart_s = settings.sweep.as_secs().saturating_sub(1);
                for orphan in sightings.second(&seen, begun.elapsed().as_secs(), apart_s) {
                    delete(account, &orphan).await;
                }
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != told {
                    warn!(error = text, "no sweep of orphans; trying again every {:?}", settings.sweep);
                }
                told = text;
            }
        }
        tokio::time::sleep(settings.sweep).await;
    }
}

async fn delete(account: &Account, orphan: &Orphan) {
    let (interface, why, pod) = (&orphan.interface, orphan.why.sentence(), &orphan.pod);
    match account.delete(interface).await {
        Ok(()) => info!(interface, why, pod, "deleted an orphan"),
        Err(failure) => warn!(interface, why, %failure, "an orphan could not be deleted"),
    }
}
