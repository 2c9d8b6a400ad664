//! `sgp-agent`, also started as `sgp-cni`.

fn main() {}
