//! What each instance type can carry (`data/instance-limits.csv`, from AWS's resource controller's table).

const TABLE: &str = include_str!("../../../data/instance-limits.csv");

/// (branch interfaces, interfaces on the default card); `None` for a type the table does not know.
pub(super) fn of(instance_type: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = TABLE
        .lines()
        .map(|line| line.split(','))
        .find_map(|mut fields| (fields.next() == Some(instance_type)).then(|| fields.collect()))?;
    let [trunking, branches, interfaces, .., card_interfaces] = fields[..] else { return None };
    let branches = if trunking == "true" { branches.parse().ok()? } else { 0 };
    let interfaces: u32 = interfaces.parse().ok()?;
    Some((branches, interfaces.min(card_interfaces.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn limits_are_those_of_the_table() {
        assert_eq!(of("m5.large"), Some((9, 3)));
        assert_eq!(of("m5.xlarge"), Some((18, 4)));
        assert_eq!(of("t3.medium").map(|(branches, _)| branches), Some(0));
        assert_eq!(of("p4d.24xlarge"), Some((62, 15)));
        assert_eq!(of("x9.huge"), None);
    }
}
