//! `instance-types`: the table of what each instance type can carry, and its refreshing from EC2.

use anyhow::{Error, Result};
use clap::Args;

use crate::domain::instance_types::{BUILT_IN, parse, refresh, write};
use crate::io::ec2::Account;

const EXAMPLES: &str = "Examples:
  sgp-agent instance-types                          the table built in, as CSV
  sgp-agent instance-types --refresh > limits.csv   the same with what EC2 says now (ec2:DescribeInstanceTypes)
  sgp-agent run --instance-limits limits.csv
EC2 does not tell how many branches a type carries: new types come with 0, are named on standard error, and wait
for AWS to publish their number.";

/// What to print.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct InstanceTypes {
    /// Ask EC2 what it says now
    #[arg(long)]
    refresh: bool,
}

/// Prints the table.
pub(super) fn print(asked: &InstanceTypes) -> Result<()> {
    let mut table = parse(BUILT_IN).map_err(Error::msg)?;
    if asked.refresh {
        let told = super::asynchronously(async { Account::connect().await.instance_types().await })?;
        let (new, changed) = refresh(&mut table, told);
        eprintln!("{} types changed: {}", changed.len(), changed.join(" "));
        eprintln!("{} types are new and carry no branches until their number is written: {}", new.len(), new.join(" "));
    }
    print!("{}", write(&table));
    Ok(())
}
