//! Programs on interfaces, by tcx links and by filters of clsact: attached, read back, replaced, taken off; and what
//! belongs to others.

mod node;

use std::io::Write;
use std::process::Command;

use node::ground::attachments;
use node::rules::{ec2, set};
use node::{Node, wire};
use sgp_agent::domain::observed::Observed;
use sgp_agent::domain::plan::Step;
use sgp_agent::io::kernel::maps::PinDirs;
use sgp_agent::io::kernel::{Attachment, Kernel, uninstall};
use sgp_common::pins::program;

/// The verifier gives up at a million instructions; the next kernel may count otherwise.
const AFFORDABLE: u32 = 500_000;

fn node(attachment: Attachment) -> (Node, Observed) {
    let mut node = Node::start_by(attachment, || vec![wire(1)]);
    let observed = node.observed(&ec2(&[("sg-1", &["out all * 0.0.0.0/0"])]), &[set(&["sg-1"])]);
    node.apply(&observed);
    (node, observed)
}

fn tc(arguments: &str) -> String {
    let output = Command::new("tc").args(arguments.split(' ')).output().expect("tc runs");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Somebody else's filter, where the network policy agent of AWS puts its own: priority 1, handle 1.
fn add_foreign_filter(node: &Node) {
    let pin = PinDirs::new(&node.dir).program(program::TO_BRANCH);
    tc(&format!(
        "filter replace dev host1 ingress protocol all prio 1 handle 1 bpf da object-pinned {}",
        pin.display()
    ));
}

/// Handles of the filters on the pod's host veth, in the order in which the kernel asks them.
fn handles() -> Vec<String> {
    let shown = tc("filter show dev host1 ingress");
    let after_handle = |line: &str| Some(line.split_once("handle ")?.1.split(' ').next()?.to_owned());
    shown.lines().filter_map(after_handle).collect()
}

#[test]
fn the_verifier_can_afford_every_program() {
    let Some(node) = Node::start(0) else { return };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let costs = node.kernel.costs();
    let cost = |program: &str| costs.iter().find(|cost| cost.program == program)?.verified_instructions;
    let told: Vec<_> = program::PINNED.iter().map(|name| (name, cost(name).expect("the kernel tells"))).collect();
    let listed: Vec<String> = told.iter().map(|(name, count)| format!("{name} {count}")).collect();
    // Past the test harness, which keeps what `println` says to itself: this is for people, and for xtask.
    let line = format!("verifier: Linux {}: {}\n", release.trim(), listed.join(", "));
    std::io::stdout().write_all(line.as_bytes()).expect("somebody reads");
    told.iter().for_each(|(name, count)| assert!(*count < AFFORDABLE, "{name} costs {count}"));
}

#[test]
fn what_was_attached_is_read_back_and_can_be_taken_off() {
    for attachment in attachments() {
        let (mut node, observed) = node(*attachment);
        let links = node.kernel.installed().expect("what is installed").links;
        let programs: Vec<_> = links.iter().map(|link| (link.interface.as_str(), link.program)).collect();
        let (host, branch) = ("host1", "vlan.eth.1");
        let expected = [
            (host, program::FROM_POD),
            (host, program::TO_POD),
            (branch, program::FROM_BRANCH),
            (branch, program::TO_BRANCH),
        ];
        assert_eq!(programs, expected, "{attachment:?}");
        let lost = links.first().expect("four links").clone();
        node.kernel.apply(&Step::Detach(lost.clone())).expect("a link can be taken off");
        node.kernel.apply(&Step::Detach(lost.clone())).expect("and a second time is no error");
        assert_eq!(node.kernel.installed().expect("what is installed").links.len(), 3, "{attachment:?}");
        assert_eq!(node.plan(&observed), [Step::Attach(lost)], "{attachment:?}");
        node.apply(&observed);
    }
}

#[test]
fn another_build_of_the_agent_puts_its_programs_in_place_of_the_old_ones() {
    for attachment in attachments() {
        let (mut node, observed) = node(*attachment);
        let (links, before) = (node.kernel.installed().expect("what is installed").links, node.kernel.program_id());
        std::fs::remove_file(PinDirs::new(&node.dir).program(program::FROM_POD)).expect("what makes it load anew");
        node.reopen();
        assert_ne!(node.kernel.program_id(), before, "{attachment:?}: it has loaded its own");
        assert_eq!(node.kernel.installed().expect("what is installed").links, links, "{attachment:?}");
        assert_eq!(node.plan(&observed), [], "{attachment:?}");
    }
}

#[test]
fn filters_of_others_stay_and_come_after_ours() {
    if attachments().is_empty() {
        return;
    }
    let (mut node, observed) = node(Attachment::Clsact);
    let ours = handles();
    assert_eq!(ours.len(), 1);
    add_foreign_filter(&node);
    assert_eq!(handles(), ["0x1".to_owned(), ours[0].clone()], "the youngest is asked first, and could end the matter");
    assert_eq!(node.plan(&observed).len(), 1, "so ours does not count as attached");
    node.apply(&observed);
    let both = handles();
    assert!(both.len() == 2 && both[0] != "0x1" && both[1] == "0x1", "{both:?}");
    uninstall(&node.dir).expect("our filters and pins can be removed");
    assert_eq!(handles(), ["0x1"]);
}
