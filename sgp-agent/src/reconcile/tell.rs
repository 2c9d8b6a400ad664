//! Says what there is to say: as events, each once for as long as it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::{info, warn};

use super::provision::Round;
use crate::domain::branches::{Notice, Purpose, Severity, pod_name};
use crate::domain::cloud_steps::ANNOTATING;
use crate::domain::observed::Observed;
use crate::io::kubernetes::Kubernetes;

/// What has been said and still holds.
#[derive(Default)]
pub(super) struct Told {
    refused: BTreeMap<String, String>,
    notices: BTreeSet<Notice>,
}

impl Told {
    /// Tells each refusal once, as an event on the pod it names; another refusal of the same pod is news.
    pub(super) fn tell(&mut self, kubernetes: &Arc<Kubernetes>, round: &Round, observed: &Observed) {
        self.notices.retain(|notice| round.notices.contains(notice));
        for notice in &round.notices {
            if self.notices.insert(notice.clone()) {
                publish(kubernetes, notice.clone());
            }
        }
        self.refused.retain(|object, _| round.refused.contains_key(object));
        let pods = observed.cluster.iter().flat_map(|cluster| cluster.pods.values());
        let uids: BTreeMap<String, &String> = pods.map(|pod| (pod_name(pod), &pod.uid)).collect();
        for (object, reason) in &round.refused {
            if self.refused.insert(object.clone(), reason.clone()).as_ref() == Some(reason) {
                continue;
            }
            warn!(object, reason, "refused");
            if let Some(uid) = uids.get(object) {
                let about = Purpose::Pod { uid: (*uid).clone(), name: object.clone() };
                let (reason, message) = of_pod(reason);
                publish(kubernetes, Notice { about, severity: Severity::Warning, reason, message });
            }
        }
    }
}

/// Reason and text of the event, as AWS's controller has them (facts 1.7): a reason of its own for the last step.
fn of_pod(refusal: &str) -> (&'static str, String) {
    match refusal.strip_prefix(ANNOTATING).and_then(|rest| rest.strip_prefix(", ")) {
        Some(why) => ("BranchENIAnnotationFailed", format!("failed to annotate pod with branch ENI details: {why}")),
        None => ("BranchAllocationFailed", format!("failed to allocate branch ENI to pod: {refusal}")),
    }
}

/// Beside the loop: an API server that does not answer must not hold up the data path.
pub(super) fn publish(kubernetes: &Arc<Kubernetes>, notice: Notice) {
    let kubernetes = Arc::clone(kubernetes);
    match notice.severity {
        Severity::Normal => info!(about = ?notice.about, reason = notice.reason, notice.message),
        Severity::Warning => warn!(about = ?notice.about, reason = notice.reason, notice.message),
    }
    tokio::spawn(async move { kubernetes.tell(&notice).await });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_events_are_awss_to_the_letter() {
        let created = "creating network interface, InsufficientFreeAddressesInSubnet: none is free";
        let allocation = format!("failed to allocate branch ENI to pod: {created}");
        assert_eq!(of_pod(created), ("BranchAllocationFailed", allocation));
        let annotation = "failed to annotate pod with branch ENI details: Forbidden: no".to_owned();
        assert_eq!(of_pod(&format!("{ANNOTATING}, Forbidden: no")), ("BranchENIAnnotationFailed", annotation));
    }
}
