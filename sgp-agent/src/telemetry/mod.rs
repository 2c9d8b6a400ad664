//! What the agent tells those who operate it: metrics, health, events, and a file about itself.

pub mod events;
pub mod metrics;
pub mod pinned;
pub mod state;
mod trouble;
pub mod web;
