//! `docs/performance.md`, from a run.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::figures::Figure;
use super::{Report, targets};
use crate::build::cargo;

/// Where it stands, relative to the root.
const PATH: &str = "docs/performance.md";

/// Writes the document anew.
pub(super) fn write(report: &Report) -> Result<()> {
    fs::write(cargo::root().join(PATH), text(report)).with_context(|| format!("{PATH} cannot be written"))?;
    eprintln!("wrote {PATH}");
    Ok(())
}

fn text(report: &Report) -> String {
    let machine = &report.machine;
    let rows: String = report.programs.iter().map(row).collect();
    format!(
        "# What enforcement costs\n\n\
         Written by `cargo xtask bench --document`; run it for the figures of your machine.\n\n\
         {} x {}, Linux {} ({}), {}, {} rounds, {}. {} programs wanted to run when it began, on {} processors: the spread says how much of \
         a figure is theirs.\n\n\
         ## One packet in one program\n\n{HOW}\n\n\
         | one packet | ns, median | spread | of its floor | meant | kept |\n|---|---|---|---|---|---|\n{rows}\n\
         ## Where it goes\n\n{PROFILE}\n\n## What is not measured\n\n{MISSING}\n",
        machine.processors,
        machine.processor,
        machine.kernel,
        machine.mitigations,
        machine.date,
        report.rounds,
        machine.revision,
        machine.load,
        machine.processors,
    )
}

fn row(figure: &Figure) -> String {
    let mut row = format!(
        "| {} | {:.0} | {:.0}-{:.0} | {} |",
        figure.case,
        figure.median_ns,
        figure.least_ns,
        figure.most_ns,
        figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} x"))
    );
    let _ = match targets::of(figure) {
        Some(limit) => {
            writeln!(row, " <= {} | {} |", limit.shown(), if limit.is_kept_by(figure) { "yes" } else { "**no**" })
        }
        None => writeln!(row, " | |"),
    };
    row
}

const HOW: &str = "\
The pinned programs themselves run in the kernel (`BPF_PROG_TEST_RUN`), on a node in a network namespace with real policies. A driver of \
ours writes another packet for each run (`sgp-ebpf/src/floor`), so that flows come in random order, and becomes the program by a tail call; \
what it costs with a program that does nothing is taken off. Every packet is seen to be judged as it should. Cases are measured in turn, \
round after round, each beside its *floor*: a program that parses by fixed offsets and does one lookup and one store in a table of the same \
keys and values, or misses and inserts. Ratios are medians of the rounds' own ratios. `in`: at the branch, from the VPC; `out`: to it.";

const PROFILE: &str = "\
An established packet costs its lookup, some 30 ns of parsing, exemptions, ownership, the flow's state and counting, and no other call. \
To return from a function or a helper costs some 5 ns where the kernel guards returns, so what is common is inlined.\n\n\
A new flow costs its floor (a miss, then an insertion that hashes again), the lookup of its policy and two or three in its trie, which \
do not depend on the number of rules, and one in the table of peers. A denied packet costs the same without the insertion; where its \
sender is new each time, the miss in the table of flows is a cache miss. What stands between that and its target is the policy: \
3 to 4 lookups, each a call. A cache of decisions would save them for repeated questions, and would have to be emptied with every change \
of rules and members; it is not built.\n\n\
A translated packet is written to: its checksums are corrected and its addresses stored by six helpers, each of which looks at the whole \
skb again, and `out` asks a trie whether its destination is translated. That is not optimised yet.";

const MISSING: &str = "\
Live traffic (packets a second, TCP, connections, latency, beside plain forwarding and nftables) and the redirects past the host stack \
are not measured and not built yet; neither is the agent's own speed at 100,000 peers.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_a_target_is_kept() {
        let figure = |median_ns| Figure {
            case: "established, 1 flow, in".into(),
            median_ns,
            least_ns: 60.0,
            most_ns: 99.0,
            floor: None,
            ratio: Some(1.75),
        };
        assert_eq!(row(&figure(70.0)), "| established, 1 flow, in | 70 | 60-99 | 1.75 x | <= 75 ns | yes |\n");
        assert!(row(&figure(80.0)).ends_with("| **no** |\n"));
    }
}
