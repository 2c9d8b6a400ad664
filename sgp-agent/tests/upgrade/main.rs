//! Restarts and upgrades under traffic: every packet is numbered, and none that is allowed may be lost, none that is
//! forbidden may pass.

#[path = "../node/mod.rs"]
mod node;
#[path = "../previous/mod.rs"]
mod previous;
mod traffic;

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use node::Node;
use node::ground::attachments;
use node::rules::{ec2, set};
use node::wire::{Branch, CLIENTS, Wire};
use previous::Previous;
use sgp_agent::domain::observed::Observed;
use sgp_agent::io::kernel::{Attachment, Bpf, Kernel, uninstall};
use traffic::{Arrived, KINDS, Kind, Rates, Talk};

/// No rule lets anything out: answers pass by their flow alone.
const BEFORE: [&str; 2] = ["in udp 53 10.0.0.0/8", "in udp 5000 10.0.0.0/8"];
const AFTER: [&str; 2] = ["in udp 53 10.0.0.0/8", "in udp 5001 10.0.0.0/8"];
/// With the answers to what is new, 50,000 packets a second.
const CLIENT: Rates =
    &[(Kind::In, 20_000), (Kind::New, 400), (Kind::Forbidden, 9_000), (Kind::Closed, 100), (Kind::Opened, 100)];
const POD: Rates = &[(Kind::Out, 20_000)];
/// How long a packet may wait in a queue before it is judged.
const JUDGED: Duration = Duration::from_millis(100);

/// How much of it a machine can bear: an emulated one is some ten times slower.
struct Rounds {
    upgrades: usize,
    restarts_between: usize,
}

fn rounds() -> Rounds {
    match std::env::var_os("SGP_TEST_WORLDS") {
        None => Rounds { upgrades: 20, restarts_between: 5 },
        Some(_) => Rounds { upgrades: 2, restarts_between: 2 },
    }
}

struct Case {
    node: Node,
    attachment: Attachment,
    previous: Previous,
    rules: &'static [&'static str],
}

impl Case {
    fn lay(attachment: Attachment) -> (Self, Wire) {
        let mut wire = None;
        let mut node = Node::start_by(attachment, || {
            let (laid, pod) = Wire::lay(Branch::Veth);
            wire = Some(laid);
            vec![pod]
        });
        let observed = observed(&node, &BEFORE);
        node.apply(&observed);
        let previous = Previous::load(&node);
        // Loading it has pinned it, but it is not what judges.
        fs::remove_dir_all(node.dir.join("v1")).expect("pins can be removed");
        (Self { node, attachment, previous, rules: &BEFORE }, wire.expect("the pod was wired"))
    }

    fn talk(&self) -> Talk {
        let address = |text: IpAddr| match text {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => panic!("IPv4 only"),
        };
        Talk::between(address(CLIENTS[0].parse().expect("an address")), address(self.node.pods[0].ipv4))
    }

    /// What an agent does that starts again.
    fn restart(&mut self) {
        self.node.reopen();
        let observed = observed(&self.node, self.rules);
        self.node.apply(&observed);
    }

    /// The pinned programs are of another build: they are loaded anew and put behind each link.
    fn upgrade_to_the_same_layout(&mut self) {
        self.node.maps.object.set(0, 0, 0).expect("OBJECT");
        self.restart();
    }

    /// Layout 1 judges, as its last agent left it. Nobody sends while it is laid out.
    fn stage_the_old_layout(&mut self, talk: &Talk) {
        talk.paused.store(true, Ordering::SeqCst);
        talk.settle();
        thread::sleep(JUDGED);
        self.previous.stage(&self.node, self.attachment);
        talk.paused.store(false, Ordering::SeqCst);
        thread::sleep(JUDGED);
    }

    fn upgrade_from_the_old_layout(&mut self, talk: &Talk) {
        self.stage_the_old_layout(talk);
        self.restart();
        self.node.look_again();
        assert!(!self.node.dir.join("v1").exists(), "nothing of the old layout is left");
    }

    /// Restarts, upgrades of both kinds in turn, and in the middle an upgrade that brings a change of rules. Gives how many of each kind were sent
    /// before and after the change.
    fn play(&mut self, talk: &Talk, rounds: &Rounds) -> [Vec<u32>; 2] {
        let mut change = [Vec::new(), Vec::new()];
        for round in 0..rounds.upgrades {
            (0..rounds.restarts_between).for_each(|_| self.restart());
            let middle = round == rounds.upgrades / 2;
            if middle {
                (change[0], self.rules) = (talk.sent.all(), &AFTER);
                talk.settle();
                thread::sleep(JUDGED);
            }
            match round % 2 {
                0 => self.upgrade_from_the_old_layout(talk),
                _ => self.upgrade_to_the_same_layout(),
            }
            if middle {
                thread::sleep(JUDGED);
                change[1] = talk.sent.all();
            }
        }
        change
    }
}

fn observed(node: &Node, rules: &[&str]) -> Observed {
    node.observed(&ec2(&[("sg-1", rules)]), &[set(&["sg-1"])])
}

/// What became of the numbered packets.
#[derive(Debug, PartialEq, Eq)]
struct Verdicts {
    lost: Vec<(Kind, usize)>,
    passed: Vec<(Kind, usize)>,
    doubled: usize,
}

fn verdicts(talk: &Talk, arrived: &Arrived, [before, after]: &[Vec<u32>; 2]) -> Verdicts {
    let (all, sent) = (|kind| 0..talk.sent.of(kind), |counts: &[u32], kind: Kind| counts[kind as usize]);
    let lost = [
        (Kind::In, all(Kind::In)),
        (Kind::Out, all(Kind::Out)),
        (Kind::New, all(Kind::New)),
        (Kind::Answer, all(Kind::Answer)),
        (Kind::Closed, 0..sent(before, Kind::Closed)),
        (Kind::Opened, sent(after, Kind::Opened)..talk.sent.of(Kind::Opened)),
    ];
    let passed = [
        (Kind::Forbidden, all(Kind::Forbidden)),
        (Kind::Closed, sent(after, Kind::Closed)..talk.sent.of(Kind::Closed)),
        (Kind::Opened, 0..sent(before, Kind::Opened)),
    ];
    Verdicts {
        lost: lost.map(|(kind, numbers)| (kind, arrived.missing(kind, numbers))).to_vec(),
        passed: passed.map(|(kind, numbers)| (kind, arrived.present(kind, numbers))).to_vec(),
        doubled: arrived.doubled(),
    }
}

/// Ends all talk, also where the test has failed and nobody else would.
struct Ends<'a>(&'a Talk);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
        self.0.silent.store(thread::panicking(), Ordering::SeqCst);
    }
}

/// Who may have lost it: our programs say what they drop, the kernel what its queues had no room for.
fn explained(node: &Node) -> String {
    let drops: Vec<_> = node.maps.counted().into_iter().filter(|counted| counted.reason.is_some()).collect();
    let queues = std::fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    format!("drops: {drops:?}; queues (second column: dropped):\n{queues}")
}

fn play_under_traffic(attachment: Attachment) {
    let ((mut case, wire), rounds) = (Case::lay(attachment), rounds());
    let talk = case.talk();
    let (change, arrived, seconds) = thread::scope(|scope| {
        let hear = [scope.spawn(|| wire.in_pod(|| talk.hear())), scope.spawn(|| wire.in_router(|| talk.hear()))];
        while talk.listening.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        wire.in_router(|| talk.open_old_flows(&traffic::raw(), Kind::In));
        thread::sleep(JUDGED);
        let send =
            [scope.spawn(|| wire.in_router(|| talk.send(CLIENT))), scope.spawn(|| wire.in_pod(|| talk.send(POD)))];
        let ends = Ends(&talk);
        let change = case.play(&talk, &rounds);
        drop(ends);
        let seconds = send.map(|it| it.join().expect("a sender")).into_iter().fold(0.0, f64::max);
        thread::sleep(JUDGED);
        talk.silent.store(true, Ordering::SeqCst);
        let [pod, client] = hear.map(|it| it.join().expect("a listener"));
        (change, pod.and(client), seconds)
    });
    let verdicts = verdicts(&talk, &arrived, &change);
    let sent: u32 = KINDS.map(|kind| talk.sent.of(kind)).iter().sum();
    let (lost, passed) = (total(&verdicts.lost), total(&verdicts.passed));
    let line = format!(
        "\nupgrade: {attachment:?}: {} restarts and {} upgrades in {seconds:.0} s, {sent} packets ({:.0} a second): {lost} lost, {passed} denied but passed\n",
        rounds.upgrades * rounds.restarts_between,
        rounds.upgrades,
        f64::from(sent) / seconds
    );
    // Past the test harness, which keeps what `println` says to itself, and not behind the name it has begun a line with.
    std::io::stdout().write_all(line.as_bytes()).expect("somebody reads");
    assert_eq!((lost, passed, verdicts.doubled), (0, 0, 0), "{verdicts:?}; {}", explained(&case.node));
    KINDS.iter().for_each(|kind| assert!(talk.sent.of(*kind) > 0, "{kind:?} was never sent"));
}

fn total(counts: &[(Kind, usize)]) -> usize {
    counts.iter().map(|(_, count)| count).sum()
}

#[test]
fn restarts_and_upgrades_lose_no_packet_that_is_allowed_and_pass_none_that_is_forbidden() {
    // Where both are to be had, the one that is used; a kernel that has no other shows the other.
    if let Some(attachment) = attachments().first() {
        play_under_traffic(*attachment);
    }
}

#[test]
fn an_older_layout_judges_until_all_that_is_desired_is_there() {
    for attachment in attachments() {
        let (mut case, wire) = Case::lay(*attachment);
        case.previous.stage(&case.node, *attachment);
        case.node.reopen();
        let silent = Observed { cloud: None, ..observed(&case.node, &BEFORE) };
        assert_eq!(case.node.plan(&silent), [], "nothing is taken over while EC2 is silent");
        let installed = case.node.kernel.installed().expect("what is installed");
        assert_eq!((installed.predecessor, installed.links.len()), (Some(1), 4), "{attachment:?}");
        let swept = case.node.kernel.sweep().expect("a sweep");
        assert_eq!(swept, Default::default(), "flows of endpoints that are not written yet stay");
        assert!(!wire.reaches_pod(case.node.pods[0].ipv4, 53), "TCP is not allowed");
        let observed = observed(&case.node, &BEFORE);
        case.node.apply(&observed);
        let installed = case.node.kernel.installed().expect("what is installed");
        assert_eq!((installed.predecessor, installed.links.len()), (None, 4), "{attachment:?}");
    }
}

#[test]
fn a_newer_layout_is_refused_by_name_and_left_alone() {
    let Some(node) = Node::start(0) else { return };
    let newer = node.dir.join("v999");
    fs::create_dir(&newer).expect("a directory on bpffs");
    let Err(refused) = Bpf::open(&node.dir) else { panic!("it was taken over") };
    let told = format!("{refused:#}");
    assert!(told.contains("layout 999") && told.contains("uninstall"), "{told}");
    assert!(newer.exists());
    uninstall(&node.dir).expect("pins can be removed");
    assert!(!newer.exists(), "uninstalling removes every layout");
}
