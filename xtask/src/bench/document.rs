//! `docs/performance.md`, from a run.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};

use super::figures::Figure;
use super::{Report, agent, live, targets};
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
    let (matrix, held, agent) = (matrix(&report.live), held(&report.live), agent::table(&report.agent));
    format!(
        "# What enforcement costs\n\n\
         Written by `cargo xtask bench --document`; run it for the figures of your machine.\n\n\
         {} x {}, Linux {} ({}), {}, {} rounds, {}. {} programs wanted to run when it began, on {} processors: the spread says how much of \
         a figure is theirs.\n\n\
         ## One packet in one program\n\n{HOW}\n\n\
         | one packet | ns, median | spread | of its floor | meant | kept |\n|---|---|---|---|---|---|\n{rows}\n\
         ## Live traffic\n\n{LIVE} {} rounds.\n\n{matrix}\n{held}\n\
         ## The agent\n\n{AGENT}\n\n{agent}\n\
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
        report.live_rounds,
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

/// Configurations from top to bottom, measures from left to right.
fn matrix(live: &[live::Figure]) -> String {
    let measures = live::distinct(live, |figure| &figure.measure);
    let mut text =
        format!("| of plain forwarding | {} |\n|---|{}\n", measures.join(" | "), "---|".repeat(measures.len()));
    for configuration in live::distinct(live, |figure| &figure.configuration) {
        let cell = |measure: &&str| {
            let mut found = live.iter().filter(|one| one.configuration == configuration && one.measure == *measure);
            found.next().map_or_else(String::new, |figure| figure.shown().join(" (") + ")")
        };
        let cells: Vec<String> = measures.iter().map(cell).collect();
        let _ = writeln!(text, "| {configuration} | {} |", cells.join(" | "));
    }
    text
}

/// Those of which something is meant.
fn held(live: &[live::Figure]) -> String {
    let mut text = "| ours | measure | of plain forwarding | meant | kept |\n|---|---|---|---|---|\n".to_owned();
    for figure in live {
        let Some(least) = targets::least(figure) else { continue };
        let kept = if figure.ratio >= least { "yes" } else { "**no**" };
        let live::Figure { configuration, measure, ratio, .. } = figure;
        let _ = writeln!(text, "| {configuration} | {measure} | {ratio:.2} | >= {least:.2} | {kept} |");
    }
    text
}

const LIVE: &str = "\
A pod, its node and what is outside are network namespaces with veths between, a veth standing for the branch; the node is once one that \
only forwards, and once one of each configuration, and each value is taken next to one of plain forwarding. Figures are the medians of the \
rounds' ratios, with the least and the most of them; above 1 is faster than the kernel without any rule. Plain forwarding, nftables, \
iptables and the bare redirect have a route for each direction in the table `main` and no more; ours the rules and tables of its mode, \
programs attached as the agent attaches them, and policies put by it. Before anything is measured each configuration must let pass what \
its rules allow, drop what they do not, and be seen outside under the right address.\n\n\
`out`, `in`, `new flows`: UDP frames of 60 bytes a second, pod to outside, outside to pod, and pod to outside where every packet opens a \
flow. A tc program sends them by the veth of the namespace they come from (`BPF_PROG_TEST_RUN` and `bpf_clone_redirect`, 32 at a time, \
no system call for any of them); a tc program where they are to come counts and ends them, so only what came is counted. Flows stand \
before they are measured: a packet of each went through, its answer back, and one more. With SNAT `in` are answers to translated flows. All of that is \
one processor's work from end to end. TCP streams send from that processor and are received on a second one (Reno, and the segmentation offload of veths); connections \
(connect, ask, be answered, close) and requests (on one connection, one at a time) have both ends on the first.\n\n\
`nftables` asks connection tracking first, then one set of address, protocol and port; `iptables` has its rules one after the other, \
those that match last, and aws-node's chains beside. Ours and aws-node's choose ports at random, nftables keeps them. The bare redirect \
(`bpf_redirect_neigh` with the next hop given, `bpf_redirect_peer`) looks at nothing: an upper bound.";

const AGENT: &str = "\
The agent's library, optimised, with the real maps and programs on a node in a network namespace: 120 pods, 12 group sets, 1,000 rules \
each of which half ask for a group, and peers in slices of 1,000 addresses, a tenth of them IPv6. *Peer change*: from the JSON of a watch \
to the entry in the map. *Rule edit*: from the changed rule to the policy swapped in and all but peers read back, which is a whole round; ten pods have the policy. \
*Full plan and apply*: on an empty node; the kernel waits some 12 ms for its readers (RCU) after each of 480 programs is attached. *Start*: from \
slices' JSON and pins to a round that changes nothing. *CPU*: of one processor, at as many changes as 100,000 pods make that live for a \
quarter of an hour, the making of their JSON included; *where nothing changes*: a round and a sweep every 30 s. What EC2 and the API server take is not in it.";

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
do not depend on the number of rules, and, where a rule that allows the service asks for a group, two in the table of peers. A denied packet costs the same without the insertion; where its \
sender is new each time, the miss in the table of flows is a cache miss. What stands between that and its target is the policy: \
3 to 4 lookups, each a call. A cache of decisions would save them for repeated questions, and would have to be emptied with every change \
of rules and members; it is not built.\n\n\
Live, a packet of a known flow is judged once and goes past the host stack, each way; a flow's first packet each way takes the stack, \
and meets two of our programs: what is new all the time is slower than plain forwarding. With `--shortcut all` first packets are judged \
where they come in and go past the stack too. That is for nodes on which nobody but kube-proxy has a word in the stack, so it has to be chosen. Of what such a packet costs \
beyond a bare redirect (some 800 ns, by `perf`) a quarter is the stack's own routing, asked by `bpf_fib_lookup` lest a rule of somebody's be passed by, \
a quarter the insertion into a table that no cache holds, an eighth the miss before it, and the rest policies, Services and parsing. \
A bare redirect that misses and inserts reaches 0.88; the routing and a policy's lookups stand between that and us.\n\n\
A translated packet is written to: its transport checksum is corrected by two helpers, since only the kernel knows whether a NIC will \
fill it in, and one call stores addresses, ports and the header's checksum; it is sent by the next hop of the primary interface. \
`translated … out` is measured at the branch, where a trie is asked whether the destination is translated at all; live, a known flow \
is translated at the pod's veth and remembers that. `back` looks up twice: whose translated port it is, and the flow.";

const MISSING: &str = "\
XDP by a network card: frames `from the driver` are made by the kernel itself (`BPF_F_TEST_XDP_LIVE_FRAMES`), as pages like a driver's; a card's own \
work comes on top in either case. What passes by `--xdp` is not measured: a second lookup, which is why it is off by default. Of the agent: what EC2 and the API \
server take to tell it (docs/scale.md has that on paper).";

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

    #[test]
    fn live_traffic_has_a_row_for_each_configuration_and_says_whether_its_targets_are_kept() {
        let of = |configuration: &str, measure: &str| live::Figure {
            configuration: configuration.into(),
            ..live::sample(measure)
        };
        let live = [of("bare", "requests"), of("ours", "requests"), of("ours", "new flows")];
        let cell = "0.90 (0.50-1.10)";
        let head = "| of plain forwarding | requests | new flows |\n|---|---|---|\n";
        assert_eq!(matrix(&live), format!("{head}| bare | {cell} |  |\n| ours | {cell} | {cell} |\n"));
        let rows = "| ours | requests | 0.90 | >= 1.00 | **no** |\n| ours | new flows | 0.90 | >= 0.80 | yes |\n";
        assert!(held(&live).ends_with(rows), "{}", held(&live));
    }
}
