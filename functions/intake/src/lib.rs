//! Events that start work: `task.requested` makes the task it holds, reactions make theirs.
//!
//! The id of what is made is derived from the event (and the reaction), so an event that
//! comes twice makes one task. How to add a reaction: in `reactions.yaml`, no code.

mod envelope;
mod file;
mod names;
mod window;

use std::sync::Arc;
use std::time::Duration;

use watchbill_core::handler::HandlerError;
use watchbill_core::reactions::{Reacted, Reaction, is_published};
use watchbill_core::service::{Core, Identity, NewTask, ServiceError};
use watchbill_domain::{Caller, Event, EventType, Role, TaskLimits, TenantId};
use watchbill_wire::CreateTask;

use window::{FOLD_WINDOW, Taken, Windows};

pub use envelope::{Envelope, Sources, SourcesError, open};
pub use file::{ReactionsError, read_reactions, shipped_reactions};

/// How often an event that meets another in its window looks again.
const TRIES: u32 = 8;

pub struct Intake {
    core: Core,
    reactions: Arc<[Reaction]>,
}

impl Intake {
    pub fn new(core: Core, reactions: impl Into<Arc<[Reaction]>>) -> Self {
        Self { core, reactions: reactions.into() }
    }

    /// Whether events of this type may ask for anything.
    pub fn wants(&self, event_type: &EventType) -> bool {
        event_type.as_str() == "task.requested"
            || self.reactions.iter().any(|reaction| reaction.may_match(event_type))
    }

    /// Does what an event asks for. A fault in one reaction does not keep the others from
    /// running; `Retry` asks for the whole event again.
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
        let asked = CreateTask::from_object(event.payload.clone()).map_err(|error| {
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
        let mut new = asked.into_new_task(&caller, trace, Identity::Cause(cause));
        new.hops = event.hops.saturating_add(1);
        self.core.tasks().create(new).await.map(|_| ())
    }

    async fn react(
        &self,
        tenant: &TenantId,
        event: &Event,
        reaction: &Reaction,
        reacted: Reacted,
    ) -> Result<(), ServiceError> {
        if event.hops >= TaskLimits::HOPS {
            let message = format!("{} hops through reactions are the most", TaskLimits::HOPS);
            return Err(ServiceError::Conflict { message });
        }
        let new = self.new_task(tenant, event, reaction, &reacted).await?;
        let window = match reaction.window {
            Some(window) => window,
            None if reacted.folds => FOLD_WINDOW,
            None => return self.core.tasks().create(new).await.map(|_| ()),
        };
        // The window's item changes in the commit that makes the task: of two events at the
        // same time one finds it taken.
        let mut last = ServiceError::Busy { after: Duration::from_millis(100) };
        let windows = Windows { core: &self.core, tenant, reaction, event, window };
        for _ in 0..TRIES {
            match windows.take(&reacted, &new).await? {
                Taken::Before => return Ok(()),
                Taken::Retry => {}
                Taken::Now { write, new } => {
                    match self.core.tasks().create_with_writes(*new, vec![write]).await {
                        // The window was taken meanwhile, which the next look finds, or the task
                        // stands with another content, which lasts.
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
        reacted: &Reacted,
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
            // Whoever publishes an event does not approve what it starts.
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

/// What can never succeed is logged and left; what may is asked for again.
fn logged(event: &Event, what: &str, result: Result<(), ServiceError>) -> Result<(), HandlerError> {
    match result.map_err(HandlerError::from) {
        Err(HandlerError::Reject { reason }) => {
            tracing::warn!(event = %event.event_id, "{what} on event {}: {reason}", event.event_id);
            Ok(())
        }
        other => other,
    }
}
