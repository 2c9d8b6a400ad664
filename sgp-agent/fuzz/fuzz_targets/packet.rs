//! Any packets, judged by kernel and model.

#![no_main]

#[path = "../tape.rs"]
mod tape;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use tape::Player;

thread_local! {
    static PLAYER: RefCell<Option<Player>> = const { RefCell::new(None) };
}

fuzz_target!(|tape: &[u8]| {
    PLAYER.with_borrow_mut(|player| player.get_or_insert_with(Player::start).play(tape));
});
