//! Any bytes, read as a frame.

#![no_main]

#[path = "../laws.rs"]
mod laws;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|frame: &[u8]| laws::hold(frame));
