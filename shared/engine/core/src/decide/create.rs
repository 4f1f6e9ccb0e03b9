//! The decision that creates a task.

use serde_json::json;
use watchbill_domain::{Amount, ChangeKind, Sla, Status, Task, TaskLimits};

use super::not_built::NOT_BUILT;
use super::task::Transition;
use super::{ApprovalRequest, Decided, DecisionContext, PreparedTask, Rejection};

pub(super) fn create(
    draft: &PreparedTask,
    facts: &DecisionContext<'_>,
) -> Result<Decided, Rejection> {
    let new = &draft.new;
    if new.hops > TaskLimits::HOPS {
        return Err(Rejection::TooManyHops { hops: new.hops, most: TaskLimits::HOPS });
    }
    let mut transition = Transition::new(blank(draft, facts), 0, facts);
    match &draft.approval {
        None => {
            transition.assign(None);
            let blocked = transition.task.not_built.then_some(NOT_BUILT);
            transition.log_change(ChangeKind::Created, &new.created_by, blocked);
            transition.plain_event("task.created");
            if blocked.is_some() {
                transition.assigned_event(json!({}));
            }
        }
        Some(asked) => {
            let (approval, reason) = (&asked.approval, &asked.reason);
            transition.log_change(ChangeKind::Created, &new.created_by, Some(reason));
            transition.event("task.created", json!({ "approval_id": approval }));
            transition
                .event("approval.requested", json!({ "approval_id": approval, "reason": reason }));
        }
    }
    Ok(transition.finish())
}

/// The task before its first decision.
fn blank(draft: &PreparedTask, facts: &DecisionContext<'_>) -> Task {
    let (new, rules) = (&draft.new, facts.rules);
    Task {
        id: draft.id.clone(),
        tenant: new.tenant.clone(),
        task_type: new.task_type,
        priority: new.priority,
        source: new.source.clone(),
        status: Status::Pending,
        agent: rules.route(new.task_type, new.has_repository()),
        assignment: 0,
        fence: 0,
        retries: 0,
        max_retries: new.max_retries.unwrap_or(rules.retry.max_retries),
        lost_runs: 0,
        offers: 0,
        excused: 0,
        offered_version: 0,
        misrouted: 0,
        external: false,
        not_built: false,
        lease: None,
        resume_at: None,
        held: None,
        waiting_since: None,
        offer_at: None,
        created_at: facts.now,
        started_at: None,
        finished_at: None,
        trace_id: draft.trace_id.clone(),
        sla: sla(draft, facts),
        parent: new.parent.clone(),
        hops: new.hops,
        metadata: new.metadata.clone(),
        payload: draft.payload.clone(),
        result: None,
        error: None,
        approval: draft.approval.as_ref().map(ApprovalRequest::to_ref),
        reservation: None,
        spent: Amount::NONE,
        run_spent: Amount::NONE,
        grants: Vec::new(),
        overrides: Vec::new(),
        question: None,
        created_by: new.created_by.clone(),
        also_requested_by: draft.also_requested_by.clone(),
        body_hash: draft.body_hash.clone(),
        outcome: None,
        failure_counted: new.is_failure_counted(),
        notes: Vec::new(),
        log: Vec::new(),
    }
}

/// The task's own deadline, else its own target, else its priority's target.
fn sla(draft: &PreparedTask, facts: &DecisionContext<'_>) -> Option<Sla> {
    let (new, rules) = (&draft.new, &facts.rules.sla);
    let own = new.sla_target.as_ref().zip(draft.sla_span);
    let (target, span) = match (own, rules.targets.get(&new.priority)) {
        (Some((text, span)), _) => (text.clone(), span),
        (None, Some(span)) => (format!("{}s", span.as_secs()), *span),
        (None, None) if new.sla_deadline.is_some() => (String::new(), Default::default()),
        (None, None) => return None,
    };
    let deadline = new.sla_deadline.unwrap_or(facts.now.plus(span));
    Some(Sla {
        target,
        deadline,
        alert_threshold: rules.threshold,
        warned: false,
        violated: false,
        lifted: false,
    })
}
