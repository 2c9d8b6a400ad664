//! What a packet costs in each program: the benchmark `speed` of sgp-agent, which runs them in the kernel.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::figures::Samples;
use crate::build::cargo;
use crate::progress::command;

/// Measures the programs of an object; of the agent's own where none is given.
pub(super) fn measure(only: &str, rounds: usize, object: Option<&Path>) -> Result<Vec<Samples>> {
    let (floor, out) = (cargo::root().join("target/bpf/floor.bpf.o"), super::directory()?.join("programs.json"));
    let mut bench = cargo::command();
    bench.args(["bench", "--quiet", "--profile", "dev"]).args(cargo::HOST_PACKAGES).args(["--bench", "speed", "--"]);
    bench.arg("--floor").arg(floor).arg("--out").arg(&out).args(["--only", only, "--rounds", &rounds.to_string()]);
    object.map(|object| bench.arg("--object").arg(object));
    let status = bench.stdin(Stdio::null()).status().context("the benchmark `speed` cannot be started")?;
    ensure!(status.success(), "`{}` failed; what it printed is above", command::shown(&bench));
    let written = fs::read(&out).with_context(|| format!("{} cannot be read", out.display()))?;
    serde_json::from_slice(&written).context("what the benchmark wrote is not understood")
}
