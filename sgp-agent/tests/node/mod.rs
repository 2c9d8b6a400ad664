//! A node to put packets through: its own network namespace, its own pins, the real programs.
//! Packets are run by `BPF_PROG_TEST_RUN`, which lets a test say on which interface they are.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub(crate) mod ground;
pub(crate) mod rules;
pub(crate) mod tables;
pub(crate) mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
pub(crate) use ground::allowed;
use ground::provide_bpffs;
use nix::sched::{CloneFlags, unshare};
use sgp_agent::domain::branches::{POD_TAG, VLAN_TAG};
use sgp_agent::domain::desired::Desired;
use sgp_agent::domain::groups::{EndpointId, GroupSet};
use sgp_agent::domain::observed::{CloudFacts, ClusterFacts, LinkFacts, NetworkInterface, Observed};
use sgp_agent::domain::plan::{Step, plan};
use sgp_agent::domain::settings::{Settings, Snat};
use sgp_agent::domain::wiring::Alias;
use sgp_agent::io::kernel::maps::{Maps, PinDirs};
pub(crate) use sgp_agent::io::kernel::trial::At;
use sgp_agent::io::kernel::{Attachment, Bpf, Kernel, trial};
use sgp_common::event::{Event, Sampler};
use sgp_common::pins::{map, program};

/// One node at a time: each holds some 60 MB of maps.
static ONE: Mutex<()> = Mutex::new(());

/// See the module.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) kernel: Bpf,
    pub(crate) maps: Maps,
    pub(crate) pods: Vec<Pod>,
    attachment: Attachment,
    programs: Vec<(&'static str, SchedClassifier)>,
    sampler: PerCpuArray<MapData, Sampler>,
    events: RingBuf<MapData>,
    _one: MutexGuard<'static, ()>,
}

/// A pod that stands on the node.
#[derive(Clone)]
pub(crate) struct Pod {
    pub(crate) interface_id: String,
    pub(crate) ipv4: std::net::IpAddr,
    pub(crate) ipv6: std::net::IpAddr,
    pub(crate) mac: [u8; 6],
    /// Interface index of its host veth.
    pub(crate) host: u32,
    /// Interface index of its branch.
    pub(crate) branch: u32,
    vlan_id: u16,
}

/// What became of a packet.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) passed: bool,
    pub(crate) mark: u32,
    pub(crate) events: Vec<Event>,
}

impl Node {
    /// A node with this many pods wired and nothing applied yet; `None` where root tests are not asked for.
    pub(crate) fn start(pods: u16) -> Option<Self> {
        let attachment = allowed().then(|| Attachment::offered().expect("root may ask the kernel"))?;
        Some(Self::start_by(attachment, || (1..=pods).map(wire).collect()))
    }

    /// A node that attaches its programs this way, with pods that are wired in its own namespace.
    pub(crate) fn start_by(attachment: Attachment, pods: impl FnOnce() -> Vec<Pod>) -> Self {
        Self::start_with(attachment, Bpf::open_by, pods)
    }

    /// Likewise, with programs that are opened this way.
    pub(crate) fn start_with(
        attachment: Attachment,
        open: impl FnOnce(&Path, Attachment) -> Result<Bpf>,
        pods: impl FnOnce() -> Vec<Pod>,
    ) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        provide_bpffs();
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
        let dir = PathBuf::from(format!("/sys/fs/bpf/sgp-test-{}", std::process::id()));
        drop(fs::remove_dir_all(&dir));
        let kernel = open(&dir, attachment);
        let kernel = kernel.inspect_err(|_| drop(fs::remove_dir_all(&dir))).expect("the data path loads");
        let dirs = PinDirs::new(&dir);
        let pinned = |name| Map::from_map_data(MapData::from_pin(dirs.map(name)).expect("a pin")).expect("a map");
        let open = |name| (name, SchedClassifier::from_pin(dirs.program(name)).expect("a pinned program"));
        Self {
            maps: Maps::open(&dirs).expect("pinned maps"),
            pods: pods(),
            attachment,
            programs: program::ALL.into_iter().map(open).collect(),
            sampler: pinned(map::SAMPLER).try_into().expect("an array"),
            events: pinned(map::EVENTS).try_into().expect("a ring"),
            dir,
            kernel,
            _one: one,
        }
    }

    /// The endpoint of a pod.
    pub(crate) fn endpoint(&self, pod: usize) -> EndpointId {
        EndpointId::of(&self.pods[pod].interface_id)
    }

    /// All that is observed, if EC2 says `cloud` and the first pods carry these group sets.
    pub(crate) fn observed(&self, cloud: &CloudFacts, groups: &[GroupSet]) -> Observed {
        let mut cloud = cloud.clone();
        cloud.instance.subnet_cidr = Some("10.200.0.0/24".parse().expect("a CIDR"));
        cloud.vpc_cidrs = vec!["10.200.0.0/16".parse().expect("a CIDR")];
        let mut links = Vec::new();
        for (pod, groups) in self.pods.iter().zip(groups) {
            cloud.interfaces.insert(pod.interface_id.clone(), pod.described(groups));
            links.extend(pod.links());
        }
        Observed {
            cluster: Some(ClusterFacts::default()),
            cloud: Some(cloud),
            links: Some(links),
            settings: Settings { snat: Snat::External, ..Settings::default() },
            ..Observed::default()
        }
    }

    /// What is left to do.
    pub(crate) fn plan(&self, observed: &Observed) -> Vec<Step> {
        let desired = Desired::from(observed);
        assert_eq!(desired.refused, []);
        plan(&desired, &self.kernel.installed().expect("what is installed"))
    }

    /// Does what is left to do, as the agent does.
    pub(crate) fn apply(&mut self, observed: &Observed) {
        for step in self.plan(observed) {
            self.kernel.apply(&step).unwrap_or_else(|error| panic!("{step:?}: {error:#}"));
        }
        assert_eq!(self.plan(observed), [], "a plan that was carried out leaves nothing to do");
    }

    /// Lets every CPU sample anew.
    pub(crate) fn sample(&mut self) {
        let room = vec![Sampler::default(); nr_cpus().expect("the number of CPUs")];
        let room = PerCpuValues::try_from(room).expect("one value a CPU");
        self.sampler.set(0, room, 0).expect("SAMPLER");
    }

    /// Reads the ring to its end; how many events it held.
    pub(crate) fn drain(&mut self) -> usize {
        std::iter::from_fn(|| self.events.next().map(drop)).count()
    }

    /// Runs a packet, with room for its event.
    pub(crate) fn run(&mut self, at: At, frame: &[u8]) -> Ran {
        self.sample();
        self.drain();
        let (passed, mark) = self.run_unsampled(at, frame);
        Ran { passed, mark, events: self.events() }
    }

    /// Reads the ring.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<Event>());
            // SAFETY: the program writes whole events.
            events.push(unsafe { std::ptr::read_unaligned(item.as_ptr().cast()) });
        }
        events
    }

    /// Runs a packet: whether it passed, and its mark.
    pub(crate) fn run_unsampled(&self, at: At, frame: &[u8]) -> (bool, u32) {
        let (_, program) = self.programs.iter().find(|(name, _)| *name == at.program).expect("a program");
        judged(program, at, frame)
    }

    /// Runs a packet that is written to: what tc is told, and what the packet is then.
    pub(crate) fn rewritten(&self, at: At, frame: &[u8]) -> (trial::Ran, Vec<u8>) {
        let (_, program) = self.programs.iter().find(|(name, _)| *name == at.program).expect("a program");
        trial::run_and_read(program, at, frame).expect("BPF_PROG_TEST_RUN")
    }

    /// A link beside those of pods; its index.
    pub(crate) fn link(&self, name: &str) -> u32 {
        link(name)
    }

    /// What is observed of a link.
    pub(crate) fn described_link(&self, name: &str, index: u32, mac: [u8; 6]) -> LinkFacts {
        LinkFacts { name: name.into(), index, mac, ..LinkFacts::default() }
    }

    /// Opens a program once more, to run packets from another thread.
    pub(crate) fn program(&self, name: &str) -> SchedClassifier {
        SchedClassifier::from_pin(PinDirs::new(&self.dir).program(name)).expect("a pinned program")
    }

    /// Starts the agent's half anew, as a restarted process would.
    pub(crate) fn reopen(&mut self) {
        self.kernel = Bpf::open_by(&self.dir, self.attachment).expect("the data path is taken over");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Whether a packet passed a program, and the mark it came out with.
pub(crate) fn judged(program: &SchedClassifier, at: At, frame: &[u8]) -> (bool, u32) {
    let ran = trial::run(program, at, frame).expect("BPF_PROG_TEST_RUN");
    (ran.passed, ran.mark)
}

fn link(name: &str) -> u32 {
    let made = Command::new("ip").args(["link", "add", name, "type", "veth"]).status().expect("ip runs");
    assert!(made.success(), "ip link add {name}");
    nix::net::if_::if_nametoindex(name).expect("the link is there")
}

/// Makes the interfaces of a pod. A veth stands in for the VLAN interface: tc sees the same frames on both.
pub(crate) fn wire(number: u16) -> Pod {
    Pod::on(number, link(&format!("host{number}")), link(&format!("vlan.eth.{number}")))
}

impl Pod {
    /// A pod with these interfaces.
    pub(crate) fn on(number: u16, host: u32, branch: u32) -> Self {
        let last = number as u8;
        Self {
            interface_id: format!("eni-pod{number}"),
            ipv4: std::net::Ipv4Addr::new(10, 9, 9, last).into(),
            ipv6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, number).into(),
            mac: [2, 0, 0, 0, 9, last],
            host,
            branch,
            vlan_id: number,
        }
    }

    fn described(&self, groups: &GroupSet) -> NetworkInterface {
        let tag = |key: &str, value: String| (key.to_owned(), value);
        NetworkInterface {
            id: self.interface_id.clone(),
            addresses: vec![self.ipv4, self.ipv6],
            groups: groups.clone(),
            interface_type: "branch".into(),
            tags: [tag(VLAN_TAG, self.vlan_id.to_string()), tag(POD_TAG, format!("ns/pod{}", self.vlan_id))].into(),
            ..NetworkInterface::default()
        }
    }

    fn links(&self) -> [LinkFacts; 2] {
        let alias = Alias { interface_id: self.interface_id.clone(), uid: "uid".into(), mac: self.mac };
        let link = |name, index, alias| LinkFacts { name, index, mac: [2; 6], alias, ..LinkFacts::default() };
        [
            link(format!("host{}", self.vlan_id), self.host, Some(alias.write())),
            link(format!("vlan.eth.{}", self.vlan_id), self.branch, None),
        ]
    }

    /// At its branch, from the VPC.
    pub(crate) fn receives(&self) -> At {
        At { program: program::FROM_BRANCH, ifindex: self.branch, ingress: self.branch, mark: 0 }
    }

    /// At its branch, to the VPC.
    pub(crate) fn leaves(&self) -> At {
        At { program: program::TO_BRANCH, ifindex: self.branch, ingress: self.host, mark: 0 }
    }

    /// At its host veth, from the pod.
    pub(crate) fn sends(&self) -> At {
        At { program: program::FROM_POD, ifindex: self.host, ingress: self.host, mark: 0 }
    }

    /// At its host veth, to the pod, coming by another interface.
    pub(crate) fn given(&self, ingress: u32) -> At {
        At { program: program::TO_POD, ifindex: self.host, ingress, mark: 0 }
    }
}
