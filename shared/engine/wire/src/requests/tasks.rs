//! Requests that create, change and answer tasks.

use serde_json::{Map, Value};
use watchbill_core::service::{Identity, NewTask, StatusChange, WorkerClaim};
use watchbill_domain::{
    Caller, Priority, Status, TaskId, TaskLimits, TaskType, Timestamp, UnknownName,
};
use watchbill_redact as redact;

use super::{ANY_ID, line, prose, shown, words};
use crate::form::{BadForm, Field, FieldType, Form};

/// Bytes of JSON. Metadata is in the task's header, which every step reads.
pub const METADATA_LIMIT: usize = 16 * 1024;

/// An id that can be a path segment: `.` and `..` would lead elsewhere.
const NEW_ID: FieldType = FieldType::Word {
    pattern: "^(\\.{0,2}[^. #?/%~\\\\\\u0000-\\u001f\\u007f-\\u009f]|\\.{3})((=(20|23|25|2F|3D|3F|5C|7E)|[^#?/%~\\\\\\u0000-\\u001f\\u007f-\\u009f]){0,124}[^ #?/%~\\\\\\u0000-\\u001f\\u007f-\\u009f])?$",
    // 128 characters, each of which may be escaped, as legacy ids are.
    most: 384,
    // `TaskId::parse_new` reports all other faults.
    fits: |text| !matches!(text, "" | "." | "..") && !text.contains(char::is_control),
    like: "a string of 1 to 128 characters without control characters, # ? / % ~ \\ and spaces at \
           either end, other than '.' and '..'",
};

/// All spellings of the types that a caller may request.
const TYPES: &[&str] = &[
    "faq",
    "bugfix",
    "deploy",
    "deployment",
    "investigate",
    "monitor",
    "monitoring",
    "alert",
    "incident",
    "refactor",
    "feature",
    "kb_update",
    "faq_update",
    "documentation",
    "knowledge_sync",
    "devops",
];

/// The body of `POST /tasks`, and the detail of a `task.requested` event.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTask {
    pub task_type: TaskType,
    pub priority: Priority,
    pub source: String,
    pub payload: Map<String, Value>,
    pub metadata: Map<String, Value>,
    pub sla_target: Option<String>,
    pub sla_deadline: Option<Timestamp>,
    pub parent: Option<TaskId>,
    pub max_retries: Option<u32>,
}

/// Whether an external text can be a trace id.
pub fn is_trace(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.contains(char::is_control)
        && !redact::holds_secret(text)
}

impl CreateTask {
    pub const FIELDS: &[Field] = &[
        Field::required("type", FieldType::Choice(TYPES), "What kind of work it is."),
        Field::required(
            "payload",
            FieldType::Object { most: TaskLimits::PAYLOAD },
            "What to do, at most 200 KB; a `description` in words is enough.",
        ),
        Field::optional(
            "priority",
            FieldType::Choice(Priority::SPELLINGS),
            "P0 runs first; default P2.",
        ),
        Field::optional("source", line(64), "Where the task comes from; default `user`."),
        Field::optional(
            "sla_target",
            FieldType::Span,
            "The deadline, counted from now: seconds or `15m`.",
        ),
        Field::optional(
            "sla_deadline",
            FieldType::Time,
            "The deadline; takes precedence over `sla_target`.",
        ),
        Field::optional(
            "metadata",
            FieldType::Object { most: METADATA_LIMIT },
            "Any data to store with the task, at most 16 KB; a `trace_id` in it becomes the \
             task's.",
        ),
        Field::optional(
            "parent_task_id",
            ANY_ID,
            "The task that this one is a part of; a task has at most 256 children.",
        ),
        Field::optional(
            "max_retries",
            FieldType::Int { least: 0, most: 100 },
            "How often a failed run is retried; default 3.",
        ),
        Field::optional(
            "task_id",
            NEW_ID,
            "The task's existing id, if it comes from another system; not with an \
             Idempotency-Key. A repeat with the same body returns the same task; one with another \
             body is refused with 409.",
        ),
        Field::optional(
            "trace_id",
            ANY_ID,
            "Its trace id, if neither `traceparent` nor `metadata` has one.",
        ),
        shown("status"),
        shown("sla"),
        shown("assigned_to"),
        shown("created_at"),
        shown("started_at"),
        shown("completed_at"),
        shown("child_task_ids"),
        shown("error"),
        shown("retry_count"),
        shown("tenant_id"),
        shown("version"),
        shown("approval_id"),
        shown("external"),
        shown("spent"),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        Self::of(Form::from_json(Self::FIELDS, body)?)
    }

    /// Also reads the body's task id. An event's detail has none: its task's id is derived from
    /// the event, so that a redelivered event creates the same task.
    pub fn read_with_id(body: &[u8]) -> Result<(Self, Option<TaskId>), BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let id = form.parsed("task_id", TaskId::parse_new);
        Self::of(form).map(|task| (task, id))
    }

    pub fn from_object(map: Map<String, Value>) -> Result<Self, BadForm> {
        Self::of(Form::from_object(Self::FIELDS, map))
    }

    fn of(mut form: Form) -> Result<Self, BadForm> {
        let task_type = form.choice("type", requestable);
        let payload = form.object("payload");
        let priority = form.choice("priority", Priority::parse).unwrap_or_default();
        let source = form.text("source").unwrap_or_else(|| "user".into());
        let sla_target = form.span("sla_target");
        let sla_deadline = form.time("sla_deadline");
        let mut metadata = form.object("metadata").unwrap_or_default();
        let parent = form.parsed("parent_task_id", TaskId::parse);
        let max_retries = form.int("max_retries").map(|n| n as u32);
        if let Some(trace) = form.text("trace_id") {
            metadata.entry("trace_id").or_insert_with(|| trace.into());
        }
        form.done()?;
        // The result of a finished task is shown in `metadata.result`.
        metadata.remove("result");
        let (Some(task_type), Some(payload)) = (task_type, payload) else {
            unreachable!("the form refuses a missing required field");
        };
        Ok(Self {
            task_type,
            priority,
            source,
            payload,
            metadata,
            sla_target,
            sla_deadline,
            parent,
            max_retries,
        })
    }

    /// The trace id in the caller's metadata, if it is valid.
    fn metadata_trace(&self) -> Option<String> {
        let trace = self.metadata.get("trace_id")?.as_str()?;
        is_trace(trace).then(|| trace.to_owned())
    }

    /// `trace_id` comes from the request's `traceparent`.
    pub fn into_new_task(
        self,
        caller: &Caller,
        trace_id: Option<String>,
        identity: Identity,
    ) -> NewTask {
        let trace_id = trace_id.or_else(|| self.metadata_trace());
        NewTask {
            tenant: caller.tenant.clone(),
            task_type: self.task_type,
            priority: self.priority,
            source: self.source,
            payload: self.payload,
            metadata: self.metadata,
            sla_target: self.sla_target,
            sla_deadline: self.sla_deadline,
            parent: self.parent,
            trace_id,
            max_retries: self.max_retries,
            created_by: caller.name.clone(),
            also_requested_by: caller.made_by.iter().cloned().collect(),
            identity,
            hops: 0,
        }
    }
}

fn requestable(text: &str) -> Result<TaskType, UnknownName> {
    let unknown = || {
        let known: Vec<_> = TaskType::ALL
            .iter()
            .filter(|one| **one != TaskType::OpsCycle)
            .map(|one| one.as_str())
            .collect();
        UnknownName { what: "type", value: redact::shortened(text, 64), known: known.join(", ") }
    };
    match TaskType::parse(text) {
        // Only the schedule creates these.
        Ok(TaskType::OpsCycle) | Err(_) => Err(unknown()),
        Ok(other) => Ok(other),
    }
}

/// `PATCH /tasks/{id}/status`, by query or body.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchStatus {
    pub status: Status,
    pub error: Option<String>,
    pub result: Option<Map<String, Value>>,
}

/// The name of a machine, pod or process.
const WORKER: Field = Field::optional(
    "worker",
    FieldType::Word {
        pattern: "^[A-Za-z0-9][A-Za-z0-9_.:@/-]*$",
        most: 128,
        fits: is_worker_name,
        like: "1 to 128 letters, digits and '_.:@/-', beginning with a letter or digit, that do not \
               look like a secret",
    },
    "Which of the workers that share a key it is. Only this worker may change a task claimed with \
     it, and must send the `fence` that the claim returned to end it.",
);
const FENCE: Field = Field::optional(
    "fence",
    FieldType::Int { least: 1, most: 9_007_199_254_740_991 },
    "The fence that the claim returned; refused with 409 once another claim was made.",
);

fn is_worker_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.:@/-".contains(c))
        && !redact::holds_secret(text)
}

const fn error(most: usize) -> Field {
    let doc = "Why it failed or is blocked; cut off after 4 KB.";
    Field::optional("error", prose(most), doc)
}

impl PatchStatus {
    pub const FIELDS: &[Field] = &[
        Field::required("status", FieldType::Choice(Status::SPELLINGS), "The task's new status."),
        error(100_000),
        Field::optional(
            "result",
            FieldType::Object { most: TaskLimits::PAYLOAD },
            "The result of a completed task, at most 200 KB; returned as `metadata.result`.",
        ),
        WORKER,
        FENCE,
    ];
    pub const QUERY: &[Field] = &[
        Field::optional(
            "status",
            FieldType::Choice(Status::SPELLINGS),
            "The same as in the body, which may then be empty.",
        ),
        // Up to this many characters, escaped, still fit into a URL of 64 KB.
        error(5_000),
        WORKER,
        FENCE,
    ];

    /// The query's values take precedence over the body's. With a status in the query the body
    /// may be empty.
    pub fn read(query: &mut Form, body: &[u8]) -> Result<Self, BadForm> {
        Self::read_with_claim(query, body).map(|(patch, _)| patch)
    }

    /// Also reads which worker makes the change, and under which claim.
    pub fn read_with_claim(query: &mut Form, body: &[u8]) -> Result<(Self, WorkerClaim), BadForm> {
        let status = query.choice("status", Status::parse);
        let error = query.text("error");
        let mut claim = worker_claim(query);
        let (status, body_error, result) = match status {
            Some(status) if body.is_empty() => (status, None, None),
            given => {
                let mut form = Form::from_json(Self::FIELDS, body)?;
                if let Some(status) = given {
                    form.set("status", status.as_str().into());
                }
                let status = form.choice("status", Status::parse);
                let error = form.text("error");
                let result = form.object("result");
                let in_body = worker_claim(&mut form);
                claim.worker = claim.worker.or(in_body.worker);
                claim.fence = claim.fence.or(in_body.fence);
                form.done()?;
                let Some(status) = status else {
                    unreachable!("the form refuses a missing required field");
                };
                (status, error, result)
            }
        };
        let error = error.or(body_error).filter(|text| !text.is_empty()).map(cut);
        Ok((Self { status, error, result }, claim))
    }
}

fn worker_claim(form: &mut Form) -> WorkerClaim {
    WorkerClaim { worker: form.text("worker"), fence: form.int("fence") }
}

/// The first [`TaskLimits::ERROR`] bytes, to a character boundary. Redacted first, because a
/// cut could leave an unrecognisable half of a secret.
fn cut(mut text: String) -> String {
    redact::string(&mut text);
    if text.len() > TaskLimits::ERROR {
        let end = (0..=TaskLimits::ERROR).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or_default());
    }
    text
}

impl From<PatchStatus> for StatusChange {
    fn from(patch: PatchStatus) -> Self {
        StatusChange { status: patch.status, error: patch.error, result: patch.result }
    }
}

/// The answer to a blocked task's question.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerRequest(pub String);

impl AnswerRequest {
    pub const FIELDS: &[Field] = &[
        Field::optional("choice", line(256), "One of the choices offered."),
        Field::optional(
            "text",
            words(10_000, "a string of at most 10000 characters that is not blank"),
            "An answer in words.",
        ),
    ];

    pub fn read(body: &[u8]) -> Result<Self, BadForm> {
        let mut form = Form::from_json(Self::FIELDS, body)?;
        let answer = match (form.text("choice"), form.text("text")) {
            (Some(answer), None) | (None, Some(answer)) => answer,
            _ => {
                form.fault("choice", "send either 'choice' or 'text'".into());
                String::new()
            }
        };
        form.done()?;
        Ok(Self(answer))
    }
}

/// Why someone rejects or cancels, by query or body. Optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reason(pub Option<String>);

impl Reason {
    pub const FIELDS: &[Field] =
        &[Field::optional("reason", prose(1_000), "The reason; it is recorded and displayed.")];

    pub fn read(query: &mut Form, body: &[u8]) -> Result<Self, BadForm> {
        let mut reason = query.text("reason");
        if !body.is_empty() {
            let mut form = Form::from_json(Self::FIELDS, body)?;
            let in_body = form.text("reason");
            form.done()?;
            reason = reason.or(in_body);
        }
        Ok(Self(reason.filter(|text| !text.trim().is_empty())))
    }
}
