//! What `explain` says.

use std::fmt::Write;

use serde::Serialize;

use crate::cli::flows::Row;
use crate::domain::groups::GroupSetId;

/// A rule, by EC2's names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Named {
    /// `sgr-…`
    pub(super) rule_id: String,
    /// `sg-…`
    pub(super) group_id: String,
}

/// One policy that was asked, and what each of its keys answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    /// Whose it is.
    pub(super) of: String,
    /// Its name below the pins, and its groups.
    pub(super) policy: String,
    /// The set of groups it is for.
    #[serde(skip)]
    pub(super) set: GroupSetId,
    /// `None` if none is installed.
    pub(super) rules_allowing_service: Option<Vec<Named>>,
    pub(super) rules_allowing_address: Vec<Named>,
    pub(super) rules_allowing_group: Vec<Named>,
    /// The rule that allows it, if one does.
    pub(super) rule: Option<Named>,
    /// Whether a flow by that rule outlives it.
    pub(super) tracked: bool,
}

/// What the maps say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) pod: String,
    /// `allowed` or `dropped`.
    pub(super) verdict: &'static str,
    /// By `DropReason`.
    pub(super) reason: Option<&'static str>,
    /// What decided, in words.
    pub(super) because: String,
    pub(super) rule_id: Option<String>,
    pub(super) group_id: Option<String>,
    /// Who has the address.
    pub(super) peer: Option<String>,
    /// How it leaves, outbound.
    pub(super) way: String,
    pub(super) exempt: bool,
    pub(super) asked: Vec<Asked>,
    pub(super) flow: Option<Row>,
}

impl Answer {
    /// For people: the verdict first, then each lookup in order.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.verdict, self.because);
        let _ = writeln!(text, "  way      {}", self.way);
        let _ = writeln!(text, "  peer     {}", self.peer.as_deref().unwrap_or("no member of a known group"));
        let _ = writeln!(text, "  exempt   {}", if self.exempt { "yes: EC2 never filters it" } else { "no" });
        let flow = self.flow.as_ref().map_or_else(|| "none".to_owned(), Row::sentence);
        let _ = writeln!(text, "  flow     {flow}");
        for asked in &self.asked {
            let _ = writeln!(text, "  policy   {} ({})", asked.policy, asked.of);
            let Some(service) = &asked.rules_allowing_service else {
                let _ = writeln!(text, "    none is installed: everything drops");
                continue;
            };
            let _ = writeln!(text, "    allow the service   {}", list(service));
            let _ = writeln!(text, "    allow the address   {}", list(&asked.rules_allowing_address));
            let _ = writeln!(text, "    allow its group     {}", list(&asked.rules_allowing_group));
        }
        text.trim_end().to_owned()
    }
}

fn list(rules: &[Named]) -> String {
    let words: Vec<String> = rules.iter().map(|rule| format!("{} of {}", rule.rule_id, rule.group_id)).collect();
    if words.is_empty() { "no rule".to_owned() } else { words.join(", ") }
}
