//! A full node, and a cluster's worth of peers as the API server would tell of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde_json::json;
use sgp_agent::domain::desired::{Desired, mapped};
use sgp_agent::domain::groups::{GroupSet, Remote, Rule, SecurityGroup, Service};
use sgp_agent::domain::memo::Memo;
use sgp_agent::domain::observed::{CloudFacts, Observed, Scope};
use sgp_agent::io::kernel::{Attachment, Bpf};
use sgp_agent::io::kubernetes::{Heard, SecurityGroupMembership};
use sgp_agent::reconcile::{Members, MembershipFrom, apply};
use sgp_common::{Addr, Direction};

use crate::node::{Node, wire};

/// Pods of the node: as many as the largest trunk carries.
pub(crate) const ENDPOINTS: u16 = 120;
/// Group sets of pods and peers.
const SETS: u16 = 12;
/// Rules of each group, of which half ask for another group.
const RULES: u16 = 1000;
/// Addresses of a slice.
const SLICE: usize = 1000;

pub(crate) struct World {
    pub(crate) node: Node,
    observed: Observed,
    /// Addresses of each slice.
    slices: Vec<Vec<IpAddr>>,
    generation: u64,
    edits: u16,
    fresh: u32,
    policies: Memo,
}

fn set(number: u16) -> GroupSet {
    GroupSet::of([format!("sg-{number:017x}")])
}

fn group(number: u16, edit: u16) -> SecurityGroup {
    let id = format!("sg-{number:017x}");
    let rule = |row: u16| {
        let remote = match row % 2 {
            0 => Remote::Group(format!("sg-{:017x}", row / 2 % SETS)),
            _ => Remote::Cidr(format!("172.16.{}.0/24", row / 4 % 256).parse().expect("a CIDR")),
        };
        let port = if row == 0 { 20_000 + edit } else { 1024 + row };
        let service = Service::Ports { protocol: 6, from: port, to: port };
        Rule {
            id: format!("sgr-{number:05x}{row:012x}"),
            group_id: id.clone(),
            direction: Direction::Inbound,
            service,
            remote,
        }
    };
    SecurityGroup { vpc_id: "vpc-1".into(), rules: (0..RULES).map(rule).collect(), id: id.clone() }
}

/// Every tenth is of IPv6.
fn address(number: u32) -> IpAddr {
    match number % 10 {
        0 => Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(number)).into(),
        _ => Ipv4Addr::from_bits(0x6440_0000 + number).into(),
    }
}

impl World {
    /// With everything known, and nothing enforced yet.
    pub(crate) fn start(peers: usize) -> Self {
        let attachment = Attachment::offered().expect("root may ask the kernel");
        let node = Node::start_by(attachment, || (1..=ENDPOINTS).map(wire).collect());
        let groups: BTreeMap<_, _> =
            (0..SETS).map(|number| group(number, 0)).map(|group| (group.id.clone(), group)).collect();
        let of_pods: Vec<GroupSet> = (0..ENDPOINTS).map(|pod| set(pod % SETS)).collect();
        let cloud = CloudFacts { groups, scope: Scope::Node, ..CloudFacts::default() };
        let observed = node.observed(&cloud, &of_pods);
        let all: Vec<IpAddr> = (0..).take(peers).map(address).collect();
        let slices = all.chunks(SLICE).map(<[IpAddr]>::to_vec).collect();
        let fresh = peers.try_into().expect("few peers");
        Self { node, observed, slices, generation: 1, edits: 0, fresh, policies: Memo::default() }
    }

    /// A watch's word of a slice.
    fn text(&self, slice: usize) -> String {
        let number = u16::try_from(slice).unwrap_or_default() % SETS;
        let groups: Vec<String> = set(number).0.into_iter().collect();
        let metadata = json!({
            "name": format!("members-{slice}"), "resourceVersion": "1", "uid": "6d2b1f0e-0000-4000-8000-000000000000",
            "labels": {"app.kubernetes.io/managed-by": "sgp-controller"}
        });
        let spec = json!({
            "form": 1, "groups": groups, "generation": self.generation, "addresses": self.slices[slice]
        });
        json!({
            "apiVersion": "sgp.dev/v1alpha1", "kind": "SecurityGroupMembership", "metadata": metadata, "spec": spec
        })
        .to_string()
    }

    pub(crate) fn heard(text: &str) -> Result<Heard> {
        let object: SecurityGroupMembership = serde_json::from_str(text).context("a SecurityGroupMembership")?;
        Ok(Heard::of(&object))
    }

    /// Everything, as a first list.
    pub(crate) fn all(&self) -> Vec<Heard> {
        let slices = (0..self.slices.len()).filter_map(|slice| Self::heard(&self.text(slice)).ok());
        let names: BTreeSet<String> = (0..self.slices.len()).map(|slice| format!("members-{slice}")).collect();
        slices.chain([Heard::Beat(Some(1)), Heard::All(names)]).collect()
    }

    /// Somebody takes somebody's place: the slice, and who came.
    pub(crate) fn change(&mut self) -> (String, Addr) {
        let number = self.fresh;
        self.fresh += 1;
        self.generation += 1;
        let slice = number as usize % self.slices.len();
        let place = number as usize % self.slices[slice].len();
        let coming = address(number);
        self.slices[slice][place] = coming;
        (self.text(slice), mapped(coming))
    }

    /// One rule of one group gets another port.
    pub(crate) fn edit_rule(&mut self) {
        self.edits += 1;
        let (number, edits) = (self.edits % SETS, self.edits);
        let group = group(number, edits);
        self.observed.cloud.get_or_insert_default().groups.insert(group.id.clone(), group);
    }

    /// As the loop's, from what is known to what is enforced.
    pub(crate) fn round(&mut self, members: &Members, kernel: &Mutex<Bpf>) -> Result<()> {
        self.look(members, kernel, false)
    }

    /// As the loop's where it has had no news for long: everything is read back and memory reclaimed.
    pub(crate) fn rest(&mut self, members: &Members, kernel: &Mutex<Bpf>) -> Result<()> {
        self.look(members, kernel, true)
    }

    fn look(&mut self, members: &Members, kernel: &Mutex<Bpf>, sweep: bool) -> Result<()> {
        self.observed.published = members.published();
        let mut desired = Desired::remembering(&self.observed, &mut self.policies);
        apply(&mut *crate::lock(kernel), &mut desired, sweep)?;
        members.enforced(self.observed.published.as_deref(), BTreeSet::new());
        Ok(())
    }

    /// What an agent does from its start until all is seen to be enforced.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.policies = Memo::default();
        let members = Members::new(MembershipFrom::Auto);
        let texts: Vec<String> = (0..self.slices.len()).map(|slice| self.text(slice)).collect();
        for text in &texts {
            members.hear(Self::heard(text)?);
        }
        members.hear(Heard::Beat(Some(1)));
        members.hear(Heard::All((0..self.slices.len()).map(|slice| format!("members-{slice}")).collect()));
        let kernel = Mutex::new(Bpf::open(&self.node.dir)?);
        self.round(&members, &kernel)
    }
}
