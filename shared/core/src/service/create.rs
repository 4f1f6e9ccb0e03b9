use std::time::Duration;

use serde_json::json;

use super::bodies;
use super::core::{Conflict, Core};
use super::{Created, FullTask, Identity, NewTask, ServiceError};
use crate::decide::{
    Command, Draft, Facts, Gate, GateRules, Rejection, asked_gates, canonical_hash, decide,
    plan_hash,
};
use crate::domain::{
    Approval, ApprovalId, ApprovalStatus, Body, MOST_SPAN, Task, TaskId, TaskType, derived_uuid,
    parse_span,
};
use crate::ports::{Expect, Topic, Write};
use crate::repo::{self, Child, StoredTask, TaskWrite, decode, encode};

impl Core {
    /// Accepts a task: durable when this returns.
    pub async fn create_task(&self, new: NewTask) -> Result<Created, ServiceError> {
        self.create_task_with(new, Vec::new()).await
    }

    /// The same, with further writes that belong into its commit.
    pub async fn create_task_with(
        &self,
        new: NewTask,
        beside: Vec<Write>,
    ) -> Result<Created, ServiceError> {
        let id = self.task_id(&new);
        let body_hash = (new.identity != Identity::Fresh).then(|| request_hash(&new));
        let facts = self.facts();
        let placed = bodies::PAYLOAD.put(&new.tenant, &id, &new.payload)?;
        let reasons = self.gate_reasons(&new, &facts.rules.gates);
        let approval = (!reasons.is_empty()).then(|| ApprovalId::of(&id, 1));
        let draft = Draft {
            payload: placed.body.clone(),
            approval: approval.clone().map(|id| (id, reasons.join("; "))),
            ..self.draft(&new, id.clone(), body_hash.clone())?
        };
        let decided = decide(None, &Command::Create(Box::new(draft)), &facts).map_err(refused)?;
        let mut writes =
            TaskWrite { decided: &decided, before: None, now: facts.now, rules: facts.rules }
                .writes();
        if let Some(approval) = &approval {
            let approval = self.ask(&decided.task, &new, approval.clone(), reasons, &facts);
            writes.push(Write::Put { item: encode(&approval, None), expect: Expect::Absent });
        }
        if let Some(parent) = &new.parent {
            writes.push(self.link(&new, parent, &id, &facts).await?);
        }
        // In the same commit, or under a name that depends on the content: of two requests
        // with one key the header must never point at the other's payload.
        let expires = facts.rules.keep_beside(None, facts.now);
        writes.extend(self.put_beside(&new.tenant, &id, &placed, expires).await?);
        writes.extend(beside);
        match self.commit(writes).await? {
            None => {
                let task = decided.task;
                if task.external {
                    self.wake().wake(&Topic::External(task.tenant.clone()));
                }
                let task = FullTask {
                    task,
                    version: decided.version,
                    payload: new.payload,
                    result: None,
                    children: Vec::new(),
                };
                Ok(Created { task, repeated: false })
            }
            Some(conflict) => self.repeated(&new, &id, body_hash, conflict).await,
        }
    }

    /// The approval as it is shown. The plan is what the agent would do with exactly this
    /// payload.
    fn ask(
        &self,
        task: &Task,
        new: &NewTask,
        id: ApprovalId,
        reasons: Vec<String>,
        facts: &Facts<'_>,
    ) -> Approval {
        let plan = self.planner().plan(task.agent, new.task_type, &new.payload);
        Approval {
            id,
            tenant: task.tenant.clone(),
            task_id: task.id.clone(),
            status: ApprovalStatus::Pending,
            summary: format!(
                "{} ({}, asked by {})",
                title(task, new),
                task.priority,
                task.created_by
            ),
            plan_hash: plan_hash(task.task_type, &new.payload, &plan),
            plan,
            reasons,
            requested_by: task.created_by.clone(),
            requested_at: facts.now,
            decide_by: facts.now.plus(facts.rules.decide_within),
            use_by: None,
            decision: None,
            keep_until: Some(
                facts.now.plus(facts.rules.decide_within).plus(facts.rules.keep_approvals),
            ),
            trace_id: task.trace_id.clone(),
        }
    }

    /// Why a person must be asked: for what the type says, and for what the text asks for.
    fn gate_reasons(&self, new: &NewTask, rules: &GateRules) -> Vec<String> {
        let asked =
            |task_type| asked_gates(task_type, new.priority, &new.payload, &new.metadata, rules);
        let mut gates = asked(new.task_type);
        let meant = self.planner().gated_as(new.task_type, &new.payload);
        if meant != new.task_type {
            let more = asked(meant);
            gates.extend(more.into_iter().filter(|gate| !gates.contains(gate)).collect::<Vec<_>>());
        }
        gates.iter().map(Gate::reason).collect()
    }

    fn task_id(&self, new: &NewTask) -> TaskId {
        let tenant = new.tenant.as_str();
        match &new.identity {
            Identity::Fresh => self.entropy().uuid7(self.clock().now()).into(),
            Identity::Given(id) => id.clone(),
            Identity::IdempotencyKey(key) => {
                derived_uuid(&["idempotency", tenant, &new.created_by, key]).into()
            }
            Identity::Cause(parts) => {
                let mut all = vec!["cause", tenant];
                all.extend(parts.iter().map(String::as_str));
                derived_uuid(&all).into()
            }
        }
    }

    fn draft(
        &self,
        new: &NewTask,
        id: TaskId,
        body_hash: Option<String>,
    ) -> Result<Draft, ServiceError> {
        let invalid = |field, message: String| ServiceError::Invalid { field, message };
        let sla_target = match &new.sla_target {
            None => None,
            Some(text) => {
                let span = parse_span(text).map_err(|e| invalid("sla_target", e.to_string()))?;
                if !(Duration::from_secs(1)..=MOST_SPAN).contains(&span) {
                    let message = format!("'{text}' is not between one second and 99999 days");
                    return Err(invalid("sla_target", message));
                }
                Some((text.clone(), span))
            }
        };
        if new.task_type == TaskType::OpsCycle && !new.created_by.starts_with("schedule:") {
            let message = "ops_cycle tasks are made by the schedule alone".to_owned();
            return Err(invalid("type", message));
        }
        if new.max_retries.is_some_and(|n| n > 100) {
            return Err(invalid("max_retries", "100 retries are the most".to_owned()));
        }
        let trace_id = match &new.trace_id {
            Some(trace) => trace.clone(),
            None => self.entropy().uuid7(self.clock().now()).simple().to_string(),
        };
        Ok(Draft {
            id,
            tenant: new.tenant.clone(),
            task_type: new.task_type,
            priority: new.priority,
            source: new.source.clone(),
            payload: Body::default(),
            has_repo: new.payload.get("repo").is_some_and(|repo| !repo.is_null()),
            metadata: new.metadata.clone(),
            trace_id,
            sla_target,
            sla_deadline: new.sla_deadline,
            parent: new.parent.clone(),
            hops: new.hops,
            created_by: new.created_by.clone(),
            body_hash,
            max_retries: new.max_retries,
            approval: None,
        })
    }

    async fn link(
        &self,
        new: &NewTask,
        parent: &TaskId,
        child: &TaskId,
        facts: &Facts<'_>,
    ) -> Result<Write, ServiceError> {
        if self.stored_task(&new.tenant, parent).await?.is_none() {
            return Err(ServiceError::Invalid {
                field: "parent_task_id",
                message: format!("parent task '{parent}' not found"),
            });
        }
        let child = Child {
            tenant: new.tenant.clone(),
            parent: parent.clone(),
            child: child.clone(),
            at: facts.now,
            expires: Some(facts.rules.keep_beside(None, facts.now)),
        };
        Ok(Write::Put { item: encode(&child, None), expect: Expect::Absent })
    }

    /// Someone was first: the same request gets the same task, another one a conflict.
    async fn repeated(
        &self,
        new: &NewTask,
        id: &TaskId,
        body_hash: Option<String>,
        conflict: Conflict,
    ) -> Result<Created, ServiceError> {
        let there: Option<StoredTask> = match &conflict.item {
            Some(item) if conflict.key == repo::task_key(&new.tenant, id) => Some(decode(item)?),
            _ => self.stored_task(&new.tenant, id).await?,
        };
        match there {
            Some(there) if there.value.body_hash == body_hash => {
                let task = self.task(&new.tenant, id).await?;
                Ok(Created { task, repeated: true })
            }
            Some(_) => {
                let message = match &new.identity {
                    Identity::IdempotencyKey(key) => format!(
                        "Idempotency-Key '{key}' was used for another request; use a new key"
                    ),
                    _ => format!("task '{id}' exists already with another content"),
                };
                Err(ServiceError::Conflict { message })
            }
            None => Err(conflict.gone()),
        }
    }
}

fn refused(rejection: Rejection) -> ServiceError {
    ServiceError::Conflict { message: rejection.to_string() }
}

/// What makes two requests the same.
fn request_hash(new: &NewTask) -> String {
    canonical_hash(&json!([
        new.task_type,
        new.priority,
        new.source,
        new.payload,
        new.metadata,
        new.sla_target,
        new.sla_deadline,
        new.parent,
    ]))
}

/// The title, also where the payload does not stand in the header.
fn title(task: &Task, new: &NewTask) -> String {
    let mut whole = task.clone();
    whole.payload = Body::In(new.payload.clone());
    whole.title()
}
