//! What each instance type can carry: `data/instance-limits.csv`, 1,164 types of AWS's resource controller's
//! table. EC2's API tells everything in it but the number of branches, which only AWS publishes
//! (`sgp-agent instance-types --refresh` brings the rest up to date).

use std::collections::BTreeMap;

/// The table this program was built with.
pub const BUILT_IN: &str = include_str!("../../data/instance-limits.csv");
/// Its first line.
pub const HEADER: &str = "instance_type,trunking_compatible,branch_interface_limit,max_enis,ipv4_per_eni,is_bare_metal,hypervisor,network_cards,default_network_card_index,default_card_max_enis";

/// One type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceType {
    /// Whether it can have a trunk.
    pub trunking: bool,
    /// Branches its trunk carries.
    pub branches: u32,
    /// Interfaces it can attach, all cards together.
    pub interfaces: u32,
    /// IPv4 addresses of an interface.
    pub ipv4_per_interface: u32,
    /// Bare metal.
    pub bare_metal: bool,
    /// `nitro`, `xen` or empty.
    pub hypervisor: String,
    /// Network cards.
    pub cards: u32,
    /// Index of the default card.
    pub default_card: u32,
    /// Interfaces of the default card.
    pub default_card_interfaces: u32,
}

impl InstanceType {
    /// Branches, or 0 where there is no trunk.
    pub fn branch_limit(&self) -> u32 {
        if self.trunking { self.branches } else { 0 }
    }

    /// Interfaces a trunk may be among: device indexes below it (facts 2.3).
    pub fn interface_limit(&self) -> u32 {
        self.interfaces.min(self.default_card_interfaces)
    }
}

/// Types by name.
pub type Table = BTreeMap<String, InstanceType>;

/// Reads a table.
///
/// # Errors
/// A sentence that names the line.
pub fn parse(text: &str) -> Result<Table, String> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    match lines.next() {
        Some((_, HEADER)) => {}
        other => return Err(format!("line 1 is {:?}, expected {HEADER:?}", other.map_or("", |(_, line)| line))),
    }
    lines.map(|(at, line)| row(line).ok_or_else(|| format!("line {} cannot be read: {line:?}", at + 1))).collect()
}

fn row(line: &str) -> Option<(String, InstanceType)> {
    let fields: Vec<&str> = line.split(',').collect();
    let [name, trunking, branches, interfaces, ipv4, metal, hypervisor, cards, default_card, card_interfaces] =
        fields[..]
    else {
        return None;
    };
    let found = InstanceType {
        trunking: trunking.parse().ok()?,
        branches: branches.parse().ok()?,
        interfaces: interfaces.parse().ok()?,
        ipv4_per_interface: ipv4.parse().ok()?,
        bare_metal: metal.parse().ok()?,
        hypervisor: hypervisor.to_owned(),
        cards: cards.parse().ok()?,
        default_card: default_card.parse().ok()?,
        default_card_interfaces: card_interfaces.parse().ok()?,
    };
    (!name.is_empty()).then(|| (name.to_owned(), found))
}

/// The table as text, types in order of their names.
pub fn write(table: &Table) -> String {
    let line = |(name, t): (&String, &InstanceType)| {
        format!(
            "{name},{},{},{},{},{},{},{},{},{}\n",
            t.trunking,
            t.branches,
            t.interfaces,
            t.ipv4_per_interface,
            t.bare_metal,
            t.hypervisor,
            t.cards,
            t.default_card,
            t.default_card_interfaces
        )
    };
    format!("{HEADER}\n{}", table.iter().map(line).collect::<String>())
}

/// Takes what EC2 says now; what it does not say (trunks and branches) stays as it was known, and a new type
/// carries none until somebody writes how many. Gives the names of new types and of changed ones.
pub fn refresh(known: &mut Table, told: Table) -> (Vec<String>, Vec<String>) {
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for (name, mut found) in told {
        match known.get(&name) {
            Some(old) => {
                (found.trunking, found.branches) = (old.trunking, old.branches);
                if *old != found {
                    changed.push(name.clone());
                }
            }
            None => new.push(name.clone()),
        }
        known.insert(name, found);
    }
    (new, changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_the_table() {
        let table = parse(BUILT_IN).expect("the table");
        let limits = |name: &str| table.get(name).map(|t| (t.branch_limit(), t.interface_limit()));
        assert_eq!(limits("m5.large"), Some((9, 3)));
        assert_eq!(limits("m5.xlarge"), Some((18, 4)));
        assert_eq!(limits("t3.medium").map(|(branches, _)| branches), Some(0));
        assert_eq!(limits("p4d.24xlarge"), Some((62, 15)));
        assert_eq!(limits("x9.huge"), None);
    }

    #[test]
    fn the_table_has_every_type_of_the_facts_and_is_written_as_it_was_read() {
        let table = parse(BUILT_IN).expect("the table");
        assert_eq!((table.len(), table.values().filter(|t| t.trunking).count()), (1164, 1060));
        assert!(table.values().all(|t| !t.trunking || t.branches > 0));
        assert_eq!(write(&table), BUILT_IN);
    }

    #[test]
    fn a_refresh_keeps_what_ec2_does_not_tell_and_names_what_is_new() {
        let mut known = parse(BUILT_IN).expect("the table");
        let more = InstanceType { interfaces: 5, ..known["m5.large"].clone() };
        let told = [("m5.large", more), ("x9.huge", InstanceType::default())];
        let told = told.map(|(name, t)| (name.to_owned(), t)).into();
        assert_eq!(refresh(&mut known, told), (vec!["x9.huge".to_owned()], vec!["m5.large".to_owned()]));
        assert_eq!((known["m5.large"].branches, known["m5.large"].interfaces), (9, 5));
        assert!(!known["x9.huge"].trunking);
    }

    #[test]
    fn a_table_that_cannot_be_read_is_told_by_its_line() {
        let error = parse(&format!("{HEADER}\nm5.large,true,nine,3,10,false,nitro,1,0,3\n")).expect_err("nine");
        assert!(error.contains("line 2") && error.contains("nine"), "{error}");
        assert!(parse("").expect_err("empty").contains("line 1"));
    }
}
