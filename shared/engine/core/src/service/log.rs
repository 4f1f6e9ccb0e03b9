//! The log's lines about tasks, at info: what begins, what ends and what governance says. Ids and
//! names stand in fields; texts that callers gave are in none but `reason`, which is redacted.

use watchbill_domain::{LogEntry, Outcome, Task, What};
use watchbill_governance::Operation;

use crate::decide::{Decided, Leave};

/// What is worth a line of the changes of a task.
pub(super) fn change(decided: &Decided) {
    let task = &decided.task;
    let Some(entry) = task.log.last().filter(|entry| entry.version == decided.version) else {
        return;
    };
    let said = match entry.what {
        What::Created => "task accepted",
        What::Approved => "task approved",
        What::Claimed | What::Reclaimed => "task started",
        What::Resumed => "task resumed",
        What::Suspended => "task suspended",
        What::Retrying => "task failed and is tried again",
        What::Blocked => "task blocked",
        What::Returned => "task returned: its worker was not heard of",
        What::Completed | What::Failed | What::Cancelled | What::Rejected | What::Expired => {
            "task ended"
        }
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
        "{said}"
    );
    if let Some(outcome) = &entry.outcome {
        earned(task, outcome);
    }
}

/// Milliseconds since the run began that ends with this entry.
fn duration(task: &Task, entry: &LogEntry) -> Option<u64> {
    use What::{Blocked, Cancelled, Claimed, Completed, Failed, Reclaimed, Resumed, Retrying};
    use What::{Held, Returned, Suspended};
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

fn earned(task: &Task, outcome: &Outcome) {
    let whose = outcome.worker.as_deref().unwrap_or(task.agent.long_name());
    for earned in &outcome.reputation {
        tracing::info!(
            task_id = %task.id,
            tenant = %task.tenant,
            agent = whose,
            event = earned.0.as_str(),
            delta = earned.1,
            "reputation event recorded"
        );
    }
}

/// What governance says of a run or of a call within it. `operation`: what the call amounts to,
/// where a call is known.
pub(super) fn leave(task: &Task, operation: Option<Operation>, leave: &Leave) {
    let operation = operation.map(Operation::as_str);
    let (agent, (id, tenant)) = (task.agent.long_name(), (&task.id, &task.tenant));
    match leave {
        Leave::Granted { note } => tracing::info!(
            task_id = %id, %tenant, agent, operation, note,
            "budget and permission checks passed"
        ),
        Leave::Ask(asked) => tracing::info!(
            task_id = %id, %tenant, agent, operation, approval_id = %asked.approval,
            reason = asked.reason, "a person is asked first"
        ),
        Leave::Hold { until, why } => tracing::info!(
            task_id = %id, %tenant, agent, operation, %until, reason = why, "task held up"
        ),
        Leave::Refused { error, .. } => tracing::warn!(
            task_id = %id, %tenant, agent, operation, reason = error, "permission check failed"
        ),
    }
}
