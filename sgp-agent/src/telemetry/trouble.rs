//! A trouble that lasts: told when it begins and when it is over, not each time it is met.

use anyhow::Result;
use tracing::{info, warn};

/// Whether it lasts.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    lasts: bool,
}

impl Trouble {
    /// Tells of an outcome if it is another than before; `meaning`: what it means as long as it fails.
    pub(crate) fn met<T>(&mut self, outcome: &Result<T>, meaning: &'static str) {
        match (outcome, self.lasts) {
            (Err(error), false) => warn!(error = format!("{error:#}"), "{meaning}"),
            (Ok(_), true) => info!("over: {meaning}"),
            _ => {}
        }
        self.lasts = outcome.is_err();
    }
}
