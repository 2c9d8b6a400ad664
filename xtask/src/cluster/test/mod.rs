//! `sgp-dev test`: what only a whole cluster can show. One cluster serves all cases; each cleans up after itself.

mod agents;
mod aws_node;
mod beside;
mod breakages;
mod burst;
mod cast;
mod chart;
mod choices;
mod closed;
mod controller;
mod declared;
mod full;
mod input;
mod latency;
mod manifests;
mod matrix;
mod members;
mod modes;
mod plugin;
mod provision;
mod rows;
mod stage;
mod talk;
mod transcript;
mod trouble;
mod wire;

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;

pub(crate) use stage::Stage;

use crate::place::{Family, Machine, Mode, Shape};

/// A sentence and the way to show it.
type Case = (&'static str, fn(&Stage) -> Result<()>);

/// What is shown in a cluster of each mode and family.
const EVERYWHERE: [Case; 7] = [
    ("from_and_to_everywhere_packets_pass_by_a_rule_or_drop_as_facts_and_semantics_say", matrix::matrix),
    ("packets_take_the_ways_of_the_vpc_cni_under_the_sources_of_the_vpc_cni", rows::rows),
    ("probes_pass_standard_pods_and_strict_ones_exactly_if_their_groups_allow_the_nodes", modes::probes),
    ("a_change_of_mode_touches_new_pods_only_which_reach_the_old_ones", modes::switched),
    ("a_pod_that_somebody_else_wired_is_found_and_enforced_and_its_wiring_untouched", modes::adopted),
    ("a_pod_whose_branch_is_down_leaves_by_no_other_interface_and_by_it_again_once_it_is_up", closed::branch_down),
    ("the_cni_plugin_checks_what_it_made_and_never_takes_a_successors_wiring", plugin::verbs),
];

/// What one cluster is enough for: the first of `CLUSTERS`.
const CASES: [Case; 36] = [
    ("an_ec2_rule_change_is_enforced_within_two_seconds", latency::rule_change),
    ("packets_pass_or_drop_all_the_same_where_first_ones_go_past_the_host_stack", matrix::past_the_stack),
    ("a_new_policy_and_its_pod_are_enforced_from_the_first_packet", latency::first_packet),
    (
        "a_policy_with_an_unknown_group_keeps_its_pod_waiting_says_so_and_starts_once_the_group_exists",
        input::unknown_group,
    ),
    ("a_policy_without_a_spec_keeps_no_pod_waiting", input::without_spec),
    ("a_malformed_annotation_is_told_by_pod_and_key_and_others_start", input::malformed_annotation),
    ("a_pod_deleted_during_add_leaves_nothing", input::deleted_during_add),
    ("a_pod_with_a_neighbours_annotation_is_refused_and_the_neighbour_unharmed", closed::forged_annotation),
    ("a_warm_branch_stands_before_its_pod_and_another_takes_its_place", provision::warm),
    ("the_node_says_what_its_trunk_carries", provision::node_says),
    ("trunk_and_branches_are_made_as_awss_controller_makes_them", provision::as_awss),
    ("a_cidr_of_the_vpc_and_groups_of_the_node_that_change_are_noticed_by_the_running_agent", provision::changed),
    ("orphans_are_deleted_at_the_second_look_and_others_left_alone", provision::orphans),
    ("controllers_admit_pods_as_awss_does_and_one_takes_over_from_another_that_is_killed", controller::controllers),
    ("a_controller_publishes_members_agents_enforce_them_and_its_death_changes_nothing", members::published),
    ("the_table_of_instance_types_is_refreshed_from_ec2", provision::instance_types),
    ("requests_to_ec2_have_the_shapes_of_the_sdks_model", provision::shapes),
    (
        "a_matched_pod_without_a_branch_is_refused_with_an_event_or_by_choice_started_with_the_nodes_groups",
        choices::unmatched,
    ),
    ("running_pods_keep_their_groups_and_follow_their_policies_with_live_groups", choices::live_groups),
    ("a_hundred_and_twenty_pods_at_once_have_their_branches_by_fewer_calls_than_awss", burst::burst),
    ("beside_an_aws_node_that_translates_by_itself_standard_pods_take_our_ways", beside::aws_node),
    ("rules_of_a_network_policy_engine_on_host_veths_are_asked_too", beside::policy_engine),
    ("the_manifests_of_deploy_are_accepted_and_grant_what_the_agent_needs", manifests::accepted),
    ("the_chart_installs_as_kustomize_does_and_each_documented_value_is_accepted", chart::installed),
    ("one_command_each_names_the_cause_of_ten_breakages", breakages::breakages),
    ("a_second_agent_on_a_node_is_refused_by_name", agents::second_agent),
    ("an_agent_without_bpffs_says_how_to_mount_it", agents::no_bpffs),
    ("an_agent_without_permission_for_bpf_says_which", agents::no_permission),
    ("an_unreachable_ec2_is_told_once_and_enforcement_goes_on", agents::unreachable_ec2),
    ("a_download_survives_kill_9_of_the_agent_which_then_changes_nothing", agents::killed_during_download),
    ("a_full_disk_is_told_once_and_the_agent_goes_on_enforcing_and_starting_pods", trouble::full_disk),
    ("a_clock_that_jumps_forty_days_ahead_and_back_changes_nothing", trouble::clock_jump),
    ("while_the_agent_is_evicted_connections_go_on_and_new_pods_wait", trouble::evicted),
    ("an_api_server_that_is_silent_is_told_once_and_enforcement_follows_ec2_meanwhile", trouble::silent_api_server),
    ("agents_and_controllers_did_all_that_under_exactly_what_deploy_declares", declared::exactly),
    // Last: an API server that starts refuses everybody until it has read who may what.
    ("a_watch_whose_past_the_api_server_has_forgotten_begins_anew_and_misses_nothing", trouble::expired_watch),
];

/// What is about nodes that are full: the tutorial's cluster, whose five nodes carry 45 branches.
const FULL: [Case; 1] =
    [("on_five_nodes_of_m5_large_the_tenth_pod_of_one_and_the_46th_of_all_wait_for_the_scheduler", full::full)];

/// Each mode, each family, and each way of kube-proxy's to rewrite.
const STRICT_STRAIGHT: Case =
    ("strict_pods_packets_pass_or_drop_all_the_same_where_first_ones_go_past_the_host_stack", matrix::past_the_stack);
const IPV6_STRAIGHT: Case =
    ("ipv6_packets_pass_or_drop_all_the_same_where_first_ones_go_past_the_host_stack", matrix::past_the_stack);

/// The clusters of the cases: which cases only this one has, and which every one of its kind has.
const CLUSTERS: [(Shape, &[Case], &[Case]); 5] = [
    (Shape::two(Mode::Standard, Family::V4), &CASES, &EVERYWHERE),
    (Shape::two(Mode::Strict, Family::V4), &[STRICT_STRAIGHT], &EVERYWHERE),
    (Shape::two(Mode::Standard, Family::V6), &[IPV6_STRAIGHT], &EVERYWHERE),
    (Shape::two(Mode::Strict, Family::V6), &[], &EVERYWHERE),
    (Shape { nodes: 5, machine: Machine::Large, ..Shape::two(Mode::Standard, Family::V4) }, &FULL, &[]),
];

/// Runs every case whose name contains `filter`, each in the clusters it is about, which `start` makes one after
/// the other; `end` is told how many failed, and may end the run. Gives (passed, failed).
///
/// # Errors
/// Where a cluster cannot be made.
pub(crate) fn run(
    filter: &str,
    start: impl Fn(Shape) -> Result<Stage>,
    end: impl Fn(&Stage, usize) -> ControlFlow<()>,
) -> Result<(usize, usize)> {
    let (mut passed, mut failed) = (0, 0);
    for (shape, own, of_kind) in CLUSTERS {
        let cases: Vec<(String, Case)> =
            cases(shape, own, of_kind).into_iter().filter(|(name, _)| name.contains(filter)).collect();
        if cases.is_empty() {
            continue;
        }
        let stage = start(shape)?;
        let results: Vec<bool> = cases.iter().map(|(name, case)| tell(name, case.1, &stage)).collect();
        let wrong = results.iter().filter(|passed| !**passed).count();
        (passed, failed) = (passed + results.len() - wrong, failed + wrong);
        if end(&stage, wrong).is_break() {
            break;
        }
    }
    Ok((passed, failed))
}

/// Names and cases of a cluster.
fn cases(shape: Shape, own: &[Case], of_kind: &[Case]) -> Vec<(String, Case)> {
    let own = own.iter().map(|case| (case.0.to_owned(), *case));
    let of_kind = of_kind.iter().map(|case| (format!("{}::{}", shape.word(), case.0), *case));
    own.chain(of_kind).collect()
}

fn tell(name: &str, case: fn(&Stage) -> Result<()>, stage: &Stage) -> bool {
    let begun = Instant::now();
    let result = case(stage);
    stage.tidy();
    let seconds = begun.elapsed().as_secs_f32();
    match &result {
        Ok(()) => println!("test cluster::{name} ... ok ({seconds:.1} s)"),
        Err(error) => println!("test cluster::{name} ... FAILED ({seconds:.1} s)\n  {error:#}"),
    }
    result.is_ok()
}
