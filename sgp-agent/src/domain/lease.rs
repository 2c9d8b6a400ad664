//! Who of several controllers works: the one that holds a Lease (`coordination.k8s.io/v1`).

/// A Lease as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Who holds it; empty where it was given back.
    pub holder: String,
    /// Changes with every renewal: the resource version.
    pub version: String,
    /// How long it is held without renewal, in seconds.
    pub duration_s: u64,
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's, or its holder has not renewed it in time: take it.
    Take,
    /// It is another's.
    Wait,
}

/// What a candidate has seen of a Lease. Clocks of two machines are never compared: a Lease has run out if it
/// was *seen* unchanged for as long as it is held.
#[derive(Clone, Debug, Default)]
pub struct Watcher {
    seen: Option<(Held, u64)>,
}

impl Watcher {
    /// What candidate `own` does now (`now_s`, any clock of its own).
    pub fn decide(&mut self, held: &Held, own: &str, now_s: u64) -> Move {
        let since = match &self.seen {
            Some((before, since)) if before == held => *since,
            _ => now_s,
        };
        self.seen = Some((held.clone(), since));
        match held.holder.as_str() {
            holder if holder == own => Move::Renew,
            "" => Move::Take,
            _ if now_s >= since + held.duration_s => Move::Take,
            _ => Move::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, version: &str) -> Held {
        Held { holder: holder.into(), version: version.into(), duration_s: 15 }
    }

    #[test]
    fn a_lease_of_another_is_taken_once_it_was_seen_unchanged_for_its_whole_time() {
        let mut watcher = Watcher::default();
        assert_eq!(watcher.decide(&held("a", "1"), "b", 100), Move::Wait);
        assert_eq!(watcher.decide(&held("a", "1"), "b", 114), Move::Wait);
        assert_eq!(watcher.decide(&held("a", "2"), "b", 115), Move::Wait);
        assert_eq!(watcher.decide(&held("a", "2"), "b", 129), Move::Wait);
        assert_eq!(watcher.decide(&held("a", "2"), "b", 130), Move::Take);
    }

    #[test]
    fn ones_own_is_renewed_and_one_given_back_is_taken_at_once() {
        let mut watcher = Watcher::default();
        assert_eq!(watcher.decide(&held("b", "1"), "b", 0), Move::Renew);
        assert_eq!(watcher.decide(&held("", "2"), "b", 0), Move::Take);
    }
}
