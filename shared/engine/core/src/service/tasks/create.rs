//! Creates tasks.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use watchbill_domain::{
    Agent, ApprovalId, Body, MAX_SPAN, Task, TaskId, TaskType, TenantId, Timestamp, add_requester,
    canonical_hash, derived_uuid, folded_name, parse_span,
};
use watchbill_governance::{ApprovalRequirement, Planned, PolicyDecision, PolicyInput};
use watchbill_redact as redact;

use super::{StoredBody, Tasks, bodies};
use crate::decide::{Command, Decided, PreparedTask, Rejection, decide};
use crate::ports::{Precondition, Topic, Write};
use crate::repo::{self, Child, MAX_CHILDREN, StoredTask, TaskWrite, decode, encode};
use crate::service::approval_builder::{ApprovalBuilder, free_approval, salt};
use crate::service::authorizer::{external_call, frozen_by};
use crate::service::{Conflict, Created, FullTask, Identity, NewTask, ServiceError, log};

/// The fixed inputs of a task to be created.
struct Creation {
    new: Arc<NewTask>,
    id: TaskId,
    body_hash: Option<String>,
    requirements: Vec<ApprovalRequirement>,
    planned: Planned,
    placed: StoredBody,
    extra_writes: Vec<Write>,
}

impl Tasks {
    /// Creates a task: durable when this returns.
    pub async fn create(&self, new: NewTask) -> Result<Created, ServiceError> {
        self.create_with_writes(new, Vec::new()).await
    }

    /// The same, with further writes of its commit. A conflict on one of them is not retried
    /// here: the caller rebuilds them and calls again.
    pub async fn create_with_writes(
        &self,
        new: NewTask,
        extra_writes: Vec<Write>,
    ) -> Result<Created, ServiceError> {
        let id = self.id_of(&new);
        // Our own ids are UUIDs; a given id is shown as it is.
        if matches!(new.identity, Identity::Given(_)) && redact::holds_secret(id.as_str()) {
            return Err(ServiceError::secret("task_id"));
        }
        let agent = self.context.rules().route(new.task_type, new.has_repository());
        let planned = self.authorizer.planner().plan(agent, new.task_type, &new.payload);
        let creation = Creation {
            body_hash: (new.identity != Identity::Fresh).then(|| request_hash(&new)),
            requirements: self.asked_at_creation(&new, agent, &planned).await,
            planned,
            placed: bodies::PAYLOAD.put(&new.tenant, &id, &new.payload)?,
            extra_writes,
            new: Arc::new(new),
            id,
        };
        let mut n = 1;
        loop {
            let (decided, writes) = self.creation(&creation, n).await?;
            let Err(conflict) = self.context.transact(writes).await? else {
                return Ok(self.created(Arc::unwrap_or_clone(creation.new), decided));
            };
            let Creation { new, id, body_hash, .. } = &creation;
            let has_most = |parent: &TaskId| {
                let of = (&new.tenant, parent);
                repo::has_most_children(of, &conflict.key, conflict.item.as_deref())
            };
            if let Some(parent) = new.parent.as_ref().filter(|parent| has_most(parent))
                && self.stored(&new.tenant, id).await?.is_none()
            {
                return Err(too_many_children(parent));
            }
            let taken = repo::approval_key(&new.tenant, &ApprovalId::of(id, n));
            if conflict.key == taken && self.stored(&new.tenant, id).await?.is_none() {
                // An approval of another task, from a build whose ids could collide.
                n = free_approval(&self.context, &decided.task, n + 1).await?;
                continue;
            }
            return self.repeated(new, id, body_hash.clone(), conflict).await;
        }
    }

    /// The task and its writes. `n`: the number of its approval.
    async fn creation(
        &self,
        creation: &Creation,
        n: u32,
    ) -> Result<(Decided, Vec<Write>), ServiceError> {
        let Creation { new, id, requirements, placed, .. } = creation;
        let facts = self.context.facts();
        let salt = if requirements.is_empty() { String::new() } else { salt(&self.context) };
        let parent = match &new.parent {
            Some(parent) => Some(self.parent(&new.tenant, parent).await?),
            None => None,
        };
        let mut draft = self.draft(new.clone(), id.clone(), placed.body.clone())?;
        draft.also_requested_by = also_requested_by(new, parent.as_ref());
        draft.body_hash.clone_from(&creation.body_hash);
        if !requirements.is_empty() {
            draft.approval = Some(ApprovalBuilder::before(id, n, requirements, &salt));
        }
        let decided = decide(None, &Command::Create(Box::new(draft)), &facts).map_err(refused)?;
        let mut writes =
            TaskWrite { decided: &decided, before: None, now: facts.now, rules: facts.rules }
                .writes();
        if !requirements.is_empty() {
            let builder = ApprovalBuilder {
                task: &decided.task,
                payload: &new.payload,
                requirements,
                also: None,
                n,
                salt,
            };
            let plan = creation.planned.document.clone();
            let approval = builder.approval(plan, facts.now, facts.rules);
            writes.push(Write::Put { item: encode(&approval, None), expect: Precondition::Absent });
        }
        if let Some(parent) = &new.parent {
            let expires = Some(facts.rules.keep_beside(None, facts.now));
            writes.push(link(new, parent, id, (facts.now, expires)));
            writes.push(repo::child_counted(&new.tenant, parent, expires));
        }
        // In the same commit, or under a name that depends on the content: of two requests with
        // one key the header must never reference the other's payload.
        let expires = facts.rules.keep_beside(None, facts.now);
        writes.extend(self.write_body(&new.tenant, id, placed, expires).await?);
        writes.extend_from_slice(&creation.extra_writes);
        Ok((decided, writes))
    }

    fn created(&self, new: NewTask, decided: Decided) -> Created {
        log::change(&decided);
        let task = decided.task;
        if task.waits_outside() {
            self.context.wake().wake(&Topic::External(task.tenant.clone()));
        }
        let task = FullTask {
            task,
            version: decided.version,
            payload: new.payload,
            result: None,
            children: Vec::new(),
        };
        Created { task, repeated: false }
    }

    /// The approvals required before the task is assigned: by gates, and by rules on the tool that
    /// its plan would call. A rule that denies the call adds none: such a task fails at its run.
    async fn asked_at_creation(
        &self,
        new: &NewTask,
        agent: Agent,
        planned: &Planned,
    ) -> Vec<ApprovalRequirement> {
        let policy = self.authorizer.governance().policy_for_gates().await;
        let external = self.context.rules().is_left_outside(agent, new.task_type);
        let call = match external {
            true => None,
            false => planned.call(),
        };
        let subject = PolicyInput {
            task_type: new.task_type,
            priority: new.priority,
            agent,
            source: &new.source,
            created_by: &new.created_by,
            payload: &new.payload,
            metadata: &new.metadata,
            gate_type: planned.gate_type,
            mutates: call.is_none_or(|call| call.mutating),
        };
        let mut requirements = policy.gates(&subject);
        let frozen_as = match external {
            true => Some(external_call(new.task_type, &new.payload)),
            false => call.cloned(),
        };
        if let Some(call) = &frozen_as
            && frozen_by(&policy, call, &new.metadata, self.context.clock().now(), |_, _| false)
                .is_some()
        {
            // It waits for the freeze's end first. Its claim is authorized again and requires
            // the approval then.
            return Vec::new();
        }
        if let Some(call) = call
            && let PolicyDecision::ApprovalRequired(more) = policy.decide(&subject, call)
        {
            requirements.extend(more);
        }
        requirements
    }

    /// The id that the task gets; a derived one is the same at each call.
    pub fn id_of(&self, new: &NewTask) -> TaskId {
        let tenant = new.tenant.as_str();
        match &new.identity {
            Identity::Fresh => self.context.entropy().uuid7(self.context.clock().now()).into(),
            Identity::Given(id) => id.clone(),
            Identity::IdempotencyKey(key) => {
                derived_uuid(&["idempotency", tenant, &new.created_by, key]).into()
            }
            Identity::Retry { of, .. } => {
                derived_uuid(&["cause", tenant, "retry", of.as_str()]).into()
            }
            Identity::Cause(parts) => {
                let mut all = vec!["cause", tenant];
                all.extend(parts.iter().map(String::as_str));
                derived_uuid(&all).into()
            }
        }
    }

    /// The values derived from the request alone.
    fn draft(
        &self,
        new: Arc<NewTask>,
        id: TaskId,
        payload: Body,
    ) -> Result<PreparedTask, ServiceError> {
        let invalid = |field, message: String| ServiceError::Invalid { field, message };
        let sla_span = match &new.sla_target {
            None => None,
            Some(text) => {
                let span = parse_span(text).map_err(|e| invalid("sla_target", e.to_string()))?;
                if !(Duration::from_secs(1)..=MAX_SPAN).contains(&span) {
                    let message = format!("'{text}' is not between one second and 99999 days");
                    return Err(invalid("sla_target", message));
                }
                Some(span)
            }
        };
        if new.task_type == TaskType::OpsCycle && !new.created_by.starts_with("schedule:") {
            let message = "only the schedule creates ops_cycle tasks".to_owned();
            return Err(invalid("type", message));
        }
        if new.max_retries.is_some_and(|n| n > 100) {
            return Err(invalid("max_retries", "the maximum is 100 retries".to_owned()));
        }
        let trace_id = match &new.trace_id {
            Some(trace) => trace.clone(),
            None => self.context.entropy().uuid7(self.context.clock().now()).simple().to_string(),
        };
        Ok(PreparedTask {
            new,
            id,
            trace_id,
            payload,
            sla_span,
            also_requested_by: Vec::new(),
            body_hash: None,
            approval: None,
        })
    }

    async fn parent(&self, tenant: &TenantId, id: &TaskId) -> Result<Task, ServiceError> {
        match self.stored(tenant, id).await? {
            Some(parent) => Ok(parent.value),
            None => Err(ServiceError::Invalid {
                field: "parent_task_id",
                message: format!("parent task '{id}' not found"),
            }),
        }
    }

    /// A task with this id exists: the same request gets that task, another request a conflict.
    async fn repeated(
        &self,
        new: &NewTask,
        id: &TaskId,
        body_hash: Option<String>,
        conflict: Conflict,
    ) -> Result<Created, ServiceError> {
        let existing: Option<StoredTask> = match &conflict.item {
            Some(item) if conflict.key == repo::task_key(&new.tenant, id) => Some(decode(item)?),
            _ => self.stored(&new.tenant, id).await?,
        };
        match existing {
            Some(existing) if existing.value.body_hash == body_hash => {
                let task = self.get(&new.tenant, id).await?;
                Ok(Created { task, repeated: true })
            }
            Some(_) => {
                let message = match &new.identity {
                    Identity::IdempotencyKey(key) => format!(
                        "Idempotency-Key '{key}' was used for another request; use a new key"
                    ),
                    Identity::Given(_) => format!(
                        "task '{id}' already exists with other content; repeat the same body, or \
                         use another task_id"
                    ),
                    _ => format!("task '{id}' already exists with other content"),
                };
                Err(ServiceError::Conflict { message })
            }
            None => Err(conflict.into_error()),
        }
    }
}

fn link(
    new: &NewTask,
    parent: &TaskId,
    child: &TaskId,
    (at, expires): (Timestamp, Option<Timestamp>),
) -> Write {
    let child = Child {
        tenant: new.tenant.clone(),
        parent: parent.clone(),
        child: child.clone(),
        at,
        expires,
    };
    Write::Put { item: encode(&child, None), expect: Precondition::Absent }
}

fn too_many_children(parent: &TaskId) -> ServiceError {
    let message = format!(
        "task '{parent}' has {MAX_CHILDREN} children, which is the maximum: leave parent_task_id \
         out, or make it a child of one of them"
    );
    ServiceError::Conflict { message }
}

/// A task's requesters besides its creator: nobody can bypass the rule against approving one's
/// own tasks by letting others create a part of it or its retry.
fn also_requested_by(new: &NewTask, parent: Option<&Task>) -> Vec<String> {
    let creator = folded_name(&new.created_by);
    let of_parent = parent
        .into_iter()
        .flat_map(|parent| std::iter::once(&parent.created_by).chain(&parent.also_requested_by));
    let mut all = Vec::new();
    for name in of_parent.chain(&new.also_requested_by) {
        if folded_name(name) != creator {
            add_requester(&mut all, name);
        }
    }
    all
}

fn refused(rejection: Rejection) -> ServiceError {
    ServiceError::Conflict { message: rejection.to_string() }
}

/// Two requests with this hash are the same.
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
