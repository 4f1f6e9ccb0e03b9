//! Putting up approvals.

use serde_json::{Map, Value};
use watchbill_domain::{Approval, ApprovalId, ApprovalStatus, Body, Task, TaskId, Timestamp};
use watchbill_governance::{Ask, asked_hash, shown};
use watchbill_redact as redact;

use super::{Context, ServiceError};
use crate::decide::{Asked, Rules};
use crate::repo;

/// How many ids are looked at for one that is free; each costs a read.
const MAX_TAKEN: usize = 16;

/// Everything that an approval is made of.
pub(super) struct Asking<'a> {
    pub task: &'a Task,
    pub payload: &'a Map<String, Value>,
    pub asks: &'a [Ask],
    /// Reasons beyond the policy's, such as a level that the agent lacks.
    pub also: Option<String>,
    pub n: u32,
    pub salt: String,
}

/// 128 random bits.
pub(super) fn salt(context: &Context) -> String {
    format!("{:032x}", context.entropy().write_id().0)
}

/// The number of the task's next approval, from `n` on: past those whose id is taken, as by
/// an approval that a build before this one left behind.
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
    let reason = format!("{MAX_TAKEN} approval ids of task '{}' are taken", task.id);
    Err(ServiceError::Down { reason })
}

impl Asking<'_> {
    /// The first approval of a task that is yet to be made.
    pub fn before(id: &TaskId, n: u32, asks: &[Ask], salt: &str) -> Asked {
        asked(id, n, asks, None, salt)
    }

    pub fn asked(&self) -> Asked {
        asked(&self.task.id, self.n, self.asks, self.also.as_deref(), &self.salt)
    }

    /// The approval as it is put up. The plan is what the agent would do with exactly this
    /// payload.
    pub fn approval(
        &self,
        mut plan: Map<String, Value>,
        now: Timestamp,
        rules: &Rules,
    ) -> Approval {
        let task = self.task;
        let shown = shown(task, self.payload, &plan, &self.salt);
        redact::object(&mut plan);
        let mut reasons: Vec<String> = self.asks.iter().map(|ask| ask.reason.clone()).collect();
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
            quorum: self.asks.iter().map(|ask| ask.quorum).max().unwrap_or(1).max(1),
            votes: Vec::new(),
            escalated_at: None,
            keep_until: Some(now.plus(rules.decide_within).plus(rules.keep_approvals)),
            trace_id: task.trace_id.clone(),
        }
    }

    /// The title, also where the payload does not stand in the header.
    fn title(&self) -> String {
        let mut whole = self.task.clone();
        whole.payload = Body::In(self.payload.clone());
        whole.title()
    }
}

fn asked(id: &TaskId, n: u32, asks: &[Ask], also: Option<&str>, salt: &str) -> Asked {
    let mut reasons: Vec<&str> = asks.iter().map(|ask| ask.reason.as_str()).collect();
    reasons.extend(also);
    let approval = ApprovalId::of(id, n);
    Asked {
        approval,
        n,
        reason: reasons.join("; "),
        asked: asked_hash(asks),
        salt: salt.to_owned(),
    }
}
