//! Maps that a newer layout takes over as they are: by the golden files of both, which `abi.rs` holds against the code.

use std::collections::{BTreeMap, BTreeSet};

use sgp_common::ABI_VERSION;

/// Of a golden file: fields of each struct as (offset, size, name), and all other lines.
type Layouts<'a> = (BTreeMap<&'a str, Vec<[&'a str; 3]>>, BTreeSet<&'a str>);

fn layouts(golden: &str) -> Layouts<'_> {
    let (mut structs, mut others, mut current) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new(), "");
    for line in golden.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["struct", name, ..] => current = name,
            [offset, size, field] if line.starts_with("  ") => {
                structs.entry(current).or_default().push([offset, size, field]);
            }
            _ => drop(others.insert(line)),
        }
    }
    (structs, others)
}

/// What a newer layout takes over as it is (`pins::CARRIED`), with the limits of those maps.
#[test]
fn what_both_layouts_share_has_only_grown_into_bytes_that_were_reserved() {
    let (previous, now) = (include_str!("abi.previous.golden"), include_str!("abi.golden"));
    let ((before, constants), (after, _)) = (layouts(previous), layouts(now));
    assert_eq!(previous.lines().next(), Some(format!("ABI_VERSION {}", ABI_VERSION - 1).as_str()));
    for name in [
        "FlowKey",
        "Flow",
        "FragmentKey",
        "Fragment",
        "Admission",
        "SnatKey",
        "SnatEntry",
        "RuleKey",
        "RuleName",
        "Event",
        "Sampler",
    ] {
        // Alignment is how programs reach the bytes: what the kernel keeps begins at a multiple of 8 in any case.
        let size = |golden: &str| {
            let line = golden.lines().find(|line| line.starts_with(&format!("struct {name} "))).map(str::to_owned);
            line.and_then(|line| line.split(" align ").next().map(str::to_owned))
        };
        assert!(size(now).is_some_and(|now| Some(now) == size(previous)), "{name} has another size than before");
        let meant = before[name].iter().filter(|[.., field]| !["reserved", "padding"].contains(field));
        meant.for_each(|field| assert!(after[name].contains(field), "{name}: {field:?} has moved or changed"));
    }
    let shared = ["FLOWS_MAX", "FRAGMENTS_MAX", "SNAT_MAX", "RULE_NAMES_MAX", "EVENTS_BYTES"];
    for line in constants.iter().filter(|line| shared.iter().any(|name| line.contains(&format!("limits::{name} ")))) {
        assert!(
            now.lines().any(|kept| kept == *line),
            "{line} has changed, and with it the shape of a map that is shared"
        );
    }
}
