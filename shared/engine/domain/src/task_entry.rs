//! One change of a task as the ledger stores it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Agent, Event, EventId, EventPriority, LogEntry, Priority, TaskId, TaskType, Timestamp,
    timed_uuid,
};

/// One change of a task, with everything that its events need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskEntry {
    #[serde(rename = "id")]
    pub task: TaskId,
    #[serde(rename = "ty")]
    pub task_type: TaskType,
    #[serde(rename = "pr")]
    pub priority: Priority,
    #[serde(rename = "ag")]
    pub agent: Agent,
    #[serde(rename = "tr")]
    pub trace_id: String,
    #[serde(rename = "ho", default, skip_serializing_if = "is_zero")]
    pub hops: u8,
    /// When the task was created. Only set if this change is its completion.
    #[serde(rename = "ca", default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    #[serde(flatten)]
    pub change: LogEntry,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u8) -> bool {
    *n == 0
}

impl TaskEntry {
    /// The event at index `place` of this change.
    pub fn event(&self, place: usize) -> Event {
        let logged = &self.change.events[place];
        let mut payload = Map::new();
        payload.insert("task_id".into(), json!(self.task));
        payload.insert("status".into(), json!(self.change.status));
        payload.insert("type".into(), json!(self.task_type));
        payload.insert("priority".into(), json!(self.priority));
        payload.insert("assigned_to".into(), json!(self.agent));
        if let Some(run) = self.change.run {
            payload.insert("run".into(), Value::from(run));
        }
        if let Some(created_at) = self.created_at {
            let took = self.change.at.since(created_at).as_millis() as u64;
            payload.insert("duration_ms".into(), Value::from(took));
        }
        for (name, value) in &logged.payload {
            payload.insert(name.clone(), value.clone());
        }
        let mut metadata = Map::new();
        metadata.insert("version".into(), Value::from(self.change.version));
        Event {
            event_id: self.event_id(place),
            event_type: logged.event_type.clone(),
            priority: EventPriority::from(self.priority),
            source_agent: self.agent.as_str().to_owned(),
            trace_id: self.trace_id.clone(),
            task_id: Some(self.task.clone()),
            payload,
            timestamp: self.change.at,
            metadata,
            hops: self.hops,
        }
    }

    pub fn event_id(&self, place: usize) -> EventId {
        let (version, place) = (self.change.version.to_string(), place.to_string());
        timed_uuid(self.change.at, &["task", self.task.as_str(), &version, &place]).into()
    }
}
