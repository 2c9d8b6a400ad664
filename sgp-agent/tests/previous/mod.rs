//! The data path of layout 1: its own programs and maps, as the last agent of that layout left them.
//!
//! `sgp.v1.bpf.o` is the object of that agent (commit c57363e, `llvm-strip -g`). It differs from what came after in
//! `Endpoint`, which held the revision of its policy, in `NODE`, which was an array, and knew no map `REVISIONS`.

#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, HashOfMaps, Map, MapData};
use aya::programs::links::{FdLink, LinkOrder};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use sgp_agent::domain::installed::Link;
use sgp_agent::io::kernel::maps::{Maps, PinDirs, PolicyTrie};
use sgp_agent::io::kernel::{Attachment, Kernel};
use sgp_common::pins::{self, CARRIED, map, program};
use sgp_common::{Addr, endpoint::Endpoint};

use crate::node::Node;

static OBJECT: &[u8] = aya::include_bytes_aligned!("sgp.v1.bpf.o");

/// `Endpoint` of layout 1: the revision came second.
#[repr(C)]
#[derive(Clone, Copy)]
struct EndpointOf1 {
    group_set: u64,
    revision: u64,
    rest: [u8; size_of::<Endpoint>() - 8],
}

// SAFETY: numbers and bytes without padding: 8 + 8 + 96.
unsafe impl aya::Pod for EndpointOf1 {}

impl EndpointOf1 {
    fn of(endpoint: Endpoint, revision: u64) -> Self {
        // SAFETY: `Endpoint` is plain old data of this size.
        let bytes: [u8; size_of::<Endpoint>()] = unsafe { std::mem::transmute(endpoint) };
        let rest = std::array::from_fn(|index| bytes[index + 8]);
        Self { group_set: endpoint.group_set, revision, rest }
    }
}

/// Programs of layout 1, loaded once, and the maps they ask.
pub(crate) struct Previous {
    object: Ebpf,
    dirs: PinDirs,
}

impl Previous {
    /// Loads it beside a node's own, with the node's conversations.
    pub(crate) fn load(node: &Node) -> Self {
        let (dirs, ours) = (PinDirs { root: node.dir.join("v1") }, PinDirs::new(&node.dir));
        make_directories(&dirs);
        for name in CARRIED {
            MapData::from_pin(ours.map(name)).expect("a map").pin(dirs.map(name)).expect("a second pin");
        }
        let mut loader = EbpfLoader::new();
        loader.override_global(map::TEST, &0_u8, true);
        let names = map::ALL.into_iter().filter(|name| ![map::REVISIONS, map::VLANS, map::STACK_NETS].contains(name));
        let paths: Vec<_> = names.map(|name| (name, dirs.map(name))).collect();
        paths.iter().for_each(|(name, path)| {
            loader.map_pin_path(name, path.as_path());
        });
        let mut object = loader.load(OBJECT).expect("maps of layout 1");
        for name in program::ALL {
            by_name(&mut object, name).load().expect("the verifier takes layout 1");
        }
        Self { object, dirs }
    }

    /// Puts the node back to layout 1: the same pods, policies and conversations, and nothing of the newer layout. Nobody
    /// may send meanwhile.
    pub(crate) fn stage(&mut self, node: &Node, attachment: Attachment) {
        let links = node.kernel.installed().expect("what is installed").links;
        make_directories(&self.dirs);
        for (name, map) in self.object.maps().filter(|(name, _)| map::ALL.contains(name)) {
            if !self.dirs.map(name).exists() {
                map.pin(self.dirs.map(name)).expect("a pin");
            }
        }
        self.fill(node);
        for name in program::ALL.into_iter().filter(|name| !self.dirs.program(name).exists()) {
            let pin = self.dirs.program(name);
            by_name(&mut self.object, name).pin(pin).expect("a pin");
        }
        fs::remove_dir_all(PinDirs::new(&node.dir).root).expect("the newer layout goes");
        links.iter().for_each(|link| self.attach(link, attachment));
    }

    /// A program, to run packets through.
    pub(crate) fn program(&self, name: &str) -> SchedClassifier {
        SchedClassifier::from_pin(self.dirs.program(name)).expect("a pinned program")
    }

    fn fill(&self, node: &Node) {
        let ours = PinDirs::new(&node.dir);
        let pair = |name| (ours.map(name), self.dirs.map(name));
        copy::<4, 16>(pair(map::INTERFACES));
        copy::<8, 392>(pair(map::ENDPOINT_NAMES));
        copy::<16, 8>(pair(map::LOCAL));
        copy::<16, 8>(pair(map::PEERS));
        let maps = Maps::open(&ours).expect("the newer layout");
        let mut node: Array<_, sgp_common::snat::Node> = opened(self.dirs.map(map::NODE)).try_into().expect("an array");
        maps.node.get(&0, 0).into_iter().for_each(|known| node.set(0, known, 0).expect("NODE"));
        let mut endpoints: HashMap<_, u64, EndpointOf1> =
            opened(self.dirs.map(map::ENDPOINTS)).try_into().expect("a hash");
        for (id, endpoint) in maps.endpoints.iter().flatten() {
            let revision = maps.revisions.get(&endpoint.group_set, 0).unwrap_or_default();
            endpoints.insert(id, EndpointOf1::of(endpoint, revision), 0).expect("ENDPOINTS");
        }
        let policies = opened(self.dirs.map(map::POLICIES));
        let mut policies: HashOfMaps<_, u64, PolicyTrie> = policies.try_into().expect("a hash of maps");
        for id in maps.policies.keys().flatten() {
            policies.insert(id, &maps.policies.get(&id, 0).expect("a policy"), 0).expect("POLICIES");
        }
        let mut excluded: LpmTrie<_, Addr, u8> = opened(self.dirs.map(map::SNAT_EXCLUDED)).try_into().expect("a trie");
        for key in maps.excluded.keys().flatten() {
            excluded.insert(&Key::new(key.prefix_len(), key.data()), 1, 0).expect("SNAT_EXCLUDED");
        }
    }

    fn attach(&mut self, link: &Link, attachment: Attachment) {
        let hook = match link.program {
            program::TO_POD | program::TO_BRANCH => TcAttachType::Egress,
            _ => TcAttachType::Ingress,
        };
        let program = by_name(&mut self.object, link.program);
        match attachment {
            Attachment::Tcx => {
                let id =
                    program.attach_with_options(&link.interface, hook, TcAttachOptions::TcxOrder(LinkOrder::last()));
                let fd: FdLink =
                    program.take_link(id.expect("a link")).expect("a link").try_into().expect("a tcx link");
                let pin = format!("{}-{}", link.interface.replace('.', ":"), link.program);
                fd.pin(self.dirs.links().join(pin)).expect("a pin");
            }
            Attachment::Clsact => {
                let way = if hook == TcAttachType::Egress { "egress" } else { "ingress" };
                drop(Command::new("tc").args(["filter", "del", "dev", &link.interface, way]).status());
                // It stands already where the newer layout made it.
                drop(qdisc_add_clsact(&link.interface));
                let options = NlOptions { priority: 1, handle: TcHandle::new(0, 0x5347), classid: None };
                let id = program.attach_with_options(&link.interface, hook, TcAttachOptions::Netlink(options));
                std::mem::forget(program.take_link(id.expect("a filter")).expect("a filter"));
            }
        }
    }
}

fn make_directories(dirs: &PinDirs) {
    for name in [pins::MAPS, pins::LINKS, pins::PROGRAMS, pins::POLICIES] {
        fs::create_dir_all(dirs.root.join(name)).expect("a directory on bpffs");
    }
}

fn by_name<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    object.program_mut(name).expect("a program of layout 1").try_into().expect("a classifier")
}

fn opened(pin: PathBuf) -> Map {
    Map::from_map_data(MapData::from_pin(pin).expect("a pin")).expect("a map")
}

fn copy<const K: usize, const V: usize>((from, to): (PathBuf, PathBuf)) {
    let from: HashMap<_, [u8; K], [u8; V]> = opened(from).try_into().expect("a hash map");
    let mut to: HashMap<_, [u8; K], [u8; V]> = opened(to).try_into().expect("a hash map");
    for (key, value) in from.iter().flatten() {
        to.insert(key, value, 0).expect("room");
    }
}
