//! What AWS's own tests demand of matching, trunk and branches (facts 7.1 and 7.2), asked of us: a table of case,
//! expected and seen. Where we differ from AWS on purpose, the case says so. Webhooks are not here: they are the
//! controller's.

mod branches;
mod lives;
mod matching;
mod trunk;

use crate::tell;

/// One case.
pub(crate) struct Case {
    /// What AWS tests.
    of: &'static str,
    what: &'static str,
    expected: &'static str,
    seen: fn() -> String,
}

const fn case(of: &'static str, what: &'static str, expected: &'static str, seen: fn() -> String) -> Case {
    Case { of, what, expected, seen }
}

fn hold(title: &str, cases: &[Case]) {
    let mut table = format!("{title}\n  {:<24} | {:<82} | {:<52} | seen", "of", "case", "expected");
    let mut wrong = Vec::new();
    for case in cases {
        let seen = (case.seen)();
        table += &format!("\n  {:<24} | {:<82} | {:<52} | {seen}", case.of, case.what, case.expected);
        if seen != case.expected {
            wrong.push(case.what);
        }
    }
    tell(&table);
    assert_eq!(wrong, [""; 0], "cases that differ");
}

#[test]
fn policies_match_pods_as_awss_controller_matches_them() {
    hold("matching (facts 7.1)", &matching::CASES);
}

#[test]
fn the_trunk_is_made_as_awss_controller_makes_it() {
    hold("trunk (facts 7.2)", &trunk::CASES);
}

#[test]
fn branches_are_made_and_deleted_as_awss_controller_does_it() {
    hold("branches (facts 7.2)", &branches::CASES);
}

#[test]
fn branches_live_as_awss_controller_lets_them_live() {
    hold("lives (facts 7.1 and 7.2)", &lives::CASES);
}
