//! Waiting for whom the agent cannot start without.

use std::time::Duration;

use anyhow::{Error, Result};
use tracing::warn;

/// The first pause before asking again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// Asks until there is an answer, less and less often as long as the same goes wrong. Each failure that differs from the last
/// is logged, and `tell` hears it.
pub(super) async fn insist<T, F: Future<Output = Result<T>>>(
    whom: &str,
    ask: impl Fn() -> F,
    tell: impl Fn(&Error),
) -> T {
    insist_after(PAUSE, whom, ask, tell).await
}

async fn insist_after<T, F: Future<Output = Result<T>>>(
    (first, longest): (Duration, Duration),
    whom: &str,
    ask: impl Fn() -> F,
    tell: impl Fn(&Error),
) -> T {
    let (mut told, mut pause) = (String::new(), first);
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                let text = format!("{error:#}");
                if text != told {
                    warn!(error = text, "cannot reach {whom}; trying again");
                    tell(&error);
                    pause = first;
                }
                told = text;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Instant;

    use anyhow::bail;

    use super::*;

    #[tokio::test]
    async fn what_goes_wrong_is_told_once_and_asked_less_and_less_often() {
        let (asked, told) = (RefCell::new(0), RefCell::new(Vec::new()));
        let ask = async || {
            *asked.borrow_mut() += 1;
            match *asked.borrow() {
                1..=4 => bail!("no permission"),
                5 => bail!("no connection"),
                _ => Ok(()),
            }
        };
        let begun = Instant::now();
        let pause = (Duration::from_millis(2), Duration::from_millis(8));
        insist_after(pause, "EC2", ask, |error| told.borrow_mut().push(error.to_string())).await;
        assert_eq!(*told.borrow(), ["no permission", "no connection"]);
        assert!(begun.elapsed() >= Duration::from_millis(2 + 4 + 8 + 8 + 2));
    }
}
