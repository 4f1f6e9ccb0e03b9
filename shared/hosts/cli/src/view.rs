//! Reads the server's JSON leniently: every field may be absent, and unknown fields are ignored.

use serde_json::Value;
use watchbill_domain::Timestamp;

use super::text::line;

/// A field as one line of text: numbers as written, booleans as yes or no, else empty.
pub fn text(value: &Value, field: &str) -> String {
    scalar(&value[field]).unwrap_or_default()
}

/// A value that fits on one line. `None` for null, lists and objects.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(line(text)),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The first of these fields that is not empty.
pub fn first(value: &Value, fields: &[&str]) -> String {
    fields.iter().map(|field| text(value, field)).find(|t| !t.is_empty()).unwrap_or_default()
}

pub fn time(value: &Value, field: &str) -> Option<Timestamp> {
    Timestamp::parse(value[field].as_str()?).ok()
}

pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A one-line title of a task: its own description, else what its type acts on.
pub fn title(task: &Value) -> String {
    let payload = &task["payload"];
    let own = first(payload, &["description", "title", "question", "summary"]);
    if !own.is_empty() {
        return own;
    }
    let field = |name| text(payload, name);
    match task["type"].as_str().unwrap_or_default() {
        "deploy" if !field("project").is_empty() => match field("environment") {
            environment if environment.is_empty() => format!("deploy {}", field("project")),
            environment => format!("deploy {} to {environment}", field("project")),
        },
        _ => first(payload, &["service", "issue", "alert_type", "project", "repo", "url"]),
    }
}

/// `key value · key value`: the plain fields of an object on one line.
pub fn pairs(value: &Value) -> String {
    let fields = value.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        fields.filter_map(|(key, v)| Some(format!("{} {}", line(key), scalar(v)?))).collect();
    pairs.join(" · ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn titles_describe_the_task() {
        for (task, expected) in [
            (json!({"type":"faq","payload":{"question":"How?\nNow"}}), "How? Now"),
            (
                json!({"type":"deploy","payload":{"project":"web","environment":"staging"}}),
                "deploy web to staging",
            ),
            (json!({"type":"deploy","payload":{"project":"web"}}), "deploy web"),
            (json!({"type":"monitor","payload":{"service":"api"}}), "api"),
            (json!({"type":"new_kind"}), ""),
            (json!("nonsense"), ""),
        ] {
            assert_eq!(title(&task), expected);
        }
    }
}
