//! Scenarios that every backend must pass, seen from outside.

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

/// The list of scenarios. One that is missing here is dead code, which the compiler reports.
macro_rules! run_scenarios {
    ($backend:ty) => {
        $crate::e2e::scenarios::run_scenarios! { $backend,
            tasks [
                a_task_runs_to_its_result
                a_repeat_is_the_same_task
                child_tasks_and_their_parent_name_each_other
                a_cancelled_task_stays_cancelled
                retrying_a_failed_task_creates_another_task
                a_task_of_an_agent_that_is_not_built_is_blocked
                a_task_fails_after_its_last_retry
                an_invalid_payload_fails_without_retries
                an_investigation_looks_at_recent_tasks
                a_large_payload_is_read
                ids_and_payloads_may_contain_any_characters
                p0_overtakes
                work_survives_a_restart
            ]
            approvals [
                an_approved_task_runs
                a_rejected_task_never_runs
                an_unanswered_task_is_cancelled
                nobody_approves_their_own_task_where_two_persons_are_required
                of_concurrent_decisions_one_counts
            ]
            workers [
                a_worker_claims_and_completes_a_task
                one_step_claims_and_completes
                of_replicas_with_one_key_one_has_the_claim
                a_silent_worker_loses_the_task
                a_worker_that_reports_keeps_the_task
                a_blocked_task_continues_after_an_answer
                a_large_result_is_kept
            ]
            events [
                a_task_requested_event_creates_a_task
                repeated_alerts_in_a_window_create_one_task
                a_follower_misses_nothing
                reserved_malformed_and_large_events_are_refused
            ]
            governance [
                a_success_raises_the_trust_level
                a_call_that_policy_denies_is_recorded
                an_approval_link_decides_once
                two_must_approve_where_policy_requires_it
                a_deferred_task_runs_when_the_freeze_is_lifted
            ]
            notices [
                a_failure_is_sent_to_the_webhook
            ]
            redaction [
                no_secret_is_shown_sent_or_logged
            ]
            redis [
                tasks_of_the_legacy_queue_are_finished_there
            ]
            sla [
                sla_marks_are_reported_while_a_task_waits_for_approval
                sla_marks_are_reported_while_a_task_waits_for_a_worker
            ]
            access [
                a_key_works_until_it_is_revoked
                calls_beyond_the_callers_role_are_refused
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
