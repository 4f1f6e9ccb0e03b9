//! What every back end must do, seen from outside.

pub mod access;
pub mod approvals;
pub mod events;
pub mod governance;
pub mod notices;
pub mod redaction;
pub mod redis;
pub mod sla;
pub mod tasks;
pub mod workers;

/// The list. A scenario that does not stand here is dead code, which the compiler tells.
macro_rules! run_scenarios {
    ($backend:ty) => {
        $crate::e2e::scenarios::run_scenarios! { $backend,
            tasks [
                a_task_runs_to_its_result
                a_repeat_is_the_same_task
                parts_know_their_whole
                cancelling_ends_it_for_good
                a_failed_task_is_tried_anew
                an_agent_without_its_work_says_so
                retries_have_an_end
                what_cannot_be_done_fails_at_once
                an_investigation_looks_at_recent_tasks
                a_large_payload_is_read
                any_text_is_carried
                p0_overtakes
                work_survives_a_restart
            ]
            approvals [
                an_approved_task_runs
                a_rejected_task_never_runs
                an_unanswered_task_is_cancelled
                nobody_approves_their_own_where_two_are_asked_for
                one_decision_counts
            ]
            workers [
                a_worker_takes_and_completes
                one_step_claims_and_completes
                replicas_share_a_key_and_no_claim
                a_silent_worker_loses_the_task
                a_worker_that_reports_keeps_the_task
                a_question_is_answered
                a_large_result_is_kept
            ]
            events [
                a_requested_task_is_made
                an_alert_makes_one_task_in_its_window
                a_follower_misses_nothing
                odd_events_are_refused
            ]
            governance [
                a_level_is_earned
                what_policy_refuses_is_recorded
                a_link_decides_once
                two_must_approve_where_policy_says_so
                what_a_freeze_held_goes_on_when_it_is_lifted
            ]
            notices [
                a_failure_is_told
            ]
            redaction [
                no_secret_is_shown_told_or_logged
            ]
            redis [
                tasks_of_a_queue_are_finished_there
            ]
            sla [
                marks_are_noticed_while_it_waits_for_approval
                marks_are_noticed_while_nobody_works_on_it
            ]
            access [
                a_key_lives_until_it_is_revoked
                roles_are_kept
                the_audit_says_who_did_what
                errors_say_what_was_wrong
            ]
        }
    };
    ($backend:ty, $($group:ident [$($name:ident)*])*) => {
        $(
            mod $group {
                $(
                    #[tokio::test]
                    async fn $name() {
                        $crate::e2e::scenarios::$group::$name::<$backend>().await;
                    }
                )*
            }
        )*
    };
}

pub(in crate::e2e) use run_scenarios;
