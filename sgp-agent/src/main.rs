//! `sgp-agent`, also started as `sgp-cni`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sgp_agent::cli::main()
}
