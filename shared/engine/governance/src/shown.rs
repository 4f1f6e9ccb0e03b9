//! What an approver is shown of a task: all that a run of it reads, and the plan. Exactly this
//! document is hashed, so that an approval is for this and nothing else.

use serde_json::{Map, Value, json};
use watchbill_domain::{Task, canonical_hash};
use watchbill_redact as redact;

use super::excerpt::excerpt;

/// What an approver is shown, and its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub document: Map<String, Value>,
    /// SHA-256, hex, of the document in canonical JSON.
    pub hash: String,
}

/// What an approver is shown of a task. Secrets are hidden in it and large values cut off, so
/// hashes of the whole payload and the whole metadata stand beside them: another secret, or
/// another end of a long text, is another document. They are taken over a salt too, which
/// nobody is shown: a short secret can't be guessed by its hash.
pub fn shown(
    task: &Task,
    payload: &Map<String, Value>,
    plan: &Map<String, Value>,
    salt: &str,
) -> Shown {
    let mut plan = plan.clone();
    redact::object(&mut plan);
    let mut document = Map::new();
    document.insert("type".into(), json!(task.task_type));
    document.insert("priority".into(), json!(task.priority));
    document.insert("source".into(), Value::from(redact::text(&task.source)));
    document.insert("requested_by".into(), Value::from(redact::text(&task.created_by)));
    if !task.also_requested_by.is_empty() {
        let names = task.also_requested_by.iter().map(|name| redact::text(name).into_owned());
        document.insert("also_requested_by".into(), names.collect::<Vec<_>>().into());
    }
    if let Some(parent) = &task.parent {
        document.insert("parent_task_id".into(), json!(parent));
    }
    if let Some(sla) = &task.sla {
        let sla = json!({ "target": sla.target, "deadline": sla.deadline.to_string() });
        document.insert("sla".into(), sla);
    }
    document.insert("target".into(), Value::Object(target(&plan, payload)));
    for (name, whole) in [("payload", payload), ("metadata", &task.metadata)] {
        let excerpt = excerpt(whole);
        document.insert(name.into(), Value::Object(excerpt.shown));
        if let Some(left_out) = excerpt.left_out {
            document.insert(format!("{name}_left_out"), left_out);
        }
        let hash = canonical_hash(&json!([salt, whole]));
        document.insert(format!("{name}_sha256"), Value::from(hash));
    }
    document.insert("plan".into(), Value::Object(plan));
    let hash = canonical_hash(&Value::Object(document.clone()));
    Shown { document, hash }
}

/// What it is aimed at, as far as fields say it.
fn target(plan: &Map<String, Value>, payload: &Map<String, Value>) -> Map<String, Value> {
    const NAMES: &[&str] =
        &["project", "environment", "service", "url", "repo", "branch", "target", "host"];
    let parameters = plan.get("parameters").and_then(Value::as_object);
    let mut target = Map::new();
    for name in NAMES {
        let found = parameters.and_then(|p| p.get(*name)).or_else(|| plan.get(*name));
        if let Some(value) = found.or_else(|| payload.get(*name)) {
            target.insert((*name).to_owned(), value.clone());
        }
    }
    redact::object(&mut target);
    target
}
