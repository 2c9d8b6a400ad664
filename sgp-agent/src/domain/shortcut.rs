//! Which pods' packets may go past the host stack: those that nobody else there has a word in.

use sgp_common::Addr;
use sgp_common::addr::UNSPECIFIED;

use super::enforcement::Shortcuts;
use super::observed::{LinkFacts, Observed, Queued};

/// Whether a pod's packets may, as its interfaces are now. Who attaches a program later is passed by until the agent has seen it.
///
/// Past the stack a packet meets no queue of the host veth, and no other program of the two interfaces that comes after ours; and
/// nobody tells a pod whose MTU is larger than its branch's that a packet does not fit.
pub fn is_open(observed: &Observed, host_ifindex: u32, branch_ifindex: u32, router: &Addr) -> bool {
    let links = observed.links.as_deref().unwrap_or_default();
    let link = |index| links.iter().find(|link| link.index == index);
    let (Some(host), Some(branch)) = (link(host_ifindex), link(branch_ifindex)) else { return false };
    observed.enforcement.shortcuts != Shortcuts::Off
        && *router != UNSPECIFIED
        && [host, branch].iter().all(|link| !observed.shared.contains(&link.index))
        && host.queued == Queued::No
        && fits(host, branch)
}

fn fits(host: &LinkFacts, branch: &LinkFacts) -> bool {
    host.mtu <= branch.mtu
}

#[cfg(test)]
mod tests {
    use sgp_common::addr::v4_mapped;

    use super::*;
    use crate::domain::enforcement::Enforcement;

    fn observed() -> Observed {
        let link = |index, mtu| LinkFacts { index, mtu, ..LinkFacts::default() };
        let enforcement = Enforcement { shortcuts: Shortcuts::Auto, ..Enforcement::default() };
        Observed { links: Some(vec![link(1, 9001), link(2, 9001)]), enforcement, ..Observed::default() }
    }

    fn is_open_where(change: impl Fn(&mut Observed)) -> bool {
        let mut observed = observed();
        change(&mut observed);
        is_open(&observed, 1, 2, &v4_mapped([10, 0, 0, 1]))
    }

    #[test]
    fn packets_take_the_shortcut_where_nobody_else_would_miss_them() {
        assert!(is_open_where(|_| {}));
        assert!(!is_open_where(|observed| observed.enforcement.shortcuts = Shortcuts::Off));
        for index in [1, 2] {
            assert!(!is_open_where(|observed| observed.shared = [index].into()), "a program on {index}");
        }
    }

    #[test]
    fn a_limit_on_bandwidth_a_larger_mtu_and_an_unknown_router_keep_packets_in_the_stack() {
        let host = |observed: &mut Observed, change: &dyn Fn(&mut LinkFacts)| {
            observed.links.iter_mut().flatten().filter(|link| link.index == 1).for_each(change);
        };
        assert!(!is_open_where(|observed| host(observed, &|link| link.queued = Queued::Yes)));
        assert!(!is_open_where(|observed| host(observed, &|link| link.mtu = 9002)));
        assert!(!is_open(&self::observed(), 1, 2, &UNSPECIFIED));
    }
}
