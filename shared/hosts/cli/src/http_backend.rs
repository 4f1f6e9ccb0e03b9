//! The backend of the bridge over the HTTP API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use watchbill_core::decide::EngineConfig;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_domain::{Agent, ApprovalId, EventId, TaskId, TaskType};
use watchbill_redis_bridge::{
    Backend, BackendError, EventsAfter, LegacyEventRequest, LegacyTaskRequest,
};
use watchbill_wire::{
    AgentList, ApprovalAnswer, ApprovalList, ApprovalView, BudgetView, EventList, EventView,
    PatchStatus, TaskAnswer, TaskCreated, TaskList, TaskView, Timeline,
};

use crate::client::{Call, Client, parse_url};
use crate::failure::{Failure, Refusal};

/// The largest page size of the API.
const PAGE_SIZE: usize = 200;
/// The longest time for which the API holds a call open.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// How many tasks are read concurrently.
const MAX_CONCURRENT_READS: usize = 32;
/// Used unless the server sends `Retry-After`.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// Used where a person must act first, for example replace the key.
const REFUSED_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How often a server that has no event yet is polled for the first.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The backend over HTTP, with the rights of the key's owner.
pub struct HttpBackend {
    client: Client,
    rules: EngineConfig,
    /// The position last returned (`reached`), and the last event read. The server resolves ids
    /// of other origin only for a while, so callers must not store those.
    last: Mutex<Option<(Option<EventId>, EventId)>>,
}

impl HttpBackend {
    pub fn new(
        url: &str,
        key: Option<String>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> anyhow::Result<Self> {
        Ok(Self::over(Client::new(parse_url(url)?, key, clock, entropy)?))
    }

    pub(crate) fn over(client: Client) -> Self {
        Self { client, rules: EngineConfig::default(), last: Mutex::new(None) }
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, BackendError> {
        self.read(&self.client.ask_once(&call).await?.body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, BackendError> {
        serde_json::from_slice(body).map_err(|error| BackendError::Retry {
            after: RETRY_DELAY,
            reason: format!(
                "{} returned a response that this version can't read ({error}); check --url and \
                 the server's version",
                self.client.shown()
            ),
        })
    }

    /// Returns `None` if the server answers 404.
    async fn ask_for<T: DeserializeOwned>(&self, call: Call) -> Result<Option<T>, BackendError> {
        match self.ask(call).await {
            Ok(found) => Ok(Some(found)),
            Err(BackendError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn task(&self, id: &TaskId) -> Result<Option<TaskView>, BackendError> {
        if !has_path(id) {
            return Ok(None);
        }
        let answer: Option<TaskAnswer> = self.ask_for(Call::get(&["tasks", id.as_str()])).await?;
        Ok(answer.map(|answer| answer.task))
    }

    async fn events_after(
        &self,
        after: &EventId,
        most: usize,
        wait: Duration,
    ) -> Result<Vec<EventView>, BackendError> {
        let mut cursor = None::<String>;
        loop {
            let call = Call::get(&["events"])
                .query("after", after)
                .query("limit", most.clamp(1, PAGE_SIZE))
                .filter("cursor", cursor.as_deref())
                .held(wait.min(MAX_WAIT).as_secs());
            let list: EventList = self.ask(call).await?;
            // An empty page with a cursor means that the server read only a part.
            let on = list.next_cursor.filter(|_| list.events.is_empty());
            if on.is_none() || on == cursor {
                return Ok(list.events);
            }
            cursor = on;
        }
    }

    /// Oldest first.
    async fn newest_events(&self, most: usize) -> Result<Vec<EventView>, BackendError> {
        let mut cursor = None::<String>;
        loop {
            let call = Call::get(&["events"])
                .query("limit", most.clamp(1, PAGE_SIZE))
                .filter("cursor", cursor.as_deref());
            let mut list: EventList = self.ask(call).await?;
            let on = list.next_cursor.filter(|_| list.events.is_empty());
            if on.is_none() || on == cursor {
                list.events.reverse();
                return Ok(list.events);
            }
            cursor = on;
        }
    }

    /// Returns the newest existing event and those after it.
    async fn events_from_now(
        &self,
        most: usize,
        wait: Duration,
    ) -> Result<(Option<EventId>, Vec<EventView>), BackendError> {
        if let Some(newest) = self.newest_events(1).await?.pop() {
            let events = self.events_after(&newest.event_id, most, wait).await?;
            return Ok((Some(newest.event_id), events));
        }
        // No event exists yet, so every event found later is new.
        let clock = self.client.clock.clone();
        let until = clock.monotonic() + wait;
        loop {
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Ok((None, Vec::new()));
            }
            clock.sleep(left.min(POLL_INTERVAL)).await;
            let events = self.newest_events(most).await?;
            if !events.is_empty() {
                return Ok((None, events));
            }
        }
    }

    /// The event after which to read, if the caller continues at the last returned position.
    fn last_read(&self, after: Option<&EventId>) -> Option<EventId> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.filter(|(reached, _)| reached.as_ref() == after).map(|(_, read)| read)
    }
}

impl From<Failure> for BackendError {
    fn from(failure: Failure) -> Self {
        let refusal = match failure {
            Failure::Answered(refusal) => refusal,
            Failure::Usage(reason) => return BackendError::Refused(reason),
            away => return BackendError::Retry { after: RETRY_DELAY, reason: format!("{away:#}") },
        };
        let reason = refusal.first_line();
        match *refusal {
            Refusal { status: 429 | 500.., retry_after, .. } => BackendError::Retry {
                after: retry_after.map_or(RETRY_DELAY, Duration::from_secs),
                reason,
            },
            // The fault is in the key or on the way, not in the request: it lasts until someone
            // fixes it, and no item is rejected for it.
            Refusal { status: 300..=399 | 401 | 407 | 408, .. } => {
                BackendError::Retry { after: REFUSED_RETRY_DELAY, reason }
            }
            Refusal { status: 409, .. } => BackendError::Conflict(reason),
            Refusal { status: 404, .. } => BackendError::NotFound(reason),
            _ => BackendError::Refused(reason),
        }
    }
}

/// `.` and `..` lead elsewhere in a path. The API has no tasks with these ids.
fn has_path(id: &TaskId) -> bool {
    !matches!(id.as_str(), "." | "..")
}

/// A JSON object of the fields that are not null.
fn body<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let set = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(set.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// The trace as a `traceparent` header. Returns `None` if it is no valid trace id there.
fn traceparent(trace: &str) -> Option<String> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = trace.len() == 32 && trace.bytes().all(hex) && trace.bytes().any(|b| b != b'0');
    // Made from the trace's beginning: it is never looked up, but must not be zero.
    fits.then(|| format!("00-{trace}-{:0>16}-01", &trace[..15].replace('0', "1")))
}

fn creation(new: &LegacyTaskRequest) -> Call {
    let task = &new.task;
    let mut metadata = task.metadata.clone();
    let parent = new.trace_id.as_deref().and_then(traceparent);
    if let (Some(trace), None) = (&new.trace_id, &parent) {
        metadata.entry("trace_id").or_insert_with(|| trace.as_str().into());
    }
    let text = |value: Option<String>| value.map_or(Value::Null, Value::from);
    let body = body([
        ("task_id", new.id.as_str().into()),
        ("type", task.task_type.as_str().into()),
        ("priority", task.priority.as_str().into()),
        ("source", task.source.as_str().into()),
        ("payload", Value::Object(task.payload.clone())),
        ("metadata", Value::Object(metadata)),
        ("sla_target", text(task.sla_target.clone())),
        ("sla_deadline", text(task.sla_deadline.map(|at| at.to_string()))),
        ("parent_task_id", text(task.parent.as_ref().map(TaskId::to_string))),
        ("max_retries", task.max_retries.map_or(Value::Null, Value::from)),
    ]);
    Call::post(&["tasks"]).body(body).header("traceparent", parent)
}

#[async_trait]
impl Backend for HttpBackend {
    fn route(&self, task_type: TaskType, has_repo: bool) -> Agent {
        self.rules.route(task_type, has_repo)
    }

    async fn built(&self) -> Result<Vec<Agent>, BackendError> {
        let list: AgentList = self.ask(Call::get(&["agents"])).await?;
        let built = list.agents.iter().filter(|agent| agent.built);
        Ok(built.filter_map(|agent| Agent::parse(&agent.agent).ok()).collect())
    }

    async fn create(&self, new: LegacyTaskRequest) -> Result<TaskView, BackendError> {
        let created = match self.client.ask_once(&creation(&new)).await {
            // No task is forbidden because of its content: the key lacks the right.
            Err(Failure::Answered(refusal)) if refusal.status == 403 => Err(BackendError::Retry {
                after: REFUSED_RETRY_DELAY,
                reason: refusal.first_line(),
            }),
            Err(failure) => Err(failure.into()),
            Ok(answer) => self.read::<TaskCreated>(&answer.body),
        };
        match created {
            Ok(created) => Ok(created.task),
            Err(BackendError::Conflict(reason)) => {
                let existing = self.task(&new.id).await?.ok_or(BackendError::Conflict(reason))?;
                tracing::warn!(
                    task_id = %new.id,
                    "the task exists with other content; the existing task is kept"
                );
                Ok(existing)
            }
            Err(error) => Err(error),
        }
    }

    async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskView>>, BackendError> {
        let reads: Vec<_> = ids.iter().map(|id| self.task(id)).collect();
        stream::iter(reads).buffered(MAX_CONCURRENT_READS).try_collect().await
    }

    async fn events(
        &self,
        after: Option<&EventId>,
        most: usize,
        wait: Duration,
    ) -> Result<EventsAfter, BackendError> {
        let (from, events) = match self.last_read(after).or_else(|| after.cloned()) {
            Some(from) => match (self.events_after(&from, most, wait).await, after) {
                // The server no longer knows `from`. Reading from `after` repeats events, but
                // loses none.
                (Err(BackendError::NotFound(_)), Some(after)) if *after != from => {
                    (Some(after.clone()), self.events_after(after, most, wait).await?)
                }
                (events, _) => (Some(from), events?),
            },
            None => self.events_from_now(most, wait).await?,
        };
        let own = |id: &&EventId| id.millis().is_some();
        let ids = events.iter().map(|event| &event.event_id);
        let reached = from.iter().chain(ids).rfind(own).or(after).cloned();
        let read = events.last().map(|event| event.event_id.clone()).or(from);
        let read = read.map(|read| (reached.clone(), read));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(EventsAfter { events, reached })
    }

    async fn publish(&self, event: LegacyEventRequest) -> Result<(), BackendError> {
        let LegacyEventRequest { id, event, hops } = event;
        let text = |value: Option<String>| value.map_or(Value::Null, Value::from);
        let body = body([
            ("event_id", id.as_str().into()),
            ("hops", hops.into()),
            ("event_type", event.event_type.as_str().into()),
            ("source_agent", event.source_agent.into()),
            ("payload", Value::Object(event.payload)),
            ("task_id", text(event.task_id.map(|id| id.to_string()))),
            ("trace_id", text(event.trace_id)),
            ("priority", text(event.priority)),
        ]);
        self.ask::<Value>(Call::post(&["events", "publish"]).body(body)).await?;
        Ok(())
    }

    async fn assigned(
        &self,
        agent: Agent,
        task_type: Option<TaskType>,
    ) -> Result<Vec<TaskView>, BackendError> {
        let (mut tasks, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let call = Call::get(&["tasks"])
                .query("status", "assigned")
                .query("assigned_to", agent)
                .filter("type", task_type.map(TaskType::as_str))
                .filter("cursor", cursor.as_deref())
                .query("limit", PAGE_SIZE);
            let page: TaskList = self.ask(call).await?;
            tasks.extend(page.tasks);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(tasks);
            }
        }
    }

    async fn set_status(&self, id: &TaskId, change: PatchStatus) -> Result<(), BackendError> {
        if !has_path(id) {
            return Err(BackendError::NotFound(format!("task '{id}' not found")));
        }
        let body = body([
            ("status", change.status.as_str().into()),
            ("error", change.error.map_or(Value::Null, Value::from)),
            ("result", change.result.map_or(Value::Null, Value::Object)),
        ]);
        let call = Call::patch(&["tasks", id.as_str(), "status"]).body(body);
        self.ask::<Value>(call).await?;
        Ok(())
    }

    async fn approval(&self, id: &ApprovalId) -> Result<Option<ApprovalView>, BackendError> {
        let answer: Option<ApprovalAnswer> =
            self.ask_for(Call::get(&["approvals", id.as_str()])).await?;
        Ok(answer.map(|answer| answer.approval))
    }

    async fn pending_approvals(&self) -> Result<Vec<ApprovalView>, BackendError> {
        let (mut pending, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let call = Call::get(&["approvals", "pending"])
                .query("limit", PAGE_SIZE)
                .filter("cursor", cursor.as_deref());
            let page: ApprovalList = self.ask(call).await?;
            pending.extend(page.approvals);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(pending);
            }
        }
    }

    async fn budget(&self) -> Result<BudgetView, BackendError> {
        self.ask(Call::get(&["budget"])).await
    }

    async fn notes(&self, id: &TaskId) -> Result<Vec<(String, String)>, BackendError> {
        if !has_path(id) {
            return Ok(Vec::new());
        }
        let (mut lines, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let call =
                Call::get(&["tasks", id.as_str(), "timeline"]).filter("cursor", cursor.as_deref());
            let Some(page) = self.ask_for::<Timeline>(call).await? else { break };
            lines.extend(page.timeline);
            if page.next_cursor.is_none() || page.next_cursor == cursor {
                break;
            }
            cursor = page.next_cursor;
        }
        let noted = lines.into_iter().filter(|line| line.kind == "step");
        Ok(noted
            .map(|line| (line.at.to_string(), format!("{}: {}", line.what, line.text)))
            .collect())
    }
}
