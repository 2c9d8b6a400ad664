//! Where steps lead, from whatever is installed.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sgp_common::addr::v4_mapped;

use super::super::membership::Peers;
use super::*;

/// Peers that come, go and change: an address, and its set.
fn any_changes() -> impl Strategy<Value = Vec<(u16, Option<u64>)>> {
    prop::collection::vec((0..2000_u16, prop::option::of(0..3_u64)), 0..400)
}

fn change(peers: &mut Peers, changes: &[(u16, Option<u64>)]) {
    for (number, set) in changes {
        let [high, low] = number.to_be_bytes();
        let addr = v4_mapped([10, 0, high, low]);
        match set {
            Some(set) => peers.insert(addr, GroupSetId(*set)),
            None => peers.remove(&addr),
        };
    }
}

proptest! {
    /// Copies share what is alike, and a difference next to what is shared must not be missed: a peer would keep its groups.
    #[test]
    fn steps_lead_from_any_peers_to_any_others_whatever_the_two_share(
        first in any_changes(), here in any_changes(), there in any_changes()
    ) {
        let mut installed = Installed::default();
        change(&mut installed.peers, &first);
        let mut desired = Desired { peers: installed.peers.clone(), ..Desired::default() };
        change(&mut installed.peers, &here);
        change(&mut desired.peers, &there);
        let mut kernel: BTreeMap<Addr, GroupSetId> = installed.peers.iter().map(|(addr, set)| (*addr, *set)).collect();
        for step in plan(&desired, &installed) {
            match step {
                Step::PutPeer(addr, set) => drop(kernel.insert(addr, set)),
                Step::RemovePeer(addr) => drop(kernel.remove(&addr)),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        prop_assert!(kernel.iter().eq(desired.peers.iter()));
    }
}
