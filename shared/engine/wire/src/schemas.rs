//! JSON schemas of domain types within responses.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use watchbill_domain::{Agent, Priority, Status, TaskType};

fn one_of<T: Copy>(all: &[T], text: impl Fn(T) -> &'static str) -> Schema {
    let names: Vec<_> = all.iter().map(|one| text(*one)).collect();
    json_schema!({ "type": "string", "enum": names })
}

pub fn task_type(_: &mut SchemaGenerator) -> Schema {
    one_of(TaskType::ALL, TaskType::as_str)
}

pub fn priority(_: &mut SchemaGenerator) -> Schema {
    one_of(Priority::ALL, Priority::as_str)
}

fn optional_one_of<T: Copy>(all: &[T], text: impl Fn(T) -> &'static str) -> Schema {
    let mut names: Vec<_> = all.iter().map(|one| Value::from(text(*one))).collect();
    names.push(Value::Null);
    json_schema!({ "type": ["string", "null"], "enum": names })
}

pub fn optional_task_type(_: &mut SchemaGenerator) -> Schema {
    optional_one_of(TaskType::ALL, TaskType::as_str)
}

pub fn optional_priority(_: &mut SchemaGenerator) -> Schema {
    optional_one_of(Priority::ALL, Priority::as_str)
}

pub fn status(_: &mut SchemaGenerator) -> Schema {
    one_of(Status::ALL, Status::as_str)
}

pub fn agent(_: &mut SchemaGenerator) -> Schema {
    one_of(Agent::ALL, Agent::as_str)
}

pub fn event_priority(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["critical", "high", "medium", "low"] })
}

pub fn approval_status(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "enum": ["pending", "approved", "rejected", "expired", "cancelled"]
    })
}

pub fn role(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["admin", "agent", "approver", "user", "operator"] })
}

pub fn id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1 })
}

pub fn ids(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string" } })
}

pub fn optional_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"] })
}

pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "date-time" })
}

pub fn optional_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "null"], "format": "date-time" })
}
