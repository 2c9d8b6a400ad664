//! Prints a demo's steps: the command, what was expected, what happened.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const RED: &str = "31";
const CYAN: &str = "36";

/// How often a step that takes longer than a second says so.
const STILL_EVERY: Duration = Duration::from_secs(5);

/// Tells the story of a demo, step by step.
pub(crate) struct Narrator {
    number: usize,
    colour: bool,
    started: Instant,
}

/// One thing to do and to see.
pub(crate) struct Step<'a> {
    /// What this step is about.
    pub(crate) title: &'a str,
    /// The command as a person would type it.
    pub(crate) command: &'a str,
    /// What should happen.
    pub(crate) expected: &'a str,
}

impl Narrator {
    /// Colours only a terminal, and none where `NO_COLOR` is set (no-color.org).
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { number: 0, colour, started: Instant::now() }
    }

    /// Prints the step, acts, and prints what was seen.
    ///
    /// # Errors
    /// Where the act says that what happened is not what was expected.
    pub(crate) fn step(&mut self, step: &Step<'_>, act: impl FnOnce() -> Result<String>) -> Result<()> {
        self.number += 1;
        println!("\n{}", self.paint(BOLD, &format!("{:>2}. {}", self.number, step.title)));
        for line in step.command.lines() {
            println!("    {}", self.paint(CYAN, &format!("$ {line}")));
        }
        println!("    expected  {}", step.expected);
        let begun = Instant::now();
        let result = with_signs_of_life(begun, act);
        self.conclude(begun, &result);
        result.map(drop)
    }

    /// A line that is not a step.
    pub(crate) fn say(&self, text: &str) {
        println!("{}", self.paint(DIM, text));
    }

    /// The last line.
    pub(crate) fn end(&self, result: &Result<()>) {
        let seconds = self.started.elapsed().as_secs();
        match result {
            Ok(()) => {
                println!("\n{}", self.paint(GREEN, &format!("All {} steps as expected, {seconds} s.", self.number)))
            }
            Err(error) => println!("\n{}", self.paint(RED, &format!("Step {} differs: {error:#}", self.number))),
        }
    }

    fn conclude(&self, begun: Instant, result: &Result<String>) {
        let took = format!("{:.1} s", begun.elapsed().as_secs_f32());
        let (mark, text) = match result {
            Ok(seen) => (self.paint(GREEN, "as expected"), seen.clone()),
            Err(error) => (self.paint(RED, "DIFFERS"), format!("{error:#}")),
        };
        for (i, line) in text.trim_end().lines().enumerate() {
            println!("    {}  {line}", if i == 0 { "happened" } else { "        " });
        }
        println!("    {mark} {}", self.paint(DIM, &format!("({took})")));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Runs `act`; while it takes longer than a second, says so every few seconds.
fn with_signs_of_life<T>(begun: Instant, act: impl FnOnce() -> T) -> T {
    let done = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&done);
    let watcher = std::thread::spawn(move || {
        let mut next = Duration::from_secs(1);
        while !watched.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
            if begun.elapsed() >= next && !watched.load(Ordering::Relaxed) {
                println!("    …         still at it, {} s", begun.elapsed().as_secs());
                next += STILL_EVERY;
            }
        }
    });
    let result = act();
    done.store(true, Ordering::Relaxed);
    // A watcher that panicked has printed why; the step's result stands.
    drop(watcher.join());
    result
}
