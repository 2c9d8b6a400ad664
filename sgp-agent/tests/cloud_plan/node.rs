//! The trunk, where it is made, and what the Node says.

use sgp_agent::domain::branches::{CloudStep, Notice, POD_UID_TAG, Purpose};
use sgp_agent::domain::groups::{GroupSet, SecurityGroup};
use sgp_agent::domain::observed::{
    ClusterFacts, CniNode, CniNodeFacts, EniConfig, NetworkInterface, NodeFacts, Observed, Subnet,
};
use sgp_agent::domain::site::{EniConfigKeys, eni_config_name};

use crate::world::*;

#[test]
fn an_eni_config_says_where_and_the_policy_which_groups() {
    let mut observed = world();
    let node = NodeFacts {
        labels: [("vpc.amazonaws.com/eniConfig".to_owned(), "zone-a".to_owned())].into(),
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
    let made = |observed: &Observed| {
        plan(observed).steps.iter().find_map(|step| match step {
            CloudStep::CreateBranch { interface, .. } => Some(format!("{} {}", interface.subnet_id, interface.groups)),
            _ => None,
        })
    };
    assert_eq!(made(&observed).as_deref(), Some("subnet-9 sg-1"));
    let mut unmatched = observed.clone();
    let known = SecurityGroup { id: "sg-trunk".into(), vpc_id: "vpc-1".into(), rules: Vec::new() };
    cloud(&mut unmatched).groups.insert("sg-trunk".into(), known);
    let cluster = unmatched.cluster.as_mut().expect("a cluster");
    cluster.policies.clear();
    cluster.pods.get_mut("u-1").expect("the pod").requested = 1;
    assert_eq!(made(&unmatched).as_deref(), Some("subnet-9 sg-trunk"), "who requests a branch without a policy");
    cloud(&mut observed).interfaces.clear();
    let steps = plan(&observed).steps;
    let [CloudStep::CreateTrunk { interface }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!((interface.subnet_id.as_str(), interface.groups.to_string()), ("subnet-9", "sg-trunk".to_owned()));
}

#[test]
fn an_eni_config_is_found_where_vpc_cni_finds_it_and_only_where_custom_networking_is_on() {
    let (own, zone) = ("k8s.amazonaws.com/eniConfig", "topology.kubernetes.io/zone");
    let keys = |label: &str| Some(EniConfigKeys { annotation: own.into(), label: label.into() });
    let named = |labels: &[(&str, &str)], annotated: bool, feature: Option<&str>, keys: Option<EniConfigKeys>| {
        let texts = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let annotations = if annotated { texts(&[(own, "annotated")]) } else { texts(&[]) };
        let features = feature.map(|name| ("CustomNetworking".to_owned(), name.to_owned())).into_iter().collect();
        let cluster = ClusterFacts {
            node: Some(NodeFacts { labels: texts(labels), annotations, ..NodeFacts::default() }),
            cni_node: CniNodeFacts::There(CniNode { features, ..CniNode::default() }),
            ..ClusterFacts::default()
        };
        eni_config_name(&cluster, keys.as_ref()).unwrap_or_default()
    };
    let all = [("vpc.amazonaws.com/externalEniConfig", "external"), (own, "label"), (zone, "zone-a")];
    assert_eq!(named(&all, true, Some("cni"), keys(own)), "external");
    assert_eq!(named(&all[1..], true, Some("cni"), keys(own)), "annotated");
    assert_eq!(named(&all[1..], false, Some("cni"), keys(own)), "label");
    assert_eq!(named(&all[1..], false, Some("cni"), keys(zone)), "zone-a", "ENI_CONFIG_LABEL_DEF");
    assert_eq!(
        named(&all, true, Some("cni"), None),
        "cni",
        "what CNI found counts, and what it would not look for does not"
    );
    assert_eq!(named(&all, true, None, None), "", "custom networking is off");
    assert_eq!(named(&[("vpc.amazonaws.com/eniConfig", "controller")], true, Some("cni"), None), "controller");
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
    let [notice] = &planned.notices[..] else { panic!("{:?}", planned.notices) };
    assert_eq!((notice.reason, &notice.about), ("NodeTrunkFailedInit", &Purpose::Node));
    assert!(notice.message.contains("MAX_ENI=3"), "it names the way out: {}", notice.message);
}

#[test]
fn the_node_says_how_long_branches_rest_where_the_config_map_says_it() {
    let said = |written: Option<&str>| {
        let mut observed = world();
        observed.cluster.as_mut().expect("a cluster").cooldown = written.map(str::to_owned);
        let of_cooldown = |notice: &Notice| notice.reason == "BranchENICoolDownPeriodUpdated";
        plan(&observed).notices.into_iter().find(of_cooldown).map(|notice| notice.message)
    };
    let text = |period: &str| Some(format!("Branch ENI cool down period has been updated to {period}"));
    assert_eq!((said(None), said(Some("soon"))), (None, None));
    assert_eq!((said(Some("90")), said(Some("5")), said(Some("3600"))), (text("1m30s"), text("30s"), text("1h0m0s")));
}

fn label(observed: &mut Observed, key: &str, value: &str) {
    let labels = [(key.to_owned(), value.to_owned())].into();
    observed.cluster.as_mut().expect("a cluster").node = Some(NodeFacts { labels, ..NodeFacts::default() });
}
