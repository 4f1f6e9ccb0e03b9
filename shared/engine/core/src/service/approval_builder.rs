//! Builds approvals.

use serde_json::{Map, Value};
use watchbill_domain::{Approval, ApprovalId, ApprovalStatus, Body, Task, TaskId, Timestamp};
use watchbill_governance::{ApprovalRequirement, approval_document, requirements_hash};
use watchbill_redact as redact;

use super::{Context, ServiceError};
use crate::decide::{ApprovalRequest, EngineConfig};
use crate::repo;

/// How many ids are tried to find a free one; each costs a read.
const MAX_TAKEN: usize = 16;

/// The inputs of an approval.
pub(super) struct ApprovalBuilder<'a> {
    pub task: &'a Task,
    pub payload: &'a Map<String, Value>,
    pub requirements: &'a [ApprovalRequirement],
    /// Reasons beyond the policy's, such as a level that the agent does not have.
    pub also: Option<String>,
    pub n: u32,
    pub salt: String,
}

/// 128 random bits.
pub(super) fn salt(context: &Context) -> String {
    format!("{:032x}", context.entropy().write_id().0)
}

/// The number of the task's next approval, from `n` on: ids that are taken, such as by an
/// approval of an earlier build, are skipped.
pub(super) async fn free_approval(
    context: &Context,
    task: &Task,
    n: u32,
) -> Result<u32, ServiceError> {
    for n in (n..).take(MAX_TAKEN) {
        let key = repo::approval_key(&task.tenant, &ApprovalId::of(&task.id, n));
        if context.store().get(&key).await?.is_none() {
            return Ok(n);
        }
    }
    let id = &task.id;
    let reason = format!("task '{id}' has no free approval id: {MAX_TAKEN} in a row are taken");
    Err(ServiceError::Down { reason })
}

impl ApprovalBuilder<'_> {
    /// The first approval of a task that does not exist yet.
    pub fn before(
        id: &TaskId,
        n: u32,
        requirements: &[ApprovalRequirement],
        salt: &str,
    ) -> ApprovalRequest {
        asked(id, n, requirements, None, salt)
    }

    pub fn asked(&self) -> ApprovalRequest {
        asked(&self.task.id, self.n, self.requirements, self.also.as_deref(), &self.salt)
    }

    /// The approval to be created. The plan is what the agent would do with exactly this payload.
    pub fn approval(
        &self,
        mut plan: Map<String, Value>,
        now: Timestamp,
        rules: &EngineConfig,
    ) -> Approval {
        let task = self.task;
        let shown = approval_document(task, self.payload, &plan, &self.salt);
        redact::object(&mut plan);
        let mut reasons: Vec<String> =
            self.requirements.iter().map(|ask| ask.reason.clone()).collect();
        reasons.extend(self.also.clone());
        Approval {
            id: ApprovalId::of(&task.id, self.n),
            tenant: task.tenant.clone(),
            task_id: task.id.clone(),
            status: ApprovalStatus::Pending,
            summary: redact::shortened(
                &format!("{} ({}, asked by {})", self.title(), task.priority, task.created_by),
                400,
            ),
            shown: shown.document,
            plan_hash: shown.hash,
            plan,
            reasons,
            requested_by: task.created_by.clone(),
            also_requested_by: task.also_requested_by.clone(),
            requested_at: now,
            decide_by: now.plus(rules.decide_within),
            use_by: None,
            decision: None,
            salt: self.salt.clone(),
            quorum: self.requirements.iter().map(|ask| ask.quorum).max().unwrap_or(1).max(1),
            votes: Vec::new(),
            escalated_at: None,
            keep_until: Some(now.plus(rules.decide_within).plus(rules.keep_approvals)),
            trace_id: task.trace_id.clone(),
        }
    }

    /// The title, even where the payload is not in the header.
    fn title(&self) -> String {
        let mut whole = self.task.clone();
        whole.payload = Body::In(self.payload.clone());
        whole.title()
    }
}

fn asked(
    id: &TaskId,
    n: u32,
    requirements: &[ApprovalRequirement],
    also: Option<&str>,
    salt: &str,
) -> ApprovalRequest {
    let mut reasons: Vec<&str> = requirements.iter().map(|ask| ask.reason.as_str()).collect();
    reasons.extend(also);
    let approval = ApprovalId::of(id, n);
    ApprovalRequest {
        approval,
        n,
        reason: reasons.join("; "),
        asked: requirements_hash(requirements),
        salt: salt.to_owned(),
    }
}
