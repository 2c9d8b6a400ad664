//! Translated flows outlive an upgrade from an older layout.

#[path = "../previous/mod.rs"]
mod previous;

use sgp_agent::io::kernel::{Attachment, trial};

use super::*;
use crate::node::At;
use previous::Previous;

/// A flow of before, one that the older layout's programs let out, and the replies to both by the programs of either.
#[test]
fn translated_flows_of_an_older_layout_keep_their_ports_and_get_their_replies() {
    let Some(mut it) = leaving(SnatPorts::Prng, SnatJudges::Node, &["out all * 0.0.0.0/0"]) else { return };
    let (pod, server, other) = ((it.pod(), 40_000), (ip(OUTSIDE), 443), (ip(OUTSIDE), 444));
    let first = it.out(&Frame::tcp(pod, server, SYN)).expect("it leaves");
    let mut previous = Previous::load(&it.node);
    previous.stage(&it.node, Attachment::offered().expect("root may ask"));

    let by_old =
        |at: At, frame: &Frame| trial::run_and_read(&previous.program(at.program), at, &summed(frame)).expect("a run");
    let came_in = At { program: program::FROM_PRIMARY, ifindex: it.primary(), ingress: it.primary(), mark: 0 };
    let (_, reply) = by_old(came_in, &Frame::tcp(server, first.source, SYN | ACK));
    assert_eq!(Seen::of(&reply).destination, pod, "the older layout knows the flow");
    let (ran, left) = by_old(it.node.pods[0].leaves(), &Frame::tcp(pod, other, SYN));
    assert!(ran.redirected, "the older layout translates");
    let second = Seen::of(&left);

    it.node.reopen();
    it.apply();
    it.node.look_again();
    for (from, seen) in [(server, first), (other, second)] {
        let (passed, mark, bytes) = it.back(&Frame::tcp(from, seen.source, ACK));
        assert_eq!((passed, mark & MARK_JUDGED), (true, MARK_JUDGED));
        assert_eq!(Seen::of(&bytes), Seen { source: from, destination: pod });
        assert_eq!(it.out(&Frame::tcp(pod, from, ACK)).expect("it leaves"), seen, "a flow keeps its port");
    }
    assert_eq!(it.entries(), 2);
}
