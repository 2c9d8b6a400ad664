//! Compiled policies that need not be compiled again: nothing that they depend on has changed. Says nothing that
//! compiling would not say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::compile::{Context, compile};
use super::desired::Policy;
use super::groups::{GroupSet, SecurityGroup};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    group_sets: BTreeSet<GroupSet>,
    prefix_lists: BTreeMap<String, Vec<IpNet>>,
    policies: BTreeMap<GroupSet, Compiled>,
}

#[derive(Clone, Debug)]
struct Compiled {
    groups: Vec<SecurityGroup>,
    policy: Arc<Policy>,
}

impl Memo {
    /// What [`compile`] gives.
    ///
    /// # Errors
    /// As there; those are not remembered.
    pub fn compile(&mut self, set: &GroupSet, context: &Context<'_>) -> Result<Arc<Policy>, String> {
        if self.group_sets != *context.group_sets || self.prefix_lists != *context.prefix_lists {
            self.policies.clear();
            self.group_sets.clone_from(context.group_sets);
            self.prefix_lists.clone_from(context.prefix_lists);
        }
        let groups = || set.0.iter().filter_map(|id| context.groups.get(id));
        if let Some(known) = self.policies.get(set).filter(|known| known.groups.iter().eq(groups())) {
            return Ok(Arc::clone(&known.policy));
        }
        let policy = Arc::new(compile(set, context)?);
        let compiled = Compiled { groups: groups().cloned().collect(), policy: Arc::clone(&policy) };
        self.policies.insert(set.clone(), compiled);
        Ok(policy)
    }

    /// Forgets all but these.
    pub fn retain(&mut self, is_used: impl Fn(&GroupSet) -> bool) {
        self.policies.retain(|set, _| is_used(set));
    }
}

#[cfg(test)]
mod tests {
    use sgp_common::Direction;

    use super::*;
    use crate::domain::groups::{Remote, Rule, Service};

    #[test]
    fn whatever_changes_of_rules_lists_or_members_gives_what_compiling_anew_gives() {
        let rule = |id: &str, remote| Rule {
            id: id.into(),
            group_id: "sg-a".into(),
            direction: Direction::Inbound,
            service: Service::All,
            remote,
        };
        let group = |rules| {
            BTreeMap::from([("sg-a".to_owned(), SecurityGroup { id: "sg-a".into(), vpc_id: String::new(), rules })])
        };
        let sets = |ids: &[&str]| ids.iter().map(|id| GroupSet::of([(*id).to_owned()])).collect::<BTreeSet<_>>();
        let lists = |cidr: &str| BTreeMap::from([("pl-1".to_owned(), vec![cidr.parse().expect("a CIDR")])]);
        let (by_group, by_list) =
            (rule("sgr-1", Remote::Group("sg-b".into())), rule("sgr-2", Remote::PrefixList("pl-1".into())));
        let worlds = [
            (group(vec![by_group.clone()]), lists("10.0.0.0/8"), sets(&["sg-a"])),
            (group(vec![by_group.clone()]), lists("10.0.0.0/8"), sets(&["sg-a", "sg-b"])),
            (group(vec![by_group.clone(), by_list.clone()]), lists("10.0.0.0/8"), sets(&["sg-a", "sg-b"])),
            (group(vec![by_group, by_list]), lists("10.0.0.0/9"), sets(&["sg-a", "sg-b"])),
            (group(Vec::new()), lists("10.0.0.0/9"), sets(&["sg-a", "sg-b"])),
        ];
        let (mut memo, set) = (Memo::default(), GroupSet::of(["sg-a"]));
        for (groups, prefix_lists, group_sets) in worlds.iter().chain(worlds.iter().rev()) {
            let context = Context { groups, prefix_lists, group_sets };
            let wanted = compile(&set, &context).expect("it compiles");
            for _ in 0..2 {
                assert_eq!(*memo.compile(&set, &context).expect("it compiles"), wanted);
            }
        }
        let before =
            memo.compile(&set, &Context { groups: &worlds[0].0, prefix_lists: &worlds[0].1, group_sets: &worlds[0].2 });
        let again =
            memo.compile(&set, &Context { groups: &worlds[0].0, prefix_lists: &worlds[0].1, group_sets: &worlds[0].2 });
        assert!(Arc::ptr_eq(&before.expect("it compiles"), &again.expect("it compiles")), "it is remembered");
    }
}
