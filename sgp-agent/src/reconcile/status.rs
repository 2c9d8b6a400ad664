//! What the loop tells of its rounds, and how others follow it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::domain::desired::Desired;
use crate::domain::installed::Installed;
use crate::domain::observed::Observed;

/// What the loop has brought about; the CNI plugin's requests wait on it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What was observed last.
    pub observed: Observed,
    /// What the kernel held after the last round.
    pub installed: Installed,
    /// What should be there.
    pub desired: Desired,
    /// What cannot be done, and why, by object.
    pub refused: BTreeMap<String, String>,
    /// How the last round went; `None` before the first.
    pub synced: Option<Synced>,
}

/// A round that left the kernel as desired.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    /// When it ended.
    pub at: Instant,
    /// How long it took.
    pub took: Duration,
    /// When EC2 was asked what the round knew of it.
    pub described: Option<Instant>,
    /// When the API server answered last.
    pub answered: Option<Instant>,
    /// When whoever looks after slices was heard, where the round enforced them.
    pub published: Option<Instant>,
}

/// How long who follows the rounds waits to do again what failed after the last one.
const AGAIN: Duration = Duration::from_secs(1);

/// Waits for a round that was not seen yet or, where what came after the last one `failed`, only for a moment. False once there
/// will be no more rounds.
pub async fn next_round(status: &mut watch::Receiver<Status>, failed: bool) -> bool {
    let most = if failed { AGAIN } else { Duration::MAX };
    !matches!(tokio::time::timeout(most, status.changed()).await, Ok(Err(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_failed_is_done_again_soon_and_what_did_not_after_the_next_round() {
        let (rounds, mut status) = watch::channel(Status::default());
        assert!(next_round(&mut status, true).await, "no round comes, and none is needed");
        let none_comes = tokio::time::timeout(AGAIN * 2, next_round(&mut status, false)).await;
        assert!(none_comes.is_err());
        rounds.send_replace(Status::default());
        assert!(next_round(&mut status, false).await);
        drop(rounds);
        assert!(!next_round(&mut status, true).await && !next_round(&mut status, false).await, "the loop has ended");
    }
}
