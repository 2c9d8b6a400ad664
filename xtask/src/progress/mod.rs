//! What a long step tells while it runs: a line when it starts, a sign of life every ten seconds, a line when it ends.

pub(crate) mod command;

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Work that may take long enough for someone to wonder.
pub(crate) struct Step<'a> {
    /// What is being done, short enough to start every line about it.
    pub(crate) name: &'a str,
    /// How it is done; shown once, when the step starts.
    pub(crate) how: &'a str,
    /// How long it usually takes from nothing, on two cores.
    pub(crate) about: Duration,
    /// Says nothing at all if the work ends within this time: a cached build is no news.
    pub(crate) silent: Duration,
}

impl Step<'_> {
    /// Does the work on this thread while another one reports on it.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let (working, watched) = channel::<()>();
        thread::scope(|scope| {
            let reporter = scope.spawn(move || self.report(begun, &watched));
            let result = work();
            drop(working);
            let spoke = reporter.join().unwrap_or(true);
            self.conclude(begun.elapsed(), spoke, result.is_ok());
            result
        })
    }

    /// Reports until the work's end of the channel is dropped; says whether it printed anything.
    fn report(&self, begun: Instant, watched: &Receiver<()>) -> bool {
        if !self.silent.is_zero() && ended_within(watched, self.silent) {
            return false;
        }
        println!("{}: {} … (about {})", self.name, self.how, spoken(self.about));
        while !ended_within(watched, SIGN_OF_LIFE) {
            println!("{}: {}", self.name, still_running(begun.elapsed(), self.about));
        }
        true
    }

    fn conclude(&self, took: Duration, spoke: bool, succeeded: bool) {
        match succeeded {
            true if spoke => println!("{}: done after {}", self.name, spoken(took)),
            true => {}
            false => println!("{}: FAILED after {}", self.name, spoken(took)),
        }
    }
}

fn ended_within(watched: &Receiver<()>, time: Duration) -> bool {
    watched.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
}

fn still_running(elapsed: Duration, about: Duration) -> String {
    match elapsed > about {
        true => format!("still running after {}, usually {}", spoken(elapsed), spoken(about)),
        false => format!("{} of about {}", spoken(elapsed), spoken(about)),
    }
}

/// A time the way people say it: `0.4 s`, `42 s`, `5 min`, `5 min 10 s`.
pub(crate) fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, 0..5) => format!("{:.1} s", time.as_secs_f32()),
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_the_way_people_say_them() {
        let said = [400, 42_000, 300_000, 310_000].map(|ms| spoken(Duration::from_millis(ms)));
        assert_eq!(said, ["0.4 s", "42 s", "5 min", "5 min 10 s"]);
    }

    #[test]
    fn a_step_beyond_its_estimate_says_so() {
        let minute = Duration::from_secs(60);
        assert_eq!(still_running(Duration::from_secs(20), minute), "20 s of about 1 min");
        assert_eq!(still_running(2 * minute, minute), "still running after 2 min, usually 1 min");
    }

    #[test]
    fn a_step_hands_on_what_its_work_returned() {
        let step = Step { name: "n", how: "h", about: Duration::ZERO, silent: SIGN_OF_LIFE };
        assert_eq!(step.run(|| Ok(7)).ok(), Some(7));
        assert!(step.run(|| -> Result<()> { anyhow::bail!("no") }).is_err());
    }
}
