//! What a packet costs in each program: the benchmark `speed` of sgp-agent, which runs them in the kernel.

use std::path::Path;

use anyhow::Result;

use super::figures::Samples;
use crate::build::cargo;

/// Measures the programs of an object; of the agent's own where none is given.
pub(super) fn measure(only: &str, rounds: usize, object: Option<&Path>) -> Result<Vec<Samples>> {
    let (floor, out) = (cargo::root().join("target/bpf/floor.bpf.o"), super::directory()?.join("programs.json"));
    let mut bench = cargo::command();
    bench.args(["bench", "--quiet", "--profile", "dev"]).args(cargo::HOST_PACKAGES).args(["--bench", "speed", "--"]);
    bench.arg("--floor").arg(floor).arg("--out").arg(&out).args(["--only", only, "--rounds", &rounds.to_string()]);
    object.map(|object| bench.arg("--object").arg(object));
    super::written("speed", &mut bench, &out)
}
