//! Agents and controllers have done everything so far under what `deploy/` declares: no more, and nothing of it is idle.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::Stage;
use crate::control::AUDIT_LOG;

/// Bits 12 and 21: CAP_NET_ADMIN and CAP_SYS_ADMIN.
const CAPABILITIES: &str = "0000000000201000";
/// Granted and not asked for by these cases: an event that comes again within minutes, a CNINode that somebody else made, a
/// policy that selects by ServiceAccount, a certificate that is renewed.
const IDLE: [(&str, &str); 4] = [
    ("patch", "events.k8s.io/events"),
    ("update", "vpcresources.k8s.aws/cninodes"),
    ("get", "/serviceaccounts"),
    ("update", "/secrets"),
];

/// Verb and `group/resource`.
type Access = (String, String);

pub(super) fn exactly(stage: &Stage) -> Result<()> {
    for node in &stage.world.nodes {
        let pid = fs::read_to_string(&node.agent_pid_file).context("reading the agent's pid file")?;
        let file = |name: &str| {
            let path = format!("/proc/{}/{name}", pid.trim());
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        let status = file("status")?;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let held = status.lines().find_map(|line| line.strip_prefix(&format!("{set}:")));
            ensure!(held.map(str::trim) == Some(CAPABILITIES), "{set} of the agent of {} is {held:?}", node.name);
        }
        let mounts = file("mounts")?;
        let root = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/")).unwrap_or_default();
        ensure!(root.split(' ').nth(3).unwrap_or_default().starts_with("ro"), "the agent may write {root:?}");
    }
    let log = stage.place.dir().join(AUDIT_LOG);
    for account in ["sgp-agent", "sgp-controller"] {
        let (used, refused) = used(&log, account)?;
        ensure!(!used.is_empty(), "{account} did nothing: this looks back at all other cases, so run them with it");
        ensure!(refused.is_empty(), "{account} was refused {refused:?}");
        let granted = granted(stage, account)?;
        let idle: BTreeSet<&Access> = granted.difference(&used).collect();
        let known = |access: &&Access| IDLE.iter().any(|(verb, what)| access.0 == *verb && access.1 == *what);
        let unknown: Vec<_> = idle.into_iter().filter(|access| !known(access)).collect();
        ensure!(unknown.is_empty(), "{account} may do what it never did: {unknown:?}");
        println!("  {account}: {} kinds of access, none refused", used.len());
    }
    Ok(())
}

/// What an account asked for, and what it was refused.
fn used(log: &Path, account: &str) -> Result<(BTreeSet<Access>, BTreeSet<Access>)> {
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let user = format!("system:serviceaccount:kube-system:{account}");
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).context("a line of the audit log")?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        if word(&event["user"]["username"]) != user || object.is_null() {
            continue;
        }
        let sub = word(&object["subresource"]);
        let sub = if sub.is_empty() { sub } else { format!("/{sub}") };
        let access =
            (word(&event["verb"]), format!("{}/{}{sub}", word(&object["apiGroup"]), word(&object["resource"])));
        if event["responseStatus"]["code"] == 403 {
            refused.insert(access.clone());
        }
        used.insert(access);
    }
    Ok((used, refused))
}

/// What the roles of an account grant, by the API server's own word.
fn granted(stage: &Stage, account: &str) -> Result<BTreeSet<Access>> {
    let mut granted = BTreeSet::new();
    for kind in ["clusterrole", "role"] {
        let shown = stage.hands.kubectl(&["get", kind, account, "-n", "kube-system", "-o", "json"])?.ok()?;
        let role: Value = serde_json::from_str(&shown).with_context(|| format!("the {kind} {account}"))?;
        for rule in role["rules"].as_array().into_iter().flatten() {
            let list = |key: &str| rule[key].as_array().cloned().unwrap_or_default().into_iter();
            let words = |key: &str| list(key).filter_map(|word| word.as_str().map(str::to_owned)).collect::<Vec<_>>();
            for (group, resource) in
                words("apiGroups").iter().flat_map(|g| words("resources").into_iter().map(move |r| (g, r)))
            {
                granted.extend(words("verbs").into_iter().map(|verb| (verb, format!("{group}/{resource}"))));
            }
        }
    }
    Ok(granted)
}
