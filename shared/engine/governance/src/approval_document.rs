//! The approval document of a task: everything that a run of it reads, and the plan. Exactly
//! this document is hashed, so that an approval covers this and nothing else.

use serde_json::{Map, Value, json};
use watchbill_domain::{Task, canonical_hash};
use watchbill_redact as redact;

use super::excerpt::excerpt;

/// An approval document and its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct ApprovalDocument {
    pub document: Map<String, Value>,
    /// SHA-256, hex, of the document in canonical JSON.
    pub hash: String,
}

/// Builds the approval document of a task. It hides secrets and cuts large values. It therefore
/// contains hashes of the whole payload and the whole metadata: another secret, or another end
/// of a long text, gives another document. These hashes include a salt that is shown to no one,
/// so that a short secret can't be guessed from its hash.
pub fn approval_document(
    task: &Task,
    payload: &Map<String, Value>,
    plan: &Map<String, Value>,
    salt: &str,
) -> ApprovalDocument {
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
    ApprovalDocument { document, hash }
}

/// The target, as far as fields name it.
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
