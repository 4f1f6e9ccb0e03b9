//! What the orchestrator's workers report about our tasks.

use serde_json::{Map, Value};
use watchbill_domain::Status;
use watchbill_wire::legacy::WorkerUpdate;
use watchbill_wire::with_exact_numbers;

/// Reads `data` and `status` of a task; data that is no JSON object reports nothing.
pub fn read_word(data: &str, status: &str) -> WorkerUpdate {
    let task: Map<String, Value> =
        serde_json::from_str(&with_exact_numbers(data)).unwrap_or_default();
    let text = |name: &str| task.get(name).and_then(Value::as_str).map(str::to_owned);
    let result = match task.get("metadata").and_then(|metadata| metadata.get("result")) {
        Some(Value::Object(result)) => Some(result.clone()),
        None | Some(Value::Null) => None,
        Some(other) => Some(Map::from_iter([("value".to_owned(), other.clone())])),
    };
    WorkerUpdate::Report {
        status: Status::parse(status).unwrap_or(Status::Assigned),
        assigned_to: text("assigned_to").unwrap_or_default(),
        error: text("error"),
        result,
    }
}
