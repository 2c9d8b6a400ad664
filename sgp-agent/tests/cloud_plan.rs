//! What is planned for EC2: nothing is lost, nothing in use is touched.

use std::collections::{BTreeMap, BTreeSet};

use sgp_agent::domain::branches::{
    BranchSettings, CloudPlan, CloudStep, INSTANCE_TAG, Memory, OWNER, OWNER_TAG, POD_TAG, POD_UID_TAG, Purpose,
    TRUNK_TAG, VLAN_TAG, cloud_plan,
};
use sgp_agent::domain::cloud_steps::Family;
use sgp_agent::domain::groups::{EndpointId, GroupSet, SecurityGroup};
use sgp_agent::domain::observed::{
    Association, Attachment, CloudFacts, ClusterFacts, CniNode, CniNodeFacts, EniConfig, Instance, LabelSelector,
    LinkFacts, NetworkInterface, NodeFacts, Observed, Pod, SecurityGroupPolicy, Subnet,
};
use sgp_agent::domain::wiring::Alias;

fn settings() -> BranchSettings {
    BranchSettings { cooldown_s: 60, ..BranchSettings::default() }
}

fn trunk() -> NetworkInterface {
    let (instance_id, status) = ("i-1".into(), "attached".into());
    let attachment = Attachment { instance_id, status, delete_on_termination: true, ..Attachment::default() };
    let (id, interface_type) = ("eni-trunk".into(), "trunk".into());
    NetworkInterface { id, interface_type, attachment: Some(attachment), ..NetworkInterface::default() }
}

/// A branch of this node, made for the pod with this UID.
fn branch(id: &str, uid: &str, vlan_id: u16) -> NetworkInterface {
    let tags = [
        (OWNER_TAG, OWNER.to_owned()),
        (INSTANCE_TAG, "i-1".to_owned()),
        (POD_UID_TAG, uid.to_owned()),
        (POD_TAG, if uid == "u-1" { "shop/cart".to_owned() } else { String::new() }),
        (VLAN_TAG, vlan_id.to_string()),
        (TRUNK_TAG, "eni-trunk".to_owned()),
    ];
    let tags = tags.map(|(key, value)| (key.to_owned(), value));
    NetworkInterface { id: id.into(), tags: tags.into(), ..NetworkInterface::default() }
}

/// A node with a trunk, and one pod that a policy gives the group `sg-1`.
fn world() -> Observed {
    let pod = Pod { uid: "u-1".into(), namespace: "shop".into(), name: "cart".into(), ..Pod::default() };
    let policy = SecurityGroupPolicy {
        namespace: "shop".into(),
        name: "all".into(),
        pod_selector: Some(LabelSelector::default()),
        service_account_selector: None,
        group_ids: vec!["sg-1".into()],
    };
    let cluster =
        ClusterFacts { pods: BTreeMap::from([("u-1".into(), pod)]), policies: vec![policy], ..ClusterFacts::default() };
    let instance = Instance { id: "i-1".into(), branch_limit: 18, interface_limit: 4, ..Instance::default() };
    let group = SecurityGroup { id: "sg-1".into(), vpc_id: "vpc-1".into(), rules: Vec::new() };
    let cloud = CloudFacts {
        instance,
        groups: BTreeMap::from([("sg-1".into(), group)]),
        interfaces: BTreeMap::from([("eni-trunk".into(), trunk())]),
        ..CloudFacts::default()
    };
    Observed { cluster: Some(cluster), cloud: Some(cloud), links: Some(Vec::new()), ..Observed::default() }
}

fn cloud(observed: &mut Observed) -> &mut CloudFacts {
    observed.cloud.as_mut().expect("the world has a cloud")
}

fn plan(observed: &Observed) -> CloudPlan {
    plan_with(observed, &settings())
}

fn plan_with(observed: &Observed, settings: &BranchSettings) -> CloudPlan {
    cloud_plan(observed, &BTreeSet::new(), settings, &Memory::default(), 0)
}

fn after_cooldown(observed: &Observed, branch: &str) -> CloudPlan {
    let memory = Memory { ended_s: BTreeMap::from([(branch.to_owned(), 0)]), ..Memory::default() };
    cloud_plan(observed, &BTreeSet::new(), &settings(), &memory, 60)
}

/// Puts a branch on the trunk.
fn on_trunk(observed: &mut Observed, branch: &str, vlan_id: u16) {
    let at = Association {
        id: format!("trunk-assoc-{branch}"),
        trunk_id: "eni-trunk".into(),
        branch_id: branch.into(),
        vlan_id,
    };
    cloud(observed).associations.insert(branch.into(), at);
}

#[test]
fn a_pod_that_a_policy_matches_gets_a_branch_with_the_lowest_free_vlan_id() {
    let steps = plan(&world()).steps;
    let [CloudStep::CreateBranch { purpose, interface }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!(purpose, &Purpose::Pod { uid: "u-1".into(), name: "shop/cart".into() });
    assert_eq!(interface.groups, GroupSet::of(["sg-1"]));
    assert_eq!(interface.tags.get(VLAN_TAG).map(String::as_str), Some("1"));
    assert_eq!(interface.family, Family::V4);
}

#[test]
fn vlan_ids_of_other_trunks_are_free_on_this_one() {
    let mut observed = world();
    let other = Association { id: "a".into(), trunk_id: "eni-other".into(), branch_id: "eni-9".into(), vlan_id: 1 };
    cloud(&mut observed).associations.insert("eni-9".into(), other);
    let steps = plan(&observed).steps;
    let [CloudStep::CreateBranch { interface, .. }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!(interface.tags.get(VLAN_TAG).map(String::as_str), Some("1"));
}

#[test]
fn an_unknown_group_is_refused_by_id_and_nothing_is_made() {
    let mut observed = world();
    cloud(&mut observed).groups.clear();
    let planned = plan(&observed);
    assert_eq!(planned.steps, []);
    let reasons: Vec<&String> = planned.refused.iter().map(|refusal| &refusal.reason).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("InvalidSecurityGroupID.NotFound") && reason.contains("sg-1")),
        "{reasons:?}"
    );
}

#[test]
fn a_branch_that_an_earlier_agent_made_is_taken_up_and_not_made_again() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-1", 7));
    cloud(&mut observed).interfaces.get_mut("eni-2").expect("the branch").groups = GroupSet::of(["sg-1"]);
    let steps = plan(&observed).steps;
    assert!(matches!(&steps[..], [CloudStep::Associate { vlan_id: 7, .. }]), "planned {steps:?}");
}

#[test]
fn a_branch_whose_pod_is_gone_rests_and_is_then_deleted() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    observed.cluster.as_mut().expect("a cluster").pods.clear();
    let deletes = |plan: CloudPlan| plan.steps.into_iter().any(|step| matches!(step, CloudStep::Delete { .. }));
    assert!(!deletes(plan(&observed)));
    assert!(deletes(after_cooldown(&observed, "eni-2")));
}

/// `kubectl delete --force` takes the object while the container goes on.
#[test]
fn a_branch_whose_wiring_still_stands_is_kept_although_its_pod_is_gone() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    let alias = Alias { interface_id: "eni-2".into(), uid: "u-gone".into(), mac: [2; 6] }.write();
    observed.links = Some(vec![LinkFacts { name: "eni0".into(), index: 9, mac: [2; 6], alias: Some(alias) }]);
    let planned = after_cooldown(&observed, "eni-2");
    assert!(planned.resting.is_empty(), "resting {:?}", planned.resting);
    assert!(!planned.steps.iter().any(|step| matches!(step, CloudStep::Delete { .. })));
}

#[test]
fn an_interface_without_our_tags_is_never_touched() {
    let mut observed = world();
    let mut foreign = branch("eni-3", "u-gone", 7);
    foreign.tags.remove(OWNER_TAG);
    cloud(&mut observed).interfaces.insert("eni-3".into(), foreign);
    assert!(after_cooldown(&observed, "eni-3").resting.is_empty());
}

#[test]
fn a_branch_whose_endpoint_the_kernel_still_holds_is_kept_too() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    let held = BTreeSet::from([EndpointId::of("eni-2")]);
    let planned = cloud_plan(&observed, &held, &settings(), &Memory::default(), 60);
    assert!(planned.resting.is_empty(), "resting {:?}", planned.resting);
}

#[test]
fn a_branch_that_is_on_the_trunk_free_and_rested_is_claimed_and_given_the_pods_groups() {
    let mut observed = world();
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "", 7));
    on_trunk(&mut observed, "eni-2", 7);
    let steps = plan(&observed).steps;
    let [CloudStep::Tag { tags, .. }, CloudStep::SetGroups { groups, .. }] = &steps[..] else {
        panic!("planned {steps:?}")
    };
    assert_eq!(tags.get(POD_UID_TAG).map(String::as_str), Some("u-1"));
    assert_eq!(groups, &GroupSet::of(["sg-1"]));
}

#[test]
fn the_next_pod_gets_the_branch_of_one_that_ended_once_it_is_cool() {
    let mut observed = world();
    cloud(&mut observed).instance.branch_limit = 1;
    cloud(&mut observed).interfaces.insert("eni-2".into(), branch("eni-2", "u-gone", 7));
    on_trunk(&mut observed, "eni-2", 7);
    let waiting = plan(&observed);
    assert_eq!(waiting.steps, []);
    assert!(waiting.refused[0].reason.contains("it waits for one to be free again"), "{:?}", waiting.refused);
    let steps = after_cooldown(&observed, "eni-2").steps;
    assert!(matches!(&steps[..], [CloudStep::Tag { .. }, CloudStep::SetGroups { .. }]), "planned {steps:?}");
}

#[test]
fn the_pool_is_filled_after_the_pods_and_only_where_there_is_a_policy() {
    let warm = BranchSettings { warm: 2, ..settings() };
    let mut observed = world();
    let purposes: Vec<Purpose> = plan_with(&observed, &warm).steps.iter().map(CloudStep::purpose).collect();
    assert!(matches!(&purposes[..], [Purpose::Pod { .. }, Purpose::Pool, Purpose::Pool]), "{purposes:?}");
    let cluster = observed.cluster.as_mut().expect("a cluster");
    cluster.policies.clear();
    assert_eq!(plan_with(&observed, &warm).steps, []);
}

#[test]
fn the_pool_leaves_the_last_addresses_of_a_subnet() {
    let warm = BranchSettings { warm: 2, ..settings() };
    let mut observed = world();
    let subnet = Subnet { free_addresses: Some(9), ..Subnet::default() };
    cloud(&mut observed).subnets.insert(String::new(), subnet);
    let purposes: Vec<Purpose> = plan_with(&observed, &warm).steps.iter().map(CloudStep::purpose).collect();
    assert!(matches!(&purposes[..], [Purpose::Pod { .. }]), "{purposes:?}");
}

#[test]
fn two_branches_that_claim_one_vlan_id_get_two() {
    let mut observed = world();
    for id in ["eni-2", "eni-3"] {
        cloud(&mut observed).interfaces.insert(id.into(), branch(id, "", 1));
    }
    on_trunk(&mut observed, "eni-3", 1);
    let warm = BranchSettings { warm: 3, ..settings() };
    let steps = plan_with(&observed, &warm).steps;
    let retagged = steps.iter().find_map(|step| match step {
        CloudStep::Tag { branch, tags, .. } if branch == "eni-2" => tags.get(VLAN_TAG).cloned(),
        _ => None,
    });
    assert_eq!(retagged.as_deref(), Some("2"), "planned {steps:?}");
}

#[test]
fn a_subnet_with_ipv6_gives_branches_an_ipv6_address() {
    let mut observed = world();
    let v6_cidr = Some("2001:db8::/64".parse().expect("a CIDR"));
    cloud(&mut observed).subnets.insert(String::new(), Subnet { v6_cidr, ..Subnet::default() });
    let steps = plan(&observed).steps;
    let [CloudStep::CreateBranch { interface, .. }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!(interface.family, Family::Dual);
}

#[test]
fn an_eni_config_says_where_and_the_policy_which_groups() {
    let mut observed = world();
    let node = NodeFacts {
        labels: [("k8s.amazonaws.com/eniConfig".to_owned(), "zone-a".to_owned())].into(),
        ..NodeFacts::default()
    };
    let cluster = observed.cluster.as_mut().expect("a cluster");
    cluster.node = Some(node);
    let missing = plan(&observed);
    assert_eq!(missing.notices[0].reason, "EniConfigNameNotFound");
    assert_eq!((missing.steps.len(), missing.refused.len()), (0, 1));
    let config = EniConfig { subnet_id: "subnet-9".into(), groups: GroupSet::of(["sg-trunk"]) };
    observed.cluster.as_mut().expect("a cluster").eni_configs.insert("zone-a".into(), config);
    cloud(&mut observed).subnets.insert("subnet-9".into(), Subnet { id: "subnet-9".into(), ..Subnet::default() });
    let steps = plan(&observed).steps;
    let made = steps.iter().find_map(|step| match step {
        CloudStep::CreateBranch { interface, .. } => Some((interface.subnet_id.as_str(), interface.groups.to_string())),
        _ => None,
    });
    assert_eq!(made, Some(("subnet-9", "sg-1".to_owned())), "planned {steps:?}");
    cloud(&mut observed).interfaces.clear();
    let steps = plan(&observed).steps;
    let [CloudStep::CreateTrunk { interface }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!((interface.subnet_id.as_str(), interface.groups.to_string()), ("subnet-9", "sg-trunk".to_owned()));
}

#[test]
fn the_node_says_that_it_has_a_trunk_once_it_has_one() {
    let mut observed = world();
    let cluster = observed.cluster.as_mut().expect("a cluster");
    (cluster.node, cluster.cni_node) = (Some(NodeFacts::default()), CniNodeFacts::Missing);
    cluster.pods.clear();
    let steps = plan(&observed).steps;
    let expected = [
        matches!(&steps[0], CloudStep::LabelNode { key, value } if key == "vpc.amazonaws.com/has-trunk-attached" && value == "true"),
        matches!(&steps[1], CloudStep::Advertise { branches: 18 }),
        matches!(&steps[2], CloudStep::WriteCniNode { wanted } if wanted.features.contains_key("SecurityGroupsForPods")),
    ];
    assert_eq!(expected, [true; 3], "planned {steps:?}");
    let CloudStep::WriteCniNode { wanted } = &steps[2] else { panic!("planned {steps:?}") };
    let mut there = CniNode::default();
    there.features.insert("SomethingElse".into(), "1".into());
    let cluster = observed.cluster.as_mut().expect("a cluster");
    cluster.cni_node = CniNodeFacts::There(there.clone());
    assert_eq!(plan(&observed).steps.len(), 3);
    there.features.extend(wanted.features.clone());
    there.tags = wanted.tags.clone();
    observed.cluster.as_mut().expect("a cluster").cni_node = CniNodeFacts::There(there);
    assert_eq!(plan(&observed).steps.len(), 2);
}

#[test]
fn nodes_that_cannot_have_branches_are_told_of_and_left_alone() {
    type Change = fn(&mut Observed);
    let cases: [(&str, Change, &str); 5] = [
        (
            "a type without trunk",
            |o| (cloud(o).instance.branch_limit, cloud(o).instance.known_type) = (0, true),
            "is not supported for trunk interface",
        ),
        (
            "a type nobody knows",
            |o| (cloud(o).instance.branch_limit, cloud(o).instance.known_type) = (0, false),
            "is not supported yet by the vpc resource controller",
        ),
        ("Windows", |o| label(o, "kubernetes.io/os", "windows"), "this one runs windows"),
        ("Auto Mode", |o| label(o, "eks.amazonaws.com/compute-type", "auto"), "Auto Mode"),
        (
            "IPv6 without a prefix",
            |o| {
                let addresses = vec!["2001:db8::7".parse().expect("an address")];
                o.cluster.as_mut().expect("a cluster").node = Some(NodeFacts { addresses, ..NodeFacts::default() });
            },
            "no IPv6 CIDR",
        ),
    ];
    for (case, change, words) in cases {
        let mut observed = world();
        change(&mut observed);
        let planned = plan(&observed);
        assert_eq!(planned.steps, [], "{case}");
        assert_eq!(planned.notices[0].reason, "Unsupported", "{case}");
        assert!(planned.notices[0].message.contains(words), "{case}: {:?}", planned.notices);
        assert_eq!(planned.refused.len(), 1, "{case}");
    }
}

fn label(observed: &mut Observed, key: &str, value: &str) {
    let labels = [(key.to_owned(), value.to_owned())].into();
    observed.cluster.as_mut().expect("a cluster").node = Some(NodeFacts { labels, ..NodeFacts::default() });
}

#[test]
fn groups_that_ec2_would_refuse_are_refused_before_the_pod_waits() {
    let mut observed = world();
    let stranger = SecurityGroup { id: "sg-1".into(), vpc_id: "vpc-2".into(), rules: Vec::new() };
    cloud(&mut observed).groups.insert("sg-1".into(), stranger);
    cloud(&mut observed).instance.vpc_id = "vpc-1".into();
    assert!(plan(&observed).refused[0].reason.contains("is of vpc-2"));
    let many: Vec<String> = (0..17).map(|n| format!("sg-{n}")).collect();
    observed.cluster.as_mut().expect("a cluster").policies[0].group_ids = many;
    assert!(plan(&observed).refused[0].reason.contains("SecurityGroupsPerInterfaceLimitExceeded"));
}

#[test]
fn the_trunk_is_attached_at_the_highest_free_index_and_a_surplus_one_is_taken_back() {
    let mut observed = world();
    let tags = || branch("", "", 1).tags.into_iter().filter(|(key, _)| key != POD_UID_TAG).collect();
    let pending = |id: &str| NetworkInterface {
        id: id.into(),
        interface_type: "trunk".into(),
        tags: tags(),
        ..NetworkInterface::default()
    };
    cloud(&mut observed).interfaces =
        [("eni-8".to_owned(), pending("eni-8")), ("eni-9".to_owned(), pending("eni-9"))].into();
    cloud(&mut observed).instance.device_indexes = [0, 1, 3].into();
    let steps = plan(&observed).steps;
    let attach = CloudStep::AttachTrunk { trunk: "eni-8".into(), device_index: 2 };
    assert_eq!(steps, [attach, CloudStep::Delete { interface: "eni-9".into() }]);
    cloud(&mut observed).instance.device_indexes = [0, 1, 2, 3].into();
    let planned = plan(&observed);
    assert!(planned.steps.iter().all(|step| matches!(step, CloudStep::Delete { .. })), "{:?}", planned.steps);
    assert!(planned.refused[0].reason.contains("no free device index"), "{:?}", planned.refused);
}

#[test]
fn a_pod_that_requests_a_branch_without_a_policy_gets_the_nodes_groups_and_is_told() {
    let mut observed = world();
    cloud(&mut observed).instance.primary_groups = GroupSet::of(["sg-1"]);
    let cluster = observed.cluster.as_mut().expect("a cluster");
    cluster.policies.clear();
    assert_eq!(plan(&observed).steps, []);
    observed.cluster.as_mut().expect("a cluster").pods.get_mut("u-1").expect("the pod").requested = 1;
    let planned = plan(&observed);
    assert!(matches!(&planned.steps[..], [CloudStep::CreateBranch { .. }]), "{:?}", planned.steps);
    assert!(planned.notices[0].message.contains("Pod will get the instance security group"), "{:?}", planned.notices);
}
