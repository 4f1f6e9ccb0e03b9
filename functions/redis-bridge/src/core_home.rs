//! The bundle in the same process, or the same handlers over the same store on AWS.

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

use crate::home::{EventOfPeer, Followed, Home, HomeError, TaskOfPeer};

/// Under which name the bridge acts.
const NAME: &str = "redis";
/// Rows of one page of a list.
const PAGE: usize = 200;
/// Events looked through for one of our own.
const NEWEST: usize = 20;

/// The bundle over its core.
pub struct CoreHome {
    core: Core,
    caller: Caller,
    built: Vec<Agent>,
    /// Where reading of events stands, and after which event that is: finding the place of an
    /// event takes much longer than reading on.
    place: Mutex<Option<(Option<EventId>, LedgerPlace)>>,
}

impl CoreHome {
    /// `built`: the agents whose work is built.
    pub fn new(core: Core, tenant: TenantId, built: Vec<Agent>) -> Self {
        let caller = Caller { name: NAME.to_owned(), role: Role::Agent, tenant, made_by: None };
        Self { core, caller, built, place: Mutex::new(None) }
    }

    fn tenant(&self) -> &TenantId {
        &self.caller.tenant
    }

    /// The last event that can be found again by its time.
    async fn newest(&self) -> Result<Option<EventId>, HomeError> {
        let page =
            self.core.events().list(self.tenant(), &EventFilter::default(), NEWEST, None).await?;
        let ids = page.events.into_iter().map(|event| event.event_id);
        Ok(ids.into_iter().find(|id| id.millis().is_some()))
    }
}

impl From<ServiceError> for HomeError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Busy { after } => {
                HomeError::Retry { after, reason: "the store is busy".to_owned() }
            }
            ServiceError::Down { reason } => {
                HomeError::Retry { after: Duration::from_secs(2), reason }
            }
            ServiceError::Conflict { message } => HomeError::Conflict(message),
            ServiceError::NotFound { .. } => HomeError::NotFound(error.to_string()),
            other => HomeError::Refused(other.to_string()),
        }
    }
}

/// Nothing where it is not there.
fn found<T>(found: Result<T, ServiceError>) -> Result<Option<T>, HomeError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(ServiceError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Home for CoreHome {
    fn route(&self, task_type: TaskType, has_repo: bool) -> Agent {
        self.core.rules().route(task_type, has_repo)
    }

    async fn built(&self) -> Result<Vec<Agent>, HomeError> {
        Ok(self.built.clone())
    }

    async fn create(&self, new: TaskOfPeer) -> Result<TaskView, HomeError> {
        let id = new.id;
        let identity = Identity::Given(id.clone());
        let task = new.task.into_new_task(&self.caller, new.trace_id, identity);
        match self.core.tasks().create(task).await {
            Ok(created) => Ok(created.task.into()),
            Err(ServiceError::Conflict { message }) => {
                let there = found(self.core.tasks().get(self.tenant(), &id).await)?;
                let there = there.ok_or(HomeError::Conflict(message))?;
                tracing::warn!(task_id = %id, "task {id} came again with another content: the first stands");
                Ok(there.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskView>>, HomeError> {
        let tasks = self.core.tasks().get_many(self.tenant(), ids).await?;
        Ok(tasks.into_iter().map(|task| task.map(TaskView::from)).collect())
    }

    async fn events(
        &self,
        after: Option<&EventId>,
        most: usize,
        wait: Duration,
    ) -> Result<Followed, HomeError> {
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
            // A call walks only so far: an empty page with more behind it is not the end.
            if !read.events.is_empty() || !read.more {
                break read.events;
            }
        };
        // Ids of others can't be found again by their time.
        let own = events.iter().rev().find(|event| event.event_id.millis().is_some());
        let mut reached = own.map(|event| event.event_id.clone()).or_else(|| after.cloned());
        if reached.is_none() {
            // Else what happens before the next look would be passed over by whoever looks
            // from then on: a function's next round.
            reached = self.newest().await?;
        }
        *place = Some((reached.clone(), at));
        Ok(Followed { events: events.into_iter().map(EventView::from).collect(), reached })
    }

    async fn publish(&self, event: EventOfPeer) -> Result<(), HomeError> {
        let EventOfPeer { id, event, hops } = event;
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
    ) -> Result<Vec<TaskView>, HomeError> {
        let filter = TaskFilter {
            status: Some(Status::Assigned),
            agent: Some(agent),
            task_type,
            ..Default::default()
        };
        let (mut tasks, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.core.tasks().list(self.tenant(), &filter, PAGE, cursor).await?;
            tasks.extend(page.entries.into_iter().map(TaskView::from));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(tasks);
            }
        }
    }

    async fn set_status(&self, id: &TaskId, change: PatchStatus) -> Result<(), HomeError> {
        self.core.tasks().set_status(&self.caller, id, change.into()).await?;
        Ok(())
    }

    async fn approval(&self, id: &ApprovalId) -> Result<Option<ApprovalView>, HomeError> {
        let approval = found(self.core.approvals().get(self.tenant(), id).await)?;
        Ok(approval.map(ApprovalView::from))
    }

    async fn pending_approvals(&self) -> Result<Vec<ApprovalView>, HomeError> {
        let (mut pending, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.core.approvals().pending(self.tenant(), PAGE, cursor).await?;
            pending.extend(page.entries.into_iter().map(ApprovalView::from));
            cursor = page.next;
            if cursor.is_none() {
                return Ok(pending);
            }
        }
    }

    async fn budget(&self) -> Result<BudgetView, HomeError> {
        let state = self.core.budgets().state(self.tenant()).await?;
        let limits = self.core.budgets().limits(self.tenant()).await?;
        Ok(BudgetView::new(&state, &limits, self.core.clock().now()))
    }

    async fn notes(&self, id: &TaskId) -> Result<Vec<(String, String)>, HomeError> {
        let lines = found(self.core.tasks().timeline(self.tenant(), id).await)?.unwrap_or_default();
        let noted = lines.into_iter().filter(|line| line.kind == TimelineKind::Step);
        Ok(noted
            .map(|line| (line.at.to_string(), format!("{}: {}", line.what, line.text)))
            .collect())
    }
}
