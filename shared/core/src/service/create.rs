use std::time::Duration;

use serde_json::{Map, Value, json};

use super::asking::Asking;
use super::bodies;
use super::core::{Conflict, Core};
use super::leave::{external_call, frozen_by};
use super::{Created, FullTask, Identity, NewTask, ServiceError};
use crate::decide::{Command, Draft, Facts, Rejection, canonical_hash, decide};
use crate::domain::{Body, MOST_SPAN, TaskId, TaskType, derived_uuid, parse_span};
use crate::govern::{Ask, Judgement, Subject};
use crate::ports::{Expect, Topic, Write};
use crate::redact;
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
        // Ours are made of digits; one that was given is shown as it is.
        if matches!(new.identity, Identity::Given(_)) && redact::holds_secret(id.as_str()) {
            return Err(ServiceError::secret("task_id"));
        }
        let body_hash = (new.identity != Identity::Fresh).then(|| request_hash(&new));
        let facts = self.facts();
        let placed = bodies::PAYLOAD.put(&new.tenant, &id, &new.payload)?;
        let asks = self.asked_at_creation(&new).await;
        let salt = if asks.is_empty() { String::new() } else { self.salt() };
        let mut draft = Draft {
            payload: placed.body.clone(),
            ..self.draft(&new, id.clone(), body_hash.clone())?
        };
        if !asks.is_empty() {
            let asked = Asking::before(&id, &asks, &salt);
            draft.approval = Some(asked);
        }
        let decided = decide(None, &Command::Create(Box::new(draft)), &facts).map_err(refused)?;
        let mut writes =
            TaskWrite { decided: &decided, before: None, now: facts.now, rules: facts.rules }
                .writes();
        if !asks.is_empty() {
            let asking = Asking {
                task: &decided.task,
                payload: &new.payload,
                asks: &asks,
                also: None,
                n: 1,
                salt,
            };
            let plan = self.planner().plan(decided.task.agent, new.task_type, &new.payload);
            let approval = asking.approval(plan, facts.now, facts.rules);
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

    /// What a person is asked before the task is assigned: by gates, and by rules on the tool
    /// that its plan would call. A plan that is refused is not asked about: it fails at its run.
    async fn asked_at_creation(&self, new: &NewTask) -> Vec<Ask> {
        let policy = self.policy_for_gates().await;
        let agent = self.rules().route(new.task_type, has_repo(&new.payload));
        let subject = Subject {
            task_type: new.task_type,
            priority: new.priority,
            agent,
            source: &new.source,
            created_by: &new.created_by,
            payload: &new.payload,
            metadata: &new.metadata,
            gated_as: self.planner().gated_as(new.task_type, &new.payload),
        };
        let mut asks = policy.gates(&subject);
        let external = self.rules().is_left_outside(agent, new.task_type);
        let call = match external {
            true => Some(external_call(new.task_type, &new.payload)),
            false => self.planner().call(agent, new.task_type, &new.payload),
        };
        let Some(call) = call else { return asks };
        if frozen_by(&policy, &call, self.clock().now(), |_, _| false).is_some() {
            // It waits for the freeze's end first. Whoever claims it is judged anew, and asks
            // then.
            return Vec::new();
        }
        if !external && let Judgement::Ask(more) = policy.judge(&subject, &call) {
            asks.extend(more);
        }
        asks
    }

    /// The id that the task gets; where it is derived, the same at each call.
    pub fn task_id(&self, new: &NewTask) -> TaskId {
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
            has_repo: has_repo(&new.payload),
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
                    Identity::Given(_) => format!(
                        "task '{id}' exists already with another content; a repeat needs the \
                         same body, another task another task_id"
                    ),
                    _ => format!("task '{id}' exists already with another content"),
                };
                Err(ServiceError::Conflict { message })
            }
            None => Err(conflict.gone()),
        }
    }
}

fn has_repo(payload: &Map<String, Value>) -> bool {
    payload.get("repo").is_some_and(|repo| !repo.is_null())
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
