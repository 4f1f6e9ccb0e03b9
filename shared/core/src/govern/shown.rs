use serde_json::{Map, Value, json};

use crate::decide::canonical_hash;
use crate::domain::TaskType;
use crate::redact;

/// Bytes of JSON up to which a payload is shown whole; a larger one is shown by its size and
/// its hash.
const WHOLE: usize = 16 * 1024;

/// What an approver is shown, and its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub document: Map<String, Value>,
    /// SHA-256, hex, of the document in canonical JSON.
    pub hash: String,
}

/// What an approver is shown of a task: exactly this is hashed. Secrets are hidden in it, so
/// a hash of the whole payload stands beside them: another secret is another document. It is
/// taken over a salt too, which nobody is shown: a short secret can't be guessed by it.
pub fn shown(
    task_type: TaskType,
    payload: &Map<String, Value>,
    plan: &Map<String, Value>,
    salt: &str,
) -> Shown {
    let mut plan = plan.clone();
    redact::object(&mut plan);
    let mut document = Map::new();
    document.insert("type".into(), json!(task_type));
    document.insert("target".into(), Value::Object(target(&plan, payload)));
    let bytes = serde_json::to_vec(payload).expect("a JSON object can be written");
    let shown_payload = if bytes.len() <= WHOLE {
        let mut payload = payload.clone();
        redact::object(&mut payload);
        Value::Object(payload)
    } else {
        json!({ "bytes": bytes.len() })
    };
    document.insert("payload".into(), shown_payload);
    let whole = canonical_hash(&json!([salt, payload]));
    document.insert("payload_sha256".into(), Value::from(whole));
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
