//! Embeds the eBPF object that `cargo xtask build` made. Without one the agent still builds, so that pure
//! tests need no BPF toolchain; loading it then fails with a sentence that says what to run.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/sgp.bpf.o");
    let object = env::var_os("SGP_BPF_OBJECT").map_or(built, PathBuf::from);
    println!("cargo::rerun-if-env-changed=SGP_BPF_OBJECT");
    println!("cargo::rerun-if-changed={}", object.display());
    let embedded = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("sgp.bpf.o");
    fs::write(&embedded, fs::read(&object).unwrap_or_default()).expect("OUT_DIR is writable");
}
