//! Events that change an agent's score.

use serde::{Deserialize, Serialize};

names!(
    /// An event that changes an agent's score.
    ReputationEvent, "reputation event", [
        TaskSuccess = "task_success",
        TaskFailure = "task_failure",
        PermissionDenied = "permission_denied",
        BudgetExceeded = "budget_exceeded",
        ViolationDetected = "violation_detected",
        HumanEscalation = "human_escalation",
        PrMerged = "pr_merged",
        PrReverted = "pr_reverted",
        TestPassed = "test_passed",
        TestFailed = "test_failed",
        CiSuccess = "ci_success",
        CiFailure = "ci_failure",
    ]
);

/// A reputation event with its points at the time it happened. A rebuild after the configured
/// points were changed gives the same score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreDelta(pub ReputationEvent, pub i16);
