//! `sgp-dev test`: what only a whole cluster can show. One cluster serves all cases; each cleans up after itself.

mod agents;
mod closed;
mod input;
mod latency;
mod manifests;
mod plugin;
mod provision;
mod stage;

use std::time::Instant;

use anyhow::Result;

pub(crate) use stage::Stage;

/// A sentence and the way to show it.
type Case = (&'static str, fn(&Stage) -> Result<()>);

const CASES: [Case; 18] = [
    ("an_ec2_rule_change_is_enforced_within_two_seconds", latency::rule_change),
    ("a_new_policy_and_its_pod_are_enforced_from_the_first_packet", latency::first_packet),
    (
        "a_policy_with_an_unknown_group_keeps_its_pod_waiting_says_so_and_starts_once_the_group_exists",
        input::unknown_group,
    ),
    ("a_malformed_annotation_is_told_by_pod_and_key_and_others_start", input::malformed_annotation),
    ("a_pod_deleted_during_add_leaves_nothing", input::deleted_during_add),
    ("a_pod_with_a_neighbours_annotation_is_refused_and_the_neighbour_unharmed", closed::forged_annotation),
    ("a_pod_whose_branch_is_down_does_not_leave_by_the_nodes_own_interface", closed::branch_down),
    ("the_cni_plugin_checks_what_it_made_and_never_takes_a_successors_wiring", plugin::verbs),
    ("a_warm_branch_stands_before_its_pod_and_another_takes_its_place", provision::warm),
    ("the_node_says_what_its_trunk_carries", provision::node_says),
    ("orphans_are_deleted_at_the_second_look_and_others_left_alone", provision::orphans),
    ("the_table_of_instance_types_is_refreshed_from_ec2", provision::instance_types),
    ("the_manifests_of_deploy_are_accepted_and_grant_what_the_agent_needs", manifests::accepted),
    ("a_second_agent_on_a_node_is_refused_by_name", agents::second_agent),
    ("an_agent_without_bpffs_says_how_to_mount_it", agents::no_bpffs),
    ("an_agent_without_permission_for_bpf_says_which", agents::no_permission),
    ("an_unreachable_ec2_is_told_once_and_enforcement_goes_on", agents::unreachable_ec2),
    ("a_download_survives_kill_9_of_the_agent_which_then_changes_nothing", agents::killed_during_download),
];

/// Runs every case whose name contains `filter`; gives (passed, failed).
pub(crate) fn run(stage: &Stage, filter: &str) -> (usize, usize) {
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in CASES.iter().filter(|(name, _)| name.contains(filter)) {
        let begun = Instant::now();
        let result = case(stage);
        stage.tidy();
        let seconds = begun.elapsed().as_secs_f32();
        match result {
            Ok(()) => passed += 1,
            Err(_) => failed += 1,
        }
        match result {
            Ok(()) => println!("test cluster::{name} ... ok ({seconds:.1} s)"),
            Err(error) => println!("test cluster::{name} ... FAILED ({seconds:.1} s)\n  {error:#}"),
        }
    }
    (passed, failed)
}
