//! The bundle behind its HTTP API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use watchbill_core::decide::Rules;
use watchbill_core::ports::{Clock, Entropy};
use watchbill_domain::{Agent, ApprovalId, EventId, TaskId, TaskType};
use watchbill_redis_bridge::{EventOfPeer, Followed, Home, HomeError, TaskOfPeer};
use watchbill_wire::{
    AgentList, ApprovalAnswer, ApprovalList, ApprovalView, BudgetView, EventList, EventView,
    PatchStatus, TaskAnswer, TaskCreated, TaskList, TaskView, Timeline,
};

use crate::client::{Call, Client, parse_url};
use crate::failure::{Failure, Refusal};

/// The most that the API gives in one page.
const PAGE: usize = 200;
/// The most that it holds a call open.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Tasks that are read at once.
const AT_ONCE: usize = 32;
/// Where the server says nothing else.
const AGAIN: Duration = Duration::from_secs(2);
/// Where a person has to do something first, such as give it another key.
const UNTIL_MENDED: Duration = Duration::from_secs(30);
/// How often a server without any event is asked for the first.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The bundle over HTTP, as the caller whose key it is.
pub struct HttpHome {
    client: Client,
    rules: Rules,
    /// The last event that was read, beside what was answered as reached: the server finds
    /// ids of others again only for a while, so they are nothing to keep.
    last: Mutex<Option<(Option<EventId>, EventId)>>,
}

impl HttpHome {
    pub fn new(
        url: &str,
        key: Option<String>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> anyhow::Result<Self> {
        Ok(Self::over(Client::new(parse_url(url)?, key, clock, entropy)?))
    }

    pub(crate) fn over(client: Client) -> Self {
        Self { client, rules: Rules::default(), last: Mutex::new(None) }
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, HomeError> {
        self.read(&self.client.ask_once(&call).await?.body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, HomeError> {
        serde_json::from_slice(body).map_err(|error| HomeError::Retry {
            after: AGAIN,
            reason: format!(
                "{} answered what this build can't read ({error}); check --url and the server's \
                 version",
                self.client.shown()
            ),
        })
    }

    /// Nothing where it is not there.
    async fn ask_for<T: DeserializeOwned>(&self, call: Call) -> Result<Option<T>, HomeError> {
        match self.ask(call).await {
            Ok(found) => Ok(Some(found)),
            Err(HomeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn task(&self, id: &TaskId) -> Result<Option<TaskView>, HomeError> {
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
    ) -> Result<Vec<EventView>, HomeError> {
        let mut cursor = None::<String>;
        loop {
            let call = Call::get(&["events"])
                .query("after", after)
                .query("limit", most.clamp(1, PAGE))
                .filter("cursor", cursor.as_deref())
                .held(wait.min(LONGEST_WAIT).as_secs());
            let list: EventList = self.ask(call).await?;
            // An empty page with a cursor has looked at a part only.
            let on = list.next_cursor.filter(|_| list.events.is_empty());
            if on.is_none() || on == cursor {
                return Ok(list.events);
            }
            cursor = on;
        }
    }

    /// Oldest first.
    async fn newest_events(&self, most: usize) -> Result<Vec<EventView>, HomeError> {
        let mut cursor = None::<String>;
        loop {
            let call = Call::get(&["events"])
                .query("limit", most.clamp(1, PAGE))
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

    /// From now on: the newest event there is, and what comes after it.
    async fn events_from_now(
        &self,
        most: usize,
        wait: Duration,
    ) -> Result<(Option<EventId>, Vec<EventView>), HomeError> {
        if let Some(newest) = self.newest_events(1).await?.pop() {
            let events = self.events_after(&newest.event_id, most, wait).await?;
            return Ok((Some(newest.event_id), events));
        }
        // Nothing happened yet: whatever is there later is new.
        let clock = self.client.clock.clone();
        let until = clock.monotonic() + wait;
        loop {
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Ok((None, Vec::new()));
            }
            clock.sleep(left.min(LOOK_EVERY)).await;
            let events = self.newest_events(most).await?;
            if !events.is_empty() {
                return Ok((None, events));
            }
        }
    }

    /// The event after which the server reads on, where the caller reads on after this one.
    fn last_read(&self, after: Option<&EventId>) -> Option<EventId> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.filter(|(reached, _)| reached.as_ref() == after).map(|(_, read)| read)
    }
}

impl From<Failure> for HomeError {
    fn from(failure: Failure) -> Self {
        let refusal = match failure {
            Failure::Answered(refusal) => refusal,
            Failure::Usage(reason) => return HomeError::Refused(reason),
            away => return HomeError::Retry { after: AGAIN, reason: away.to_string() },
        };
        let said = refusal.said();
        match *refusal {
            Refusal { status: 429 | 500.., retry_after, .. } => HomeError::Retry {
                after: retry_after.map_or(AGAIN, Duration::from_secs),
                reason: said,
            },
            // Of the key or of something on the way, not of what was sent: it holds until someone
            // mends that, and nothing is rejected for it.
            Refusal { status: 300..=399 | 401 | 407 | 408, .. } => {
                HomeError::Retry { after: UNTIL_MENDED, reason: said }
            }
            Refusal { status: 409, .. } => HomeError::Conflict(said),
            Refusal { status: 404, .. } => HomeError::NotFound(said),
            _ => HomeError::Refused(said),
        }
    }
}

/// `.` and `..` lead elsewhere in a path; the API has no tasks of these ids.
fn has_path(id: &TaskId) -> bool {
    !matches!(id.as_str(), "." | "..")
}

/// A body without what is not said.
fn body<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let said = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(said.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// The trace as `traceparent` has it, where it can be one there.
fn traceparent(trace: &str) -> Option<String> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = trace.len() == 32 && trace.bytes().all(hex) && trace.bytes().any(|b| b != b'0');
    // The span is the trace's beginning: nobody looks for it, it only may not be zero.
    fits.then(|| format!("00-{trace}-{:0>16}-01", &trace[..15].replace('0', "1")))
}

fn creation(new: &TaskOfPeer) -> Call {
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
impl Home for HttpHome {
    fn route(&self, task_type: TaskType, has_repo: bool) -> Agent {
        self.rules.route(task_type, has_repo)
    }

    async fn built(&self) -> Result<Vec<Agent>, HomeError> {
        let list: AgentList = self.ask(Call::get(&["agents"])).await?;
        let built = list.agents.iter().filter(|agent| agent.built);
        Ok(built.filter_map(|agent| Agent::parse(&agent.agent).ok()).collect())
    }

    async fn create(&self, new: TaskOfPeer) -> Result<TaskView, HomeError> {
        let created = match self.client.ask_once(&creation(&new)).await {
            // No task is forbidden for what it is: the key lacks the right.
            Err(Failure::Answered(refusal)) if refusal.status == 403 => {
                Err(HomeError::Retry { after: UNTIL_MENDED, reason: refusal.said() })
            }
            Err(failure) => Err(failure.into()),
            Ok(answer) => self.read::<TaskCreated>(&answer.body),
        };
        match created {
            Ok(created) => Ok(created.task),
            Err(HomeError::Conflict(reason)) => {
                let there = self.task(&new.id).await?.ok_or(HomeError::Conflict(reason))?;
                let id = &new.id;
                tracing::warn!(
                    task_id = %id,
                    "task {id} came again with another content: the first stands"
                );
                Ok(there)
            }
            Err(error) => Err(error),
        }
    }

    async fn tasks(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskView>>, HomeError> {
        let reads: Vec<_> = ids.iter().map(|id| self.task(id)).collect();
        stream::iter(reads).buffered(AT_ONCE).try_collect().await
    }

    async fn events(
        &self,
        after: Option<&EventId>,
        most: usize,
        wait: Duration,
    ) -> Result<Followed, HomeError> {
        let (from, events) = match self.last_read(after).or_else(|| after.cloned()) {
            Some(from) => match (self.events_after(&from, most, wait).await, after) {
                // What came between is told again; better than none of it.
                (Err(HomeError::NotFound(_)), Some(after)) if *after != from => {
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
        Ok(Followed { events, reached })
    }

    async fn publish(&self, event: EventOfPeer) -> Result<(), HomeError> {
        let EventOfPeer { id, event, hops } = event;
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
    ) -> Result<Vec<TaskView>, HomeError> {
        let (mut tasks, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let call = Call::get(&["tasks"])
                .query("status", "assigned")
                .query("assigned_to", agent)
                .filter("type", task_type.map(TaskType::as_str))
                .filter("cursor", cursor.as_deref())
                .query("limit", PAGE);
            let page: TaskList = self.ask(call).await?;
            tasks.extend(page.tasks);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(tasks);
            }
        }
    }

    async fn set_status(&self, id: &TaskId, change: PatchStatus) -> Result<(), HomeError> {
        if !has_path(id) {
            return Err(HomeError::NotFound(format!("task '{id}' not found")));
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

    async fn approval(&self, id: &ApprovalId) -> Result<Option<ApprovalView>, HomeError> {
        let answer: Option<ApprovalAnswer> =
            self.ask_for(Call::get(&["approvals", id.as_str()])).await?;
        Ok(answer.map(|answer| answer.approval))
    }

    async fn pending_approvals(&self) -> Result<Vec<ApprovalView>, HomeError> {
        let (mut pending, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let call = Call::get(&["approvals", "pending"])
                .query("limit", PAGE)
                .filter("cursor", cursor.as_deref());
            let page: ApprovalList = self.ask(call).await?;
            pending.extend(page.approvals);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(pending);
            }
        }
    }

    async fn budget(&self) -> Result<BudgetView, HomeError> {
        self.ask(Call::get(&["budget"])).await
    }

    async fn notes(&self, id: &TaskId) -> Result<Vec<(String, String)>, HomeError> {
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
