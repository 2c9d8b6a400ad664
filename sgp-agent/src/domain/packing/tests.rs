use proptest::prelude::*;

use super::*;
use crate::domain::membership::{Membership, Peers};

const LIMIT: usize = 4;

fn addr(number: u8) -> Addr {
    sgp_common::addr::v4_mapped([10, 0, 0, number])
}

fn members(of: &[(u8, u8)]) -> Members {
    let mut members = Members::default();
    for (number, set) in of {
        members.put(addr(*number), &GroupSet::of([format!("sg-{set}")]));
    }
    members
}

fn apply(published: &mut BTreeMap<String, Slice>, write: &Write) {
    match write {
        Write::Put(name, slice) => drop(published.insert(name.clone(), slice.clone())),
        Write::Delete(name) => drop(published.remove(name)),
    }
}

fn publish(published: &mut BTreeMap<String, Slice>, wanted: &Members) -> Vec<Write> {
    let writes = pack(published, wanted, LIMIT);
    writes.iter().for_each(|write| apply(published, write));
    writes
}

fn any_members() -> impl Strategy<Value = Members> {
    prop::collection::vec((0_u8..40, 0_u8..4), 0..60).prop_map(|of| members(&of))
}

proptest! {
    #[test]
    fn along_the_writes_nobody_who_stays_is_ever_absent_and_each_has_his_old_or_his_new_groups(
        worlds in prop::collection::vec(any_members(), 1..6)
    ) {
        let (mut published, mut seen, mut before) = (BTreeMap::new(), Membership::default(), Members::default());
        for wanted in worlds {
            for write in pack(&published, &wanted, LIMIT) {
                apply(&mut published, &write);
                match write {
                    Write::Put(name, slice) => {
                        prop_assert!(slice.addresses.len() <= LIMIT);
                        seen.update(&name, Some(slice))
                    }
                    Write::Delete(name) => seen.update(&name, None),
                };
                for (addr, set) in &wanted.of {
                    let (now, was) = (seen.of(addr), before.of.get(addr));
                    prop_assert!(now == Some(*set) || now == was.copied(), "{addr:?} {now:?}, from {was:?} to {set:?}");
                }
            }
            prop_assert_eq!(seen.peers(), &Peers::from(&wanted.of));
            prop_assert_eq!(pack(&published, &wanted, LIMIT), Vec::new(), "a second look changes nothing");
            before = wanted;
        }
    }

    #[test]
    fn whoever_goes_on_after_any_of_the_writes_ends_where_the_first_would_have(
        first in any_members(), second in any_members(), third in any_members(), stop in 0_usize..12
    ) {
        let mut published = BTreeMap::new();
        publish(&mut published, &first);
        pack(&published, &second, LIMIT).iter().take(stop).for_each(|write| apply(&mut published, write));
        publish(&mut published, &third);
        let mut seen = Membership::default();
        published.iter().for_each(|(name, slice)| drop(seen.update(name, Some(slice.clone()))));
        prop_assert_eq!(seen.peers(), &Peers::from(&third.of));
    }

    #[test]
    fn one_change_writes_at_most_two_objects_and_moves_nobody_else(
        world in any_members(), number in 0_u8..40, set in 0_u8..4
    ) {
        let mut published = BTreeMap::new();
        publish(&mut published, &world);
        let mut wanted = world.clone();
        wanted.put(addr(number), &GroupSet::of([format!("sg-{set}")]));
        let before = published.clone();
        let writes = publish(&mut published, &wanted);
        prop_assert!(writes.len() <= 2, "{writes:?}");
        for (name, slice) in &before {
            let stayed = published.get(name).map(|now| now.addresses.clone()).unwrap_or_default();
            prop_assert!(slice.addresses.iter().all(|it| *it == addr(number) || stayed.contains(it)));
        }
    }
}

#[test]
fn holes_are_filled_before_a_new_slice_is_made_and_an_empty_one_is_deleted() {
    let mut published = BTreeMap::new();
    publish(&mut published, &members(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]));
    let names: Vec<String> = published.keys().cloned().collect();
    assert_eq!(names.len(), 2);
    assert!(names[0].ends_with("-0") && names[1].ends_with("-1"));
    publish(&mut published, &members(&[(1, 0), (2, 0), (4, 0), (5, 0), (6, 0)]));
    assert_eq!(published[&names[0]].addresses, [1, 2, 4, 6].map(addr), "who came took the place of who went");
    let writes = publish(&mut published, &members(&[(1, 0)]));
    assert!(writes.contains(&Write::Delete(names[1].clone())), "{writes:?}");
}

#[test]
fn two_full_slices_that_exchange_members_wait_for_each_other_and_still_lose_nobody() {
    let mut published = BTreeMap::new();
    publish(&mut published, &members(&[(1, 0), (2, 1)]));
    let writes = publish(&mut published, &members(&[(1, 1), (2, 0)]));
    assert_eq!(writes.len(), 3, "{writes:?}");
}
