//! What each reason for a drop means, and what helps: by the page that people read.

use sgp_common::DropReason;

const PAGE: &str = include_str!("../../../docs/drop-reasons.md");

/// Meaning and cure of a reason, as `docs/drop-reasons.md` has them; `None` where it has no row.
pub fn explained(reason: DropReason) -> Option<(&'static str, &'static str)> {
    let begin = format!("| `{}` | ", reason.name());
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&begin))?;
    row.strip_suffix(" |")?.split_once(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_meaning_and_a_cure() {
        for reason in DropReason::ALL {
            let (meaning, cure) = explained(reason).unwrap_or_else(|| panic!("{} has no row", reason.name()));
            assert!(meaning.ends_with('.') && cure.ends_with('.'), "{}", reason.name());
        }
    }
}
