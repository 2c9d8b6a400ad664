//! Asks EC2 again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tracing::warn;

use super::members::Members;
use super::provision::MISSING_PERMISSION;
use super::tell;
use crate::domain::branches::{Notice, Purpose, Severity, groups_wanted};
use crate::domain::groups::GroupSet;
use crate::domain::observed::{CloudFacts, ClusterFacts, Scope, Wanted};
use crate::io::ec2::{Cloud, Unanswered};
use crate::io::kubernetes::Kubernetes;
use crate::telemetry::metrics::Metrics;

/// The longest one look may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest between two looks while EC2 does not answer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Between two looks whether it is known yet who says who is a member of what.
const UNHEARD: Duration = Duration::from_millis(50);

/// What EC2 said, and when it was asked.
#[derive(Clone, Debug)]
pub struct Described {
    /// What it said.
    pub facts: CloudFacts,
    /// When it was asked.
    pub asked: Instant,
}

/// What to ask EC2 of, beside the node's own things.
fn wanted(cluster: &ClusterFacts, scope: Scope) -> Wanted {
    let named = cluster.policies.iter().flat_map(|policy| policy.group_ids.clone());
    let of_pods = cluster.pods.values().filter_map(|pod| groups_wanted(pod, cluster, &GroupSet::default()));
    let subnets = cluster.eni_configs.values().map(|config| config.subnet_id.clone());
    Wanted { scope, groups: named.chain(of_pods.flat_map(|set| set.0)).collect(), subnets: subnets.collect() }
}

/// What to say on the node of a question that EC2 refuses to answer: the role may not ask it.
pub fn denied(error: &anyhow::Error) -> Option<Notice> {
    let way_out = error.downcast_ref::<Unanswered>()?.permission()?;
    let message = format!("EC2 does not say what this node needs to know: {way_out}");
    let (about, severity, reason) = (Purpose::Node, Severity::Warning, MISSING_PERMISSION);
    Some(Notice { about, severity, reason, message })
}

/// For those who do not read logs.
fn silent(error: &str) -> Notice {
    let message = format!("EC2 does not answer: {error}; what is enforced stays, changes of rules are not seen");
    Notice { about: Purpose::Node, severity: Severity::Warning, reason: "Ec2Unreachable", message }
}

/// Looks every `every`, and at once when told to. Tells each outage once, and its cause when that changes; what was said
/// before it stays.
pub async fn poll<C: Cloud>(
    cloud: Arc<C>,
    kubernetes: Arc<Kubernetes>,
    members: Arc<Members>,
    every: Duration,
    look: Arc<Notify>,
    facts: watch::Sender<Option<Arc<Described>>>,
    metrics: Arc<Metrics>,
) {
    let (mut failures, mut told) = (0_u32, String::new());
    loop {
        let Some(scope) = members.scope() else {
            tokio::time::sleep(UNHEARD).await;
            continue;
        };
        let wanted = kubernetes.facts().map(|cluster| wanted(&cluster, scope));
        let wanted = wanted.unwrap_or(Wanted { scope, ..Wanted::default() });
        let asked = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, cloud.facts(&wanted)).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("EC2 did not answer within {PATIENCE:?}")));
        metrics.looked(&answer);
        match answer {
            Ok(found) => {
                (failures, told) = (0, String::new());
                facts.send_if_modified(|known| {
                    let news = known.as_ref().is_none_or(|known| known.facts != found);
                    *known = Some(Arc::new(Described { facts: found, asked }));
                    news
                });
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != told {
                    warn!(error = text, "EC2 does not answer; what is enforced stays");
                    tell::publish(&kubernetes, denied(&error).unwrap_or_else(|| silent(&text)));
                }
                (failures, told) = (failures + 1, text);
            }
        }
        let longer = Duration::from_millis(500).saturating_mul(1 << failures.min(7)).min(PAUSE_MAX);
        let pause = if failures == 0 { every } else { longer.max(every) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = look.notified(), if failures == 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::observed::{EniConfig, SecurityGroupPolicy};

    #[test]
    fn groups_of_policies_and_subnets_of_eni_configs_are_asked_for() {
        let policy = SecurityGroupPolicy { group_ids: vec!["sg-1".into()], ..SecurityGroupPolicy::default() };
        let config = EniConfig { subnet_id: "subnet-9".into(), groups: GroupSet::default() };
        let cluster = ClusterFacts {
            policies: vec![policy],
            eni_configs: [("zone-a".to_owned(), config)].into(),
            ..ClusterFacts::default()
        };
        let wanted = wanted(&cluster, Scope::Vpc);
        assert_eq!(wanted.groups, BTreeSet::from(["sg-1".to_owned()]));
        assert_eq!(wanted.subnets, BTreeSet::from(["subnet-9".to_owned()]));
    }
}
