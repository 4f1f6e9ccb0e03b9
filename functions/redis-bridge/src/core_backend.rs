//! The backend over the core, in the same process.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use watchbill_core::service::{
    Core, EventFilter, Identity, LedgerPlace, NewEvent, PageSize, ServiceError, TaskFilter,
    TimelineKind,
};
use watchbill_domain::{
    Agent, ApprovalId, Caller, EventId, Role, Status, TaskId, TaskType, TenantId,
};
use watchbill_wire::{ApprovalView, BudgetView, EventView, PatchStatus, TaskView};

use crate::backend::{Backend, BackendError, EventsAfter, LegacyEventRequest, LegacyTaskRequest};

/// The name under which the bridge acts.
const NAME: &str = "redis";
/// Items per page of a list.
const PAGE_SIZE: usize = 200;
/// How many of the newest events are searched for one of our own.
const NEWEST: usize = 20;

/// A [`Backend`] over the core.
pub struct CoreBackend {
    core: Core,
    caller: Caller,
    built: Vec<Agent>,
    /// The current position in the ledger and the event it follows. Locating an event takes much
    /// longer than continuing from a known position.
    place: Mutex<Option<(Option<EventId>, LedgerPlace)>>,
}

impl CoreBackend {
    /// `built`: the agents that are implemented.
    pub fn new(core: Core, tenant: TenantId, built: Vec<Agent>) -> Self {
        let caller = Caller { name: NAME.to_owned(), role: Role::Agent, tenant, made_by: None };
        Self { core, caller, built, place: Mutex::new(None) }
    }

    fn tenant(&self) -> &TenantId {
        &self.caller.tenant
    }

    /// The newest event that can be located by the time in its id.
    async fn newest(&self) -> Result<Option<EventId>, BackendError> {
        let page =
            self.core.events().list(self.tenant(), &EventFilter::default(), NEWEST, None).await?;
        let ids = page.events.into_iter().map(|event| event.event_id);
        Ok(ids.into_iter().find(|id| id.millis().is_some()))
    }
}

impl From<ServiceError> for BackendError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Busy { after } => {
                BackendError::Retry { after, reason: "the store is busy".to_owned() }
            }
            ServiceError::Down { reason } => {
                BackendError::Retry { after: Duration::from_secs(2), reason }
            }
            ServiceError::Conflict { message } => BackendError::Conflict(message),
            ServiceError::NotFound { .. } => BackendError::NotFound(error.to_string()),
            other => BackendError::Refused(other.to_string()),
        }
    }
}

/// Turns `NotFound` into `None`.
fn found<T>(found: Result<T, ServiceError>) -> Result<Option<T>, BackendError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(ServiceError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Backend for CoreBackend {
    fn route(&self, task_type: TaskType, has_repo: bool) -> Agent {
        self.core.rules().route(task_type, has_repo)
    }

    async fn built(&self) -> Result<Vec<Agent>, BackendError> {
        Ok(self.built.clone())
    }

    async fn create(&self, new: LegacyTaskRequest) -> Result<TaskView, BackendError> {
        let id = new.id;
        let identity = Identity::Given(id.clone());
        let task = new.task.into_new_task(&self.caller, new.trace_id, identity);
        match self.core.tasks().create(task).await {
            Ok(created) => Ok(created.task.into()),
            Err(ServiceError::Conflict { message }) => {
                let existing = found(self.core.tasks().get(self.tenant(), &id).await)?;
                let existing = existing.ok_or(BackendError::Conflict(message))?;
                tracing::warn!(task_id = %id, "a repeated task differs: the first one is kept");
                Ok(existing.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskView>>, BackendError> {
        let tasks = self.core.tasks().get_many(self.tenant(), ids).await?;
        Ok(tasks.into_iter().map(|task| task.map(TaskView::from)).collect())
    }

    async fn events(
        &self,
        after: Option<&EventId>,
        most: usize,
        wait: Duration,
    ) -> Result<EventsAfter, BackendError> {
        let mut place = self.place.lock().await;
        let known = place.take().filter(|(event, _)| event.as_ref() == after);
        let mut at = match known {
            Some((_, at)) => at,
            None => self.core.events().place_after(self.tenant(), after).await?,
        };
        let filter = EventFilter::default();
        let page = PageSize { entries: most, ..PageSize::default() };
        let events = loop {
            let read =
                self.core.events().follow(self.tenant(), &filter, &mut at, page, wait).await?;
            // One call reads a bounded range: an empty page with `more` set is not the end.
            if !read.events.is_empty() || !read.more {
                break read.events;
            }
        };
        // Foreign ids contain no time, so they can't be located again.
        let own = events.iter().rev().find(|event| event.event_id.millis().is_some());
        let mut reached = own.map(|event| event.event_id.clone()).or_else(|| after.cloned());
        if reached.is_none() {
            // Without a position, the next reader (a function's next round) would start at its
            // own "now" and miss the events in between.
            reached = self.newest().await?;
        }
        *place = Some((reached.clone(), at));
        Ok(EventsAfter { events: events.into_iter().map(EventView::from).collect(), reached })
    }

    async fn publish(&self, event: LegacyEventRequest) -> Result<(), BackendError> {
        let LegacyEventRequest { id, event, hops } = event;
        let new = NewEvent {
            tenant: self.tenant().clone(),
            event_type: event.event_type.to_string(),
            source_agent: event.source_agent,
            payload: event.payload,
            task_id: event.task_id,
            trace_id: event.trace_id,
            priority: event.priority,
            published_by: NAME.to_owned(),
            event_id: Some(id.to_string()),
            hops,
        };
        self.core.events().publish(new).await?;
        Ok(())
    }

    async fn assigned(
        &self,
        agent: Agent,
        task_type: Option<TaskType>,
    ) -> Result<Vec<TaskView>, BackendError> {
        let filter = TaskFilter {
            status: Some(Status::Assigned),
            agent: Some(agent),
            task_type,
            ..Default::default()
        };
        let (mut tasks, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.core.tasks().list(self.tenant(), &filter, PAGE_SIZE, cursor).await?;
            tasks.extend(page.entries.into_iter().map(TaskView::from));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(tasks);
            }
        }
    }

    async fn set_status(&self, id: &TaskId, change: PatchStatus) -> Result<(), BackendError> {
        self.core.tasks().set_status(&self.caller, id, change.into()).await?;
        Ok(())
    }

    async fn approval(&self, id: &ApprovalId) -> Result<Option<ApprovalView>, BackendError> {
        let approval = found(self.core.approvals().get(self.tenant(), id).await)?;
        Ok(approval.map(ApprovalView::from))
    }

    async fn pending_approvals(&self) -> Result<Vec<ApprovalView>, BackendError> {
        let (mut pending, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.core.approvals().pending(self.tenant(), PAGE_SIZE, cursor).await?;
            pending.extend(page.entries.into_iter().map(ApprovalView::from));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(pending);
            }
        }
    }

    async fn budget(&self) -> Result<BudgetView, BackendError> {
        let state = self.core.budgets().state(self.tenant()).await?;
        let limits = self.core.budgets().limits(self.tenant()).await?;
        Ok(BudgetView::new(&state, &limits, self.core.clock().now()))
    }

    async fn notes(&self, id: &TaskId) -> Result<Vec<(String, String)>, BackendError> {
        let lines = found(self.core.tasks().timeline(self.tenant(), id).await)?.unwrap_or_default();
        let noted = lines.into_iter().filter(|line| line.kind == TimelineKind::EffectRecord);
        Ok(noted
            .map(|line| (line.at.to_string(), format!("{}: {}", line.what, line.text)))
            .collect())
    }
}
