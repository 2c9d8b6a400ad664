//! Caches that watches keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tracing::{info, warn};

/// Whether the agent can do without a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It cannot: nothing is known until the first snapshot.
    Always,
    /// A cluster without the kind is as good as one without objects; one that refuses to tell is not.
    IfInstalled,
    /// Likewise, and so is a role without the right: the agent can do without.
    IfThere,
}

/// A cache that a watch keeps, and whether its first snapshot is complete.
pub(super) struct Watched<K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static> {
    pub(super) store: Store<K>,
    state: Arc<State>,
}

/// How far a watch has come.
#[derive(Default)]
struct State {
    /// The first snapshot is complete, or there will be none.
    synced: AtomicBool,
    /// The last list or watch was denied.
    denied: AtomicBool,
}

impl<K> Watched<K>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + DeserializeOwned + std::fmt::Debug + 'static,
{
    /// Watches in the background; every change and the first complete snapshot notify.
    pub(super) fn start(api: Api<K>, config: watcher::Config, need: Need, changed: Arc<Notify>) -> Self {
        let (store, writer) = reflector::store();
        let state = Arc::new(State::default());
        let stream = watcher(api, config).default_backoff().reflect(writer);
        tokio::spawn(follow(stream, need, changed, Arc::clone(&state)));
        Self { store, state }
    }

    pub(super) fn snapshot(&self) -> Option<Vec<Arc<K>>> {
        self.state.synced.load(Ordering::Acquire).then(|| self.store.state())
    }

    /// The cluster does not have the kind, or the role may not read it.
    pub(super) fn is_denied(&self) -> bool {
        self.state.denied.load(Ordering::Acquire)
    }
}

/// Whether an error means that there is nothing to wait for.
fn is_denial(error: &watcher::Error, need: Need) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    let kube::Error::Api(status) = cause else { return false };
    match need {
        Need::Always => false,
        Need::IfInstalled => status.code == 404,
        Need::IfThere => matches!(status.code, 403 | 404),
    }
}

/// Whether the API server has forgotten what the watch wants to go on from; the watch then lists anew.
fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == GONE,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == GONE,
        _ => false,
    }
}

/// "Gone", of HTTP: what Kubernetes says of a resource version that is too old.
const GONE: u16 = 410;

async fn follow<K: Resource<DynamicType = ()>>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    need: Need,
    changed: Arc<Notify>,
    state: Arc<State>,
) {
    let kind = K::kind(&()).into_owned();
    let mut told = false;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                // Begun is not done: a list that fails says `Init` each time.
                told &= matches!(event, watcher::Event::Init);
                if !matches!(event, watcher::Event::Init) {
                    state.denied.store(false, Ordering::Release);
                }
                if matches!(event, watcher::Event::InitDone) {
                    state.synced.store(true, Ordering::Release);
                }
                changed.notify_one();
            }
            Err(error) if is_denial(&error, need) => {
                state.denied.store(true, Ordering::Release);
                if !state.synced.swap(true, Ordering::AcqRel) {
                    info!(kind, reason = %chain(&error), "not watched: the cluster does not have it, or the role may not read it");
                    changed.notify_one();
                }
            }
            Err(error) if is_expired(&error) => {
                info!(
                    kind,
                    "the API server does not know any more what has changed since; asking for everything anew (410 Gone)"
                );
            }
            // Once per outage: the watch itself retries with backoff, and the last snapshot stays.
            Err(error) if !told => {
                told = true;
                warn!(kind, error = %chain(&error), "the watch on the API server failed; retrying");
            }
            Err(_) => {}
        }
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
