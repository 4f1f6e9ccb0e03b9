//! The wire format of tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_core::service::FullTask;
use watchbill_domain::{
    Agent, Amount, ApprovalId, Priority, Sla, Status, TaskId, TaskType, TenantId, Timestamp,
};

use crate::{AmountView, rfc3339, schemas};

/// A task as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Task")]
pub struct TaskView {
    #[schemars(schema_with = "schemas::id")]
    pub task_id: TaskId,
    #[serde(rename = "type")]
    #[schemars(schema_with = "schemas::task_type")]
    pub task_type: TaskType,
    #[schemars(schema_with = "schemas::priority")]
    pub priority: Priority,
    pub source: String,
    #[schemars(schema_with = "schemas::status")]
    pub status: Status,
    pub payload: Map<String, Value>,
    pub trace_id: String,
    #[schemars(required)]
    pub sla: Option<SlaView>,
    /// The agent that has the task, or gets it once it is approved.
    #[schemars(schema_with = "schemas::agent")]
    pub assigned_to: Agent,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub created_at: Timestamp,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub started_at: Option<Timestamp>,
    #[serde(with = "rfc3339::option")]
    #[schemars(schema_with = "schemas::optional_time")]
    pub completed_at: Option<Timestamp>,
    #[schemars(schema_with = "schemas::optional_id")]
    pub parent_task_id: Option<TaskId>,
    #[schemars(schema_with = "schemas::ids")]
    pub child_task_ids: Vec<TaskId>,
    /// The caller's metadata and, for a completed task, its `result`.
    pub metadata: Map<String, Value>,
    pub error: Option<String>,
    pub retry_count: u32,
    pub max_retries: u32,
    #[schemars(schema_with = "schemas::id")]
    pub tenant_id: TenantId,
    /// Grows by one with each change.
    pub version: u64,
    #[schemars(schema_with = "schemas::optional_id")]
    pub approval_id: Option<ApprovalId>,
    /// Whether the task is left to external workers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Cost of the model calls for this task so far, if there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<AmountView>,
}

/// The task's deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Sla")]
pub struct SlaView {
    /// The target as requested, or the priority's default.
    pub target: String,
    #[serde(with = "rfc3339")]
    #[schemars(schema_with = "schemas::time")]
    pub deadline: Timestamp,
    /// Percent of the time elapsed at which a warning is given.
    pub alert_threshold: u8,
}

impl From<Sla> for SlaView {
    fn from(sla: Sla) -> Self {
        Self { target: sla.target, deadline: sla.deadline, alert_threshold: sla.alert_threshold }
    }
}

impl From<FullTask> for TaskView {
    fn from(full: FullTask) -> Self {
        let FullTask { task, version, payload, result, children } = full;
        let mut metadata = task.metadata;
        if let Some(result) = result {
            metadata.insert("result".into(), Value::Object(result));
        }
        Self {
            task_id: task.id,
            task_type: task.task_type,
            priority: task.priority,
            source: task.source,
            status: task.status,
            payload,
            trace_id: task.trace_id,
            sla: task.sla.map(SlaView::from),
            assigned_to: task.agent,
            created_at: task.created_at,
            started_at: task.started_at,
            completed_at: task.finished_at,
            parent_task_id: task.parent,
            child_task_ids: children,
            metadata,
            error: task.error,
            retry_count: task.retries,
            max_retries: task.max_retries,
            tenant_id: task.tenant,
            version,
            approval_id: task.approval.map(|approval| approval.id),
            external: task.external,
            spent: (task.spent != Amount::NONE).then(|| task.spent.into()),
        }
    }
}
