//! Frames that were fed to the fuzz target `parser`: seeds, and all on which it ever broke a law (`fuzz/found`).

#[path = "../fuzz/laws.rs"]
mod laws;

use std::fs;
use std::path::Path;

#[test]
fn the_parser_keeps_its_laws_on_all_that_was_ever_found() {
    let mut frames = 0;
    for directory in ["fuzz/seeds", "fuzz/found"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        for file in fs::read_dir(directory).expect("frames").flatten() {
            println!("{}", file.path().display());
            laws::hold(&fs::read(file.path()).expect("a frame"));
            frames += 1;
        }
    }
    assert!(frames >= 20, "only {frames} frames");
}
