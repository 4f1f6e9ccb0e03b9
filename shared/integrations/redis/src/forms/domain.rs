//! Messages and results of the domain network.

use serde_json::{Map, Value, json};
use watchbill_domain::{MAX_SPAN, Priority, Status, TaskLimits, TaskType, Timestamp, parse_span};
use watchbill_redact as redact;
use watchbill_wire::legacy::{DomainTask, legacy_id, mark};
use watchbill_wire::{CreateTask, METADATA_LIMIT, TaskView, with_exact_numbers};

use super::{VIA, iso};

/// Prefix of the domain's name in the mark of its tasks.
const DOMAIN: &str = "redis:";

/// What a domain's clients see of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct DomainView {
    /// The fields of the result's hash.
    pub fields: Vec<(String, String)>,
    /// The same as JSON, once there is a result for waiting clients.
    pub publish: Option<String>,
}

/// Reads a message of a domain. A domain has one type of task.
pub fn read_domain_task(domain: &str, message: &[u8]) -> Result<DomainTask, String> {
    let text = std::str::from_utf8(message).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let map: Map<String, Value> = serde_json::from_str(&with_exact_numbers(text))
        .map_err(|error| format!("it is not a JSON object: {error}"))?;
    let text_of = |name: &str| map.get(name).and_then(Value::as_str);
    match text_of("type") {
        None | Some("task_assignment") => {}
        Some(other) => return Err(format!("its type is '{other}', not task_assignment")),
    }
    let id = text_of("task_id").ok_or("it has no task_id")?;
    let peer_id = id.to_owned();
    let id = legacy_id(id)?;
    let task_type = TaskType::parse(domain).map_err(|error| error.to_string())?;
    let payload = match map.get("payload") {
        Some(Value::Object(payload)) => payload.clone(),
        _ => return Err("it has no payload".to_owned()),
    };
    sized("payload", &payload, TaskLimits::PAYLOAD)?;
    let theirs = map.get("metadata").and_then(Value::as_object);
    let of = |name: &str| theirs.and_then(|metadata| metadata.get(name));
    let priority = match of("priority").and_then(Value::as_str) {
        None | Some("normal") => Priority::P2,
        Some("low") => Priority::P3,
        Some("high") => Priority::P1,
        Some(other) => return Err(format!("its priority is '{other}': use low, normal or high")),
    };
    let timeout = of("timeout_seconds").and_then(Value::as_f64).map(|seconds| seconds.to_string());
    let timeout = timeout
        .filter(|text| parse_span(text).is_ok_and(|span| span.as_secs() >= 1 && span <= MAX_SPAN));
    let mut metadata = theirs.cloned().unwrap_or_default();
    sized("metadata", &metadata, METADATA_LIMIT)?;
    metadata.remove("result");
    metadata.insert(VIA.into(), format!("{DOMAIN}{domain}").into());
    mark(&mut metadata, &peer_id);
    let source = text_of("source").filter(|source| !source.is_empty() && source.len() <= 64);
    let task = CreateTask {
        task_type,
        priority,
        source: source.unwrap_or("system").to_owned(),
        payload,
        metadata,
        // Clients wait no longer than this.
        sla_target: timeout,
        sla_deadline: None,
        parent: None,
        max_retries: None,
    };
    Ok(DomainTask { id, peer_id, task })
}

fn sized(name: &str, object: &Map<String, Value>, most: usize) -> Result<(), String> {
    let bytes = serde_json::to_vec(object).map_or(usize::MAX, |json| json.len());
    match bytes > most {
        true => Err(format!("its {name} has {bytes} bytes; the maximum is {most}")),
        false => Ok(()),
    }
}

/// The domain from whose list a task came, if any.
pub(super) fn domain_of(view: &TaskView) -> Option<&str> {
    view.metadata.get(VIA)?.as_str()?.strip_prefix(DOMAIN)
}

impl DomainView {
    /// Keeps `pending` and `in_progress`. A task that has ended or waits for a person ends the
    /// clients' wait, because they check only for `completed` and `failed`.
    pub fn of(view: &TaskView, now: Timestamp) -> Self {
        let (status, output, error) = match view.status {
            Status::Pending | Status::Assigned => ("pending", None, None),
            Status::InProgress => ("in_progress", None, None),
            Status::Completed => ("completed", view.metadata.get("result").cloned(), None),
            Status::Failed => ended(view.error.clone().unwrap_or_else(|| "failed".to_owned())),
            Status::Blocked => {
                let reason = view.error.as_deref().unwrap_or("a person must decide");
                ended(format!("blocked: {reason}"))
            }
            Status::Cancelled => match &view.error {
                Some(reason) => ended(format!("cancelled: {reason}")),
                None => ended("cancelled".to_owned()),
            },
        };
        let over = matches!(status, "completed" | "failed");
        let mut fields = vec![
            ("task_id".to_owned(), view.peer_id().to_owned()),
            ("status".to_owned(), status.to_owned()),
        ];
        let mut more = |name: &str, value: Option<String>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        let output = output.or_else(|| over.then(|| json!({})));
        more("output", output.map(|output| output.to_string()));
        more("error", error);
        more("started_at", view.started_at.map(iso));
        more("completed_at", over.then(|| iso(view.completed_at.unwrap_or(now))));
        let publish = over.then(|| as_json(&fields));
        Self { fields, publish }
    }

    /// What clients see of a message that can't be imported; `None` if it does not name its
    /// task.
    pub fn of_rejected(message: &[u8], reason: &str, now: Timestamp) -> Option<(String, Self)> {
        let text = std::str::from_utf8(message).ok()?;
        let map: Map<String, Value> = serde_json::from_str(&with_exact_numbers(text)).ok()?;
        let id = map.get("task_id").and_then(Value::as_str).filter(|id| !id.is_empty())?;
        let reason = redact::shortened(reason, 500);
        let (status, output, error) = ended(format!("rejected: {reason}"));
        let more = [("output", output.map(|output| output.to_string())), ("error", error)];
        let more = more.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let all = [("task_id", id.to_owned()), ("status", status.to_owned())];
        let all = all.into_iter().chain(more).chain([("completed_at", iso(now))]);
        let fields: Vec<_> = all.map(|(name, value)| (name.to_owned(), value)).collect();
        let publish = Some(as_json(&fields));
        Some((id.to_owned(), Self { fields, publish }))
    }

    pub fn is_over(&self) -> bool {
        self.publish.is_some()
    }
}

fn as_json(fields: &[(String, String)]) -> String {
    let map: Map<String, Value> =
        fields.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    Value::Object(map).to_string()
}

type DomainEnding = (&'static str, Option<Value>, Option<String>);

/// A failed task, in the format that the domain's clients expect.
fn ended(error: String) -> DomainEnding {
    let output = json!({
        "status": "failed",
        "workers_used": [],
        "files_created": [],
        "files_modified": [],
        "summary": error,
        "issues": [error],
        "failed_workers": [],
        "deployment_info": { "image": "", "ci_pipeline": "", "deploy_target": "" },
        "details": {},
    });
    ("failed", Some(output), Some(error))
}
