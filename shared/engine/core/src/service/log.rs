//! Log lines about tasks, at info level: what begins, what ends and what governance decides.
//! Ids and names are in fields; texts from callers are only in `reason`, which is redacted.

use watchbill_domain::{ChangeKind, LogEntry, Outcome, Task};
use watchbill_governance::Operation;

use crate::decide::{Authorization, Decided};

/// Logs those changes of a task that are worth a line.
pub(super) fn change(decided: &Decided) {
    let task = &decided.task;
    let Some(entry) = task.log.last().filter(|entry| entry.version == decided.version) else {
        return;
    };
    let text = match entry.what {
        ChangeKind::Created => "task accepted",
        ChangeKind::Approved => "task approved",
        ChangeKind::Claimed | ChangeKind::Reclaimed => "task started",
        ChangeKind::Resumed => "task resumed",
        ChangeKind::Suspended => "task suspended",
        ChangeKind::Retrying => "task failed and will be retried",
        ChangeKind::Blocked => "task blocked",
        ChangeKind::Returned => "task returned: its worker's lease expired",
        ChangeKind::Completed
        | ChangeKind::Failed
        | ChangeKind::Cancelled
        | ChangeKind::Rejected
        | ChangeKind::Expired => "task ended",
        _ => return,
    };
    tracing::info!(
        task_id = %task.id,
        tenant = %task.tenant,
        task_type = %task.task_type,
        agent = task.agent.long_name(),
        priority = %task.priority,
        outcome = %entry.status,
        by = entry.by,
        run = (task.fence > 0).then_some(task.fence),
        duration_ms = duration(task, entry),
        reason = entry.note,
        trace_id = task.trace_id,
        "{text}"
    );
    if let Some(outcome) = &entry.outcome {
        score_delta(task, outcome);
    }
}

/// Milliseconds since the start of the run that ends with this entry.
fn duration(task: &Task, entry: &LogEntry) -> Option<u64> {
    use ChangeKind::{
        Blocked, Cancelled, Claimed, Completed, Failed, Reclaimed, Resumed, Retrying,
    };
    use ChangeKind::{Held, Returned, Suspended};
    let ends = matches!(
        entry.what,
        Completed | Failed | Retrying | Blocked | Cancelled | Suspended | Returned
    );
    let before = task.log.iter().rev().skip(1).filter(|_| ends);
    let begun = before
        .take_while(|entry| !matches!(entry.what, Suspended | Retrying | Blocked | Returned | Held))
        .find(|entry| matches!(entry.what, Claimed | Reclaimed | Resumed))?;
    u64::try_from(entry.at.millis() - begun.at.millis()).ok()
}

fn score_delta(task: &Task, outcome: &Outcome) {
    let whose = outcome.worker.as_deref().unwrap_or(task.agent.long_name());
    for score_delta in &outcome.reputation {
        tracing::info!(
            task_id = %task.id,
            tenant = %task.tenant,
            agent = whose,
            event = score_delta.0.as_str(),
            delta = score_delta.1,
            "reputation event recorded"
        );
    }
}

/// Logs governance's decision on a run or on a call within it. `operation`: the call's
/// operation, if a call is known.
pub(super) fn authorization(task: &Task, operation: Option<Operation>, decision: &Authorization) {
    let operation = operation.map(Operation::as_str);
    let (agent, (id, tenant)) = (task.agent.long_name(), (&task.id, &task.tenant));
    match decision {
        Authorization::Granted { note } => tracing::info!(
            task_id = %id, %tenant, agent, operation, note,
            "permission checks passed"
        ),
        Authorization::ApprovalRequired(asked) => tracing::info!(
            task_id = %id, %tenant, agent, operation, approval_id = %asked.approval,
            reason = asked.reason, "approval required"
        ),
        Authorization::Deferred { until, why } => tracing::info!(
            task_id = %id, %tenant, agent, operation, %until, reason = why, "task deferred"
        ),
        Authorization::Denied { error, .. } => tracing::warn!(
            task_id = %id, %tenant, agent, operation, reason = error, "permission check failed"
        ),
    }
}
