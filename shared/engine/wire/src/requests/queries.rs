//! Queries of the routes that return pages or wait for changes.

use std::time::Duration;

use watchbill_core::service::{EventFilter, TaskFilter};
use watchbill_domain::{Agent, EventId, Priority, Status, TaskId, TaskType};

use super::{ANY_ID, line};
use crate::form::{BadForm, Field, FieldType, Form};

pub(super) const LIMIT: Field = Field::optional(
    "limit",
    FieldType::Int { least: 1, most: 200 },
    "Maximum number of entries on a page; default 50.",
);
/// A cursor may hold a legacy id, escaped twice.
pub(super) const MAX_CURSOR: usize = 4_096;

/// The cursor field of one list, by the tags that its cursors begin with.
macro_rules! cursor_field {
    ($tags:literal, $of:literal, $($kind:ident),+) => {
        crate::form::Field::optional(
            "cursor",
            crate::form::FieldType::Word {
                pattern: concat!("^(", $tags, ")-[0-9a-f]{8}-[A-Za-z0-9_~.-]*$"),
                most: crate::requests::queries::MAX_CURSOR,
                fits: |text| {
                    use watchbill_core::service::{cursors, has_cursor_form};
                    has_cursor_form(text, &[$(cursors::$kind),+])
                },
                like: concat!("`next_cursor` of a page of ", $of, "; leave it out to start over"),
            },
            "`next_cursor` of the previous page.",
        )
    };
}
pub(super) use cursor_field;
const WAIT: Field = Field::optional(
    "wait",
    FieldType::Int { least: 0, most: 20 },
    "Seconds to wait for something new if there is none yet.",
);

const DEFAULT_LIMIT: usize = 50;

pub(super) fn limit(form: &mut Form) -> usize {
    form.int("limit").map_or(DEFAULT_LIMIT, |n| n as usize)
}

fn wait(form: &mut Form) -> Duration {
    Duration::from_secs(form.int("wait").unwrap_or_default())
}

/// A page of any list.
#[derive(Clone, Debug)]
pub struct PageQuery {
    pub limit: usize,
    pub cursor: Option<String>,
}

impl PageQuery {
    pub const PENDING: &[Field] = &[LIMIT, cursor_field!("p1", "/approvals/pending", PENDING)];
    pub const HISTORY: &[Field] = &[LIMIT, cursor_field!("h1", "/approvals/history", HISTORY)];
    pub const EARNED: &[Field] = &[LIMIT, cursor_field!("r1", "/agents/{type}/events", REPUTATION)];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let query = Self { limit: limit(&mut form), cursor: form.text("cursor") };
        form.done().map(|()| query)
    }
}

/// `GET /tasks`.
#[derive(Clone, Debug)]
pub struct TaskQuery {
    pub filter: TaskFilter,
    pub limit: usize,
    pub cursor: Option<String>,
    pub wait: Duration,
}

impl TaskQuery {
    pub const FIELDS: &[Field] = &[
        Field::optional(
            "status",
            FieldType::Choice(Status::SPELLINGS),
            "Only tasks with this status.",
        ),
        Field::optional(
            "assigned_to",
            FieldType::Choice(Agent::SPELLINGS),
            "Only this agent's tasks.",
        ),
        Field::optional("agent", FieldType::Choice(Agent::SPELLINGS), "The same as `assigned_to`."),
        Field::optional("type", FieldType::Choice(TaskType::SPELLINGS), "Only tasks of this type."),
        Field::optional(
            "priority",
            FieldType::Choice(Priority::SPELLINGS),
            "Only tasks of this priority.",
        ),
        Field::optional("source", line(64), "Only tasks from this source."),
        Field::optional("parent_task_id", ANY_ID, "Only children of this task."),
        Field::optional("parent", ANY_ID, "The same as `parent_task_id`."),
        LIMIT,
        cursor_field!("t1", "/tasks", TASKS),
        WAIT,
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let agent = form.choice("assigned_to", Agent::parse);
        let agent = form.choice("agent", Agent::parse).or(agent);
        let status = form.choice("status", Status::parse);
        let waits = form.int("wait");
        let parent = form.parsed("parent_task_id", TaskId::parse);
        let filter = TaskFilter {
            created_from: None,
            // External workers search for work with such a query.
            claimable: waits.is_some() && agent.is_some() && status == Some(Status::Assigned),
            not_built: false,
            status,
            agent,
            task_type: form.choice("type", TaskType::parse),
            priority: form.choice("priority", Priority::parse),
            source: form.text("source"),
            parent: form.parsed("parent", TaskId::parse).or(parent),
        };
        let query = Self {
            filter,
            limit: limit(&mut form),
            cursor: form.text("cursor"),
            wait: Duration::from_secs(waits.unwrap_or_default()),
        };
        form.done().map(|()| query)
    }
}

/// `GET /tasks/{id}/timeline`.
#[derive(Clone, Debug)]
pub struct TimelineQuery {
    pub cursor: Option<String>,
}

impl TimelineQuery {
    pub const FIELDS: &[Field] = &[cursor_field!("l1", "/tasks/{id}/timeline", TIMELINE)];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let query = Self { cursor: form.text("cursor") };
        form.done().map(|()| query)
    }
}

/// `GET /tasks/{id}`, which may wait until the task has changed.
#[derive(Clone, Copy, Debug)]
pub struct WatchQuery {
    pub version: Option<u64>,
    pub wait: Duration,
}

impl WatchQuery {
    pub const FIELDS: &[Field] = &[
        WAIT,
        Field::optional(
            "version",
            FieldType::Int { least: 0, most: 9_007_199_254_740_991 },
            "Wait until the task's version is greater than this; default: its current version.",
        ),
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let query = Self { version: form.int("version"), wait: wait(&mut form) };
        form.done().map(|()| query)
    }
}

/// `GET /events`.
#[derive(Clone, Debug)]
pub struct EventQuery {
    pub filter: EventFilter,
    pub limit: usize,
    pub cursor: Option<String>,
    pub after: Option<EventId>,
    pub wait: Duration,
}

const TYPE_OR_GROUP: FieldType = FieldType::Word {
    pattern: "^[a-z][a-z0-9_]*\\.([a-z][a-z0-9_]*)?$",
    most: 64,
    fits: is_type_or_group,
    like: "an event type such as deploy.started, or a group with its dot such as deploy.",
};

fn is_type_or_group(text: &str) -> bool {
    let word = |w: &str| {
        w.starts_with(|c: char| c.is_ascii_lowercase())
            && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.split_once('.').is_some_and(|(noun, verb)| word(noun) && (verb.is_empty() || word(verb)))
}

impl EventQuery {
    pub const FIELDS: &[Field] = &[
        Field::optional(
            "type",
            TYPE_OR_GROUP,
            "Only events of this type, or of a group such as `task.`.",
        ),
        Field::optional("event_type", TYPE_OR_GROUP, "The same as `type`."),
        Field::optional("task_id", ANY_ID, "Only events about this task."),
        Field::optional(
            "after",
            ANY_ID,
            "Only events recorded after this one, oldest first, for followers.",
        ),
        LIMIT,
        cursor_field!("e1|f1", "/events", EVENTS, FOLLOWED),
        WAIT,
    ];

    pub fn read(mut form: Form) -> Result<Self, BadForm> {
        let event_type = form.text("event_type");
        let filter = EventFilter {
            event_type: form.text("type").or(event_type),
            task_id: form.parsed("task_id", TaskId::parse),
        };
        let query = Self {
            filter,
            limit: limit(&mut form),
            cursor: form.text("cursor"),
            after: form.parsed("after", EventId::parse),
            wait: wait(&mut form),
        };
        form.done().map(|()| query)
    }
}
