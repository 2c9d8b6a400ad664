//! Answers the API server's webhooks, and probes.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use tracing::{info, warn};

use super::Settings;
use crate::domain::admission::{
    self, Answer, MUTATING_PATH, Matched, Question, VALIDATING_PATH, Verdict, guard, pod_of, policies_matter,
    resource_injection,
};
use crate::domain::matching::{account_matters, groups_of};
use crate::domain::observed::{ClusterFacts, Pod};
use crate::io::https::{Certificate, Handler, Reply};
use crate::io::kubernetes::{Cluster, base64};

pub(super) fn handler(cluster: Cluster, settings: Arc<Settings>, certificate: Arc<Certificate>) -> Handler {
    Arc::new(move |path, body| {
        let (cluster, settings, certificate) = (cluster.clone(), Arc::clone(&settings), Arc::clone(&certificate));
        Box::pin(async move {
            match path.as_str() {
                // Whoever asks has shaken hands, so there is a certificate.
                "/healthz" | "/readyz" if certificate.is_there() => (StatusCode::OK, "{}".to_owned()),
                MUTATING_PATH | VALIDATING_PATH => review(&path, &body, &cluster, &settings).await,
                _ => (StatusCode::NOT_FOUND, format!("there is nothing at {path}")),
            }
        })
    })
}

async fn review(path: &str, body: &Bytes, cluster: &Cluster, settings: &Settings) -> Reply {
    let question = match admission::question(body) {
        Ok(question) => question,
        Err(reason) => {
            warn!(path, reason, "a review cannot be read");
            return (StatusCode::BAD_REQUEST, reason);
        }
    };
    let answer =
        if path == MUTATING_PATH { mutate(&question, cluster).await } else { guard(&question, &settings.writers) };
    if answer.verdict == Verdict::Denied {
        let (user, namespace) = (&question.user, &question.namespace);
        info!(path, user, namespace, reason = answer.message, "denied");
    }
    (StatusCode::OK, admission::answer(&question.uid, &answer, base64).to_string())
}

async fn mutate(question: &Question, cluster: &Cluster) -> Answer {
    let matched =
        if policies_matter(question) { matched(&pod_of(question), cluster).await } else { Ok(<_>::default()) };
    resource_injection(question, &matched)
}

/// A ServiceAccount is asked for only where a policy hangs on it.
async fn matched(pod: &Pod, cluster: &Cluster) -> Matched {
    let policies = cluster.policies(&pod.namespace).await?;
    let mut facts = ClusterFacts { policies, ..ClusterFacts::default() };
    if account_matters(pod, &facts.policies) {
        let labels = cluster.account(&pod.namespace, &pod.service_account).await?;
        facts.service_accounts.insert((pod.namespace.clone(), pod.service_account.clone()), labels);
    }
    Ok(groups_of(pod, &facts))
}
