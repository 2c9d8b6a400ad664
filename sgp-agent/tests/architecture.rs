//! The invariants that the module comments promise, held against the source itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sgp_common::DropReason;
use sgp_common::pins::map;

/// Words that have no place in `src/domain`: I/O, clocks, SDKs.
const IMPURE: [&str; 19] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "tokio",
    "async",
    "kube",
    "k8s_openapi",
    "aya",
    "rtnetlink",
    "nix",
    "libc",
    "tracing",
    "anyhow",
    "SystemTime",
    "Instant",
    "println",
    "eprintln",
];
/// Paths likewise: the environment, and the layers above.
const IMPURE_PATHS: [&str; 9] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io",
    "crate::io",
    "crate::reconcile",
    "crate::cli",
    "crate::cni",
];

const KERNEL: &str = "sgp-agent/src/io/kernel/mod.rs";
const POLICIES: &str = "sgp-agent/src/io/kernel/policies.rs";
const SWEEP: &str = "sgp-agent/src/io/kernel/sweep.rs";
const COUNTS: &str = "sgp-agent/src/io/kernel/counts.rs";
const FLOW: &str = "sgp-ebpf/src/flow.rs";
const REPORT: &str = "sgp-ebpf/src/report.rs";
/// The tries inside POLICIES.
const INNER: &str = "(inner tries)";

/// Every file that writes a map. A map with two writers has one that fills it and one that reclaims it.
const WRITERS: &[(&str, &[&str])] = &[
    (map::INTERFACES, &[KERNEL]),
    (map::ENDPOINTS, &[KERNEL]),
    (map::ENDPOINT_NAMES, &[KERNEL]),
    (map::LOCAL, &[KERNEL]),
    (map::PEERS, &["sgp-agent/src/io/kernel/peers.rs"]),
    (map::POLICIES, &[POLICIES]),
    (map::REVISIONS, &[KERNEL]),
    (INNER, &[POLICIES]),
    (map::POLICY_SHAPE, &[]),
    (map::RULE_NAMES, &[POLICIES]),
    (map::FLOWS, &[SWEEP, FLOW]),
    (map::FLOW_COUNTS, &[COUNTS, SWEEP, FLOW]),
    (map::FRAGMENTS, &["sgp-ebpf/src/fragment.rs"]),
    (map::COUNTERS, &[COUNTS, REPORT]),
    (map::CHANGES, &[KERNEL]),
    ("NEAR", &["sgp-ebpf/src/endpoint.rs"]),
    (map::EVENTS, &[REPORT]),
    (map::SAMPLER, &[REPORT]),
    (map::EVENTS_LOST, &[REPORT]),
    (map::OBJECT, &["sgp-agent/src/io/kernel/programs.rs"]),
    (map::SNAT, &[SWEEP, "sgp-ebpf/src/snat.rs"]),
    (map::SNAT_EXCLUDED, &[KERNEL]),
    (map::STACK_NETS, &[KERNEL]),
    (map::NODE, &[KERNEL]),
    (map::VLANS, &[KERNEL]),
    (map::CLOCK, &["sgp-agent/src/io/kernel/trial.rs"]),
    (map::OUTCOME, &[REPORT]),
    ("SCRATCH", &["sgp-ebpf/src/packet.rs"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_path_buf()
}

/// Rust files below a directory of the workspace, by their path from its root.
fn sources(dir: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(&root().join(dir), &mut found);
    assert!(!found.is_empty(), "{dir} has no sources: has it moved?");
    found
}

fn collect(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("a directory of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.insert(name, code(&fs::read_to_string(&path).expect("a source file")));
        }
    }
}

/// The source without comments and texts, and without the white space that only formats.
fn code(source: &str) -> String {
    let lines = source.lines().map(str::trim).filter(|line| !line.starts_with("//")).map(|line| {
        let code: Vec<&str> = line.split('"').step_by(2).collect();
        code.join("\"\"").split("//").next().unwrap_or_default().trim().to_owned()
    });
    lines.collect::<Vec<_>>().join(" ").replace(" .", ".")
}

fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

#[test]
fn the_domain_is_pure() {
    for (file, code) in sources("sgp-agent/src/domain") {
        let words = words(&code);
        for word in IMPURE {
            assert!(!words.contains(word), "{file} says `{word}`: the domain does no I/O and knows no SDK");
        }
        assert!(!words.iter().any(|word| word.starts_with("aws_")), "{file} names the AWS SDK");
        for path in IMPURE_PATHS {
            assert!(!code.contains(path), "{file} says `{path}`: the domain is below everything");
        }
    }
}

#[test]
fn the_model_shares_only_words_with_what_it_is_held_against() {
    for (file, code) in sources("sgp-agent/src/domain/model") {
        for module in ["addr", "endpoint", "event", "exempt", "flow", "packet", "policy"] {
            assert!(!code.contains(&format!("sgp_common::{module}")), "{file} uses sgp_common::{module}");
        }
        for module in ["compile", "desired", "explain", "prefix"] {
            assert!(!code.contains(&format!("domain::{module}")), "{file} uses domain::{module}");
            assert!(!code.contains(&format!("super::{module}")), "{file} uses domain::{module}");
        }
    }
}

#[test]
fn modules_of_io_do_not_import_each_other() {
    let files = sources("sgp-agent/src/io");
    let inside = |file: &str| file.trim_start_matches("sgp-agent/src/io/").to_owned();
    let module = |file: &str| inside(file).split(['/', '.']).next().unwrap_or_default().to_owned();
    let modules: BTreeSet<String> = files.keys().map(|file| module(file)).filter(|name| name != "mod").collect();
    assert!(modules.len() >= 5, "io has modules: {modules:?}");
    for (file, code) in &files {
        let own = module(file);
        for other in modules.iter().filter(|name| **name != own && own != "mod") {
            assert!(!code.contains(&format!("io::{other}")), "{file} imports io::{other}");
            let above = if inside(file).ends_with("mod.rs") || !inside(file).contains('/') { "" } else { "super::" };
            assert!(!code.contains(&format!("{above}super::{other}")), "{file} imports its sibling {other}");
        }
        assert!(!code.contains("crate::reconcile"), "{file} imports the loop that is above it");
    }
}

#[test]
fn the_shared_crate_depends_on_nothing_but_an_optional_aya() {
    let manifest = fs::read_to_string(root().join("sgp-common/Cargo.toml")).expect("the manifest");
    let section = manifest.split("[dependencies]").nth(1).expect("a section").split("\n[").next().unwrap_or_default();
    let dependencies: Vec<&str> = section.lines().filter(|line| line.contains('=')).collect();
    assert_eq!(dependencies, ["aya = { workspace = true, optional = true }"]);
    let library = fs::read_to_string(root().join("sgp-common/src/lib.rs")).expect("the library");
    assert!(library.contains("#![no_std]"));
    for (file, code) in sources("sgp-common/src") {
        assert!(!words(&code).contains("std") && !words(&code).contains("alloc"), "{file} needs more than core");
    }
}

#[test]
fn every_reason_for_a_drop_is_explained() {
    let path = root().join("sgp-ebpf/DESIGN.md");
    let text = fs::read_to_string(&path).expect("sgp-ebpf/DESIGN.md");
    for reason in DropReason::ALL {
        let name = reason.name();
        let told = text.lines().any(|line| line.starts_with(['|', '#']) && words(line).contains(name));
        assert!(told, "{} has no heading or table row for {name}", path.display());
    }
}

#[test]
fn every_map_is_written_where_the_list_says_and_nowhere_else() {
    let mut files = sources("sgp-ebpf/src");
    files.extend(sources("sgp-agent/src/io/kernel"));
    for (map, writers) in WRITERS {
        let found: Vec<&str> =
            files.iter().filter(|(_, code)| writes(code, map)).map(|(file, _)| file.as_str()).collect();
        assert_eq!(found, *writers, "writers of {map}");
    }
    let listed: BTreeSet<&str> = WRITERS.iter().map(|(map, _)| *map).collect();
    assert!(map::ALL.iter().all(|map| listed.contains(map)), "every pinned map is in the list");
}

/// Whether a file writes a map: by its own name in programs; in the agent by the field of `Maps`, itself or through `Slots`.
fn writes(code: &str, map: &str) -> bool {
    let field = match map {
        map::ENDPOINT_NAMES => ".names".to_owned(),
        map::SNAT_EXCLUDED => ".excluded".to_owned(),
        INNER => " trie".to_owned(),
        other => format!(".{}", other.to_lowercase()),
    };
    let verbs = ["insert", "remove", "set", "get_ptr_mut", "reserve"];
    let called = |name: &str| verbs.iter().any(|verb| code.contains(&format!("{name}.{verb}(")));
    let by_slots = code.contains(&format!("&mut self.maps{field},"));
    by_slots
        || called(&field)
        || called(&format!(" {map}"))
        || called(&format!("({map}"))
        || called(&format!("= {map}"))
}

/// Who reads the clock of the day, which jumps: what others read as a time (events, metrics, Leases), and certificates.
const DAYS: [&str; 5] = [
    "sgp-agent/src/controller/certificate.rs",
    "sgp-agent/src/io/certificates.rs",
    "sgp-agent/src/io/kubernetes/cluster.rs",
    "sgp-agent/src/telemetry/events.rs",
    "sgp-agent/src/telemetry/metrics.rs",
];

#[test]
fn verdicts_lifetimes_and_pauses_go_by_clocks_that_do_not_jump() {
    let mut files = sources("sgp-agent/src");
    files.extend(sources("sgp-ebpf/src"));
    let days = ["SystemTime", "Timestamp::now", "CLOCK_REALTIME", "ktime_get_tai", "Utc::now"];
    let readers = files.iter().filter(|(_, code)| days.iter().any(|clock| code.contains(clock)));
    assert_eq!(readers.map(|(file, _)| file.as_str()).collect::<Vec<_>>(), DAYS);
}

#[test]
fn outside_the_kernel_module_nobody_holds_writable_maps() {
    for (file, code) in sources("sgp-agent/src") {
        if !file.starts_with("sgp-agent/src/io/kernel/") {
            assert!(!code.contains("&mut Maps") && !code.contains("let mut maps"), "{file} could write maps");
        }
    }
}
