//! Keeps a certificate that API servers believe: its own, in a Secret that all replicas share, or somebody else's.
//!
//! A new one is believed before it is used: first the webhook configurations hold the old and the new authority,
//! then the Secret gets the new certificate, and a replica that still shows the old one is believed too. A leader
//! that dies in between leaves nothing wrong: the next puts what the Secret says into the configurations.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Role, Settings};
use crate::io::certificates::{BACK, Made, make};
use crate::io::https::Certificate;
use crate::io::kubernetes::Cluster;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(20);
/// Likewise, while there is no certificate.
const SOON: Duration = Duration::from_secs(1);
/// How long API servers may take to hear of a new authority.
const HEARD: Duration = Duration::from_secs(5);

const AUTHORITIES: &str = "ca.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const UNTIL: &str = "until";
const NAMES: &str = "names";

type Kept = BTreeMap<String, String>;

/// Keeps it for as long as the process lives.
pub(super) async fn keep(
    cluster: &Cluster,
    settings: &Settings,
    certificate: &Certificate,
    mut role: watch::Receiver<Role>,
) {
    let mut told = String::new();
    loop {
        let now = *role.borrow_and_update();
        let result = match &settings.certificate_dir {
            Some(dir) => from_files(dir).await.and_then(|(chain, key)| certificate.set(&chain, &key)),
            None => own(cluster, settings, certificate, now).await,
        };
        let text = result.err().map(|error| format!("{error:#}")).unwrap_or_default();
        if !text.is_empty() && text != told {
            warn!(error = text, "the webhooks' certificate is not as it should be; trying again");
        }
        told = text;
        let pause = if certificate.is_there() && told.is_empty() { EVERY } else { SOON };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = role.changed() => {}
        }
    }
}

async fn from_files(dir: &Path) -> Result<(String, String)> {
    let read = async |name: &str| {
        let path = dir.join(name);
        tokio::fs::read_to_string(&path).await.with_context(|| format!("reading {}", path.display()))
    };
    Ok((read(CERTIFICATE).await?, read(KEY).await?))
}

async fn own(cluster: &Cluster, settings: &Settings, certificate: &Certificate, role: Role) -> Result<()> {
    let kept = cluster.secret().await.context("reading the controller's Secret")?.unwrap_or_default();
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?.as_secs();
    let kept = if role == Role::Leader && is_due(&kept, settings, now_s) {
        renew(cluster, settings, &kept).await?
    } else {
        kept
    };
    let part = |key| kept.get(key).map(String::as_str).unwrap_or_default();
    if part(CERTIFICATE).is_empty() {
        return Ok(());
    }
    certificate.set(part(CERTIFICATE), part(KEY))?;
    if role == Role::Leader {
        cluster.trust(part(AUTHORITIES)).await.context("writing caBundle into the webhook configurations")?;
    }
    Ok(())
}

/// After two thirds of its time, where it is for other names, and where there is none. Also where it ends later than any made
/// now: by a clock that was ahead, so it has not begun.
fn is_due(kept: &Kept, settings: &Settings, now_s: u64) -> bool {
    let until_s = kept.get(UNTIL).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let same_names = kept.get(NAMES) == Some(&settings.names.join(","));
    let (lifetime_s, ahead_s) = (settings.lifetime.as_secs(), until_s.saturating_sub(now_s));
    !same_names || ahead_s <= lifetime_s / 3 || ahead_s > lifetime_s + BACK.as_secs()
}

async fn renew(cluster: &Cluster, settings: &Settings, before: &Kept) -> Result<Kept> {
    let Made { authority, certificate, key, until_s } = make(&settings.names, settings.lifetime)?;
    // The newest of the authorities so far is the one whose certificate is in use.
    let old = before.get(AUTHORITIES).and_then(|all| all.split_inclusive("-----END CERTIFICATE-----").next());
    let authorities = format!("{authority}{}\n", old.unwrap_or_default());
    if old.is_some() {
        cluster.trust(&authorities).await.context("writing caBundle into the webhook configurations")?;
        tokio::time::sleep(HEARD).await;
    }
    let pairs = [
        (AUTHORITIES, authorities),
        (CERTIFICATE, certificate),
        (KEY, key),
        (UNTIL, until_s.to_string()),
        (NAMES, settings.names.join(",")),
    ];
    let kept: Kept = pairs.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    cluster.write_secret(kept.clone()).await.context("writing the controller's Secret")?;
    info!(names = settings.names.join(","), until_s, "made a certificate");
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(names: &[&str]) -> Settings {
        Settings {
            cluster_name: String::new(),
            namespace: String::new(),
            identity: String::new(),
            bind: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            certificate_dir: None,
            lifetime: Duration::from_secs(90),
            writers: Vec::new(),
            sweep: EVERY,
            membership_poll: EVERY,
            slice_size: 1,
        }
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_time_and_for_other_names() {
        let kept: Kept = [(UNTIL, "190"), (NAMES, "a,b")].map(|(key, text)| (key.to_owned(), text.to_owned())).into();
        let due = |names: &[&str], now_s: u64| is_due(&kept, &settings(names), now_s);
        assert_eq!((due(&["a", "b"], 159), due(&["a", "b"], 160), due(&["a"], 100)), (false, true, true));
        assert!(is_due(&Kept::new(), &settings(&["a"]), 0), "there is none");
    }

    #[test]
    fn a_certificate_of_a_clock_that_was_ahead_is_made_again_and_one_of_a_replica_a_little_ahead_is_not() {
        let kept: Kept = [(UNTIL, "100000"), (NAMES, "a")].map(|(key, text)| (key.to_owned(), text.to_owned())).into();
        let made_ahead_by = |seconds: u64| is_due(&kept, &settings(&["a"]), 100_000 - 90 - seconds);
        assert_eq!((made_ahead_by(0), made_ahead_by(3600), made_ahead_by(3601)), (false, false, true));
    }

    #[tokio::test]
    async fn somebody_elses_certificate_is_read_from_its_files_and_a_missing_one_named() {
        let dir = std::env::temp_dir().join(format!("sgp-certificate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join(CERTIFICATE), "chain").expect("a file");
        let error = format!("{:#}", from_files(&dir).await.expect_err("no key yet"));
        assert!(error.contains(KEY), "{error}");
        std::fs::write(dir.join(KEY), "key").expect("a file");
        assert_eq!(from_files(&dir).await.expect("both"), ("chain".to_owned(), "key".to_owned()));
        std::fs::remove_dir_all(&dir).expect("the directory goes");
    }
}
