//! What is planned for EC2: nothing is lost, nothing in use is touched.

mod node;
mod pool;
mod running;
mod world;

use sgp_agent::domain::branches::{CloudStep, Purpose, VLAN_TAG};
use sgp_agent::domain::cloud_steps::Family;
use sgp_agent::domain::groups::{GroupSet, SecurityGroup};
use sgp_agent::domain::observed::{Association, Subnet};

use world::*;

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
fn a_subnet_with_ipv6_gives_branches_an_ipv6_address() {
    let mut observed = world();
    let v6_cidr = Some("2001:db8::/64".parse().expect("a CIDR"));
    cloud(&mut observed).subnets.insert(String::new(), Subnet { v6_cidr, ..Subnet::default() });
    let steps = plan(&observed).steps;
    let [CloudStep::CreateBranch { interface, .. }] = &steps[..] else { panic!("planned {steps:?}") };
    assert_eq!(interface.family, Family::Dual);
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
