//! Creates tasks from events: `task.requested` creates the task it contains, reactions create
//! theirs.
//!
//! The task id is derived from the event (and the reaction), so an event that is delivered twice
//! creates one task. To add a reaction, edit `reactions.yaml`; no code is needed.

mod envelope;
mod file;
mod names;
mod window;

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::reactions::{Reaction, TaskFromEvent, is_published};
use watchbill_core::service::{Core, Identity, NewTask, ServiceError};
use watchbill_domain::{Caller, Event, EventType, Role, TaskLimits, TenantId};
use watchbill_wire::CreateTask;

use window::{FOLD_WINDOW, WindowResult, Windows};

pub use envelope::{Envelope, Sources, SourcesError, open};
pub use file::{ReactionsError, read_reactions, shipped_reactions};

/// How often an event retries after a conflict on its reaction's window.
const MAX_ATTEMPTS: u32 = 8;

pub struct Intake {
    core: Core,
    reactions: Arc<[Reaction]>,
}

impl Intake {
    pub fn new(core: Core, reactions: impl Into<Arc<[Reaction]>>) -> Self {
        Self { core, reactions: reactions.into() }
    }

    /// Whether events of this type may create tasks.
    pub fn wants(&self, event_type: &EventType) -> bool {
        event_type.as_str() == "task.requested"
            || self.reactions.iter().any(|reaction| reaction.may_match(event_type))
    }

    /// Handles an event. A permanent failure of one reaction does not stop the others; `Retry`
    /// requests redelivery of the whole event.
    pub async fn handle(&self, tenant: &TenantId, event: &Event) -> Result<(), HandlerError> {
        if event.event_type.as_str() == "task.requested" && is_published(event) {
            logged(event, "task.requested", self.requested(tenant, event).await)?;
        }
        for reaction in self.reactions.iter() {
            if let Some(reacted) = reaction.react(event) {
                let made = self.react(tenant, event, reaction, reacted).await;
                logged(event, &reaction.name, made)?;
            }
        }
        Ok(())
    }

    async fn requested(&self, tenant: &TenantId, event: &Event) -> Result<(), ServiceError> {
        let request = CreateTask::from_object(event.payload.clone()).map_err(|error| {
            ServiceError::Invalid { field: "payload", message: error.to_string() }
        })?;
        let by = event.metadata.get("published_by").and_then(|by| by.as_str());
        let caller = Caller {
            name: by.unwrap_or(&event.source_agent).to_owned(),
            role: Role::Agent,
            tenant: tenant.clone(),
            made_by: None,
        };
        let cause = vec!["task.requested".to_owned(), event.event_id.to_string()];
        let trace = Some(event.trace_id.clone());
        let mut new = request.into_new_task(&caller, trace, Identity::Cause(cause));
        new.hops = event.hops.saturating_add(1);
        self.core.tasks().create(new).await.map(|_| ())
    }

    async fn react(
        &self,
        tenant: &TenantId,
        event: &Event,
        reaction: &Reaction,
        reacted: TaskFromEvent,
    ) -> Result<(), ServiceError> {
        if event.hops >= TaskLimits::HOPS {
            let message = format!("a chain of reactions has at most {} hops", TaskLimits::HOPS);
            return Err(ServiceError::Conflict { message });
        }
        let new = self.new_task(tenant, event, reaction, &reacted).await?;
        let window = match reaction.window {
            Some(window) => window,
            None if reacted.folds => FOLD_WINDOW,
            None => return self.core.tasks().create(new).await.map(|_| ()),
        };
        // The window's item changes in the commit that creates the task, so of two concurrent
        // events one gets a conflict.
        let mut last = ServiceError::Busy { after: Duration::from_millis(100) };
        let windows = Windows { core: &self.core, tenant, reaction, event, window };
        for _ in 0..MAX_ATTEMPTS {
            match windows.claim(&reacted, &new).await? {
                WindowResult::Before => return Ok(()),
                WindowResult::Retry => {}
                WindowResult::Now { write, new } => {
                    match self.core.tasks().create_with_writes(*new, vec![write]).await {
                        // Either the window was taken meanwhile, which the next attempt finds,
                        // or the task exists with different content, which is permanent.
                        Err(conflict @ ServiceError::Conflict { .. }) => last = conflict,
                        other => return other.map(|_| ()),
                    }
                }
            }
        }
        Err(last)
    }

    async fn new_task(
        &self,
        tenant: &TenantId,
        event: &Event,
        reaction: &Reaction,
        reacted: &TaskFromEvent,
    ) -> Result<NewTask, ServiceError> {
        let mut metadata = reacted.metadata.clone();
        metadata.insert("reaction".into(), reaction.name.clone().into());
        metadata.insert("event_id".into(), event.event_id.as_str().into());
        metadata.insert("event_type".into(), event.event_type.as_str().into());
        let by = event.metadata.get("published_by").and_then(|by| by.as_str());
        let parent = match &event.task_id {
            Some(id) => self.core.tasks().stored(tenant, id).await?.map(|task| task.value.id),
            None => None,
        };
        Ok(NewTask {
            tenant: tenant.clone(),
            task_type: reacted.task_type,
            priority: reacted.priority,
            source: "system".to_owned(),
            payload: reacted.payload.clone(),
            metadata,
            sla_target: None,
            sla_deadline: None,
            parent,
            trace_id: Some(event.trace_id.clone()),
            max_retries: None,
            created_by: format!("reaction:{}", reaction.name),
            // The publisher of an event may not approve the task it starts.
            also_requested_by: by.map(str::to_owned).into_iter().collect(),
            identity: Identity::Cause(vec![
                "reaction".to_owned(),
                reaction.name.clone(),
                event.event_id.to_string(),
            ]),
            hops: event.hops + 1,
        })
    }
}

/// Logs a permanent failure and drops it; returns a transient one for redelivery.
fn logged(event: &Event, what: &str, result: Result<(), ServiceError>) -> Result<(), HandlerError> {
    match result.map_err(HandlerError::from) {
        Err(HandlerError::Reject { reason }) => {
            tracing::warn!(
                event = %event.event_id, reaction = what, reason,
                "a task can't be created from an event"
            );
            Ok(())
        }
        other => other,
    }
}
