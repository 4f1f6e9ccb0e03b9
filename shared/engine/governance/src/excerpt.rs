//! As much of a JSON object as a person can read: all of a small one. Of a large one the small
//! values, the beginnings of large values, and names and sizes of the rest.

use serde_json::{Map, Value, json};

use watchbill_redact as redact;

/// Bytes of JSON up to which an object is shown whole, and total size of the values of a larger
/// one that are shown whole: several screen pages.
const MAX_WHOLE: usize = 16 * 1024;
/// Characters shown of a large value, and number of such values. An approval must stay
/// readable, and its item within the limits of the stores (400 KB on DynamoDB).
const MAX_BEGINNING: usize = 1_024;
const MAX_BEGINNINGS: usize = 16;
/// Number of omitted fields that are named, and characters of each name. The rest is only
/// counted.
const MAX_NAMES: usize = 100;
const MAX_NAME: usize = 200;

/// A part of an object, without secrets.
pub(super) struct Excerpt {
    pub shown: Map<String, Value>,
    /// Fields that are not shown, or not in full: names, bytes, beginnings.
    pub left_out: Option<Value>,
}

pub(super) fn excerpt(object: &Map<String, Value>) -> Excerpt {
    let bytes = size(object);
    let mut shown = object.clone();
    redact::object(&mut shown);
    if bytes <= MAX_WHOLE {
        return Excerpt { shown, left_out: None };
    }
    // Small values first: a task's target is small, and a long text can't displace it.
    let mut fields: Vec<(usize, String, Value)> =
        shown.into_iter().map(|(name, value)| (size(&value), name, value)).collect();
    fields.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    let (mut whole, mut left_out) = (Map::new(), Vec::new());
    let mut room = MAX_WHOLE;
    for (bytes, name, value) in fields {
        let takes = bytes + name.len();
        if takes <= room {
            room -= takes;
            whole.insert(name, value);
        } else {
            left_out.push((name, value, bytes));
        }
    }
    let names: Vec<Value> = left_out
        .iter()
        .take(MAX_NAMES)
        .enumerate()
        .map(|(place, (name, value, bytes))| {
            let name = redact::shortened(name, MAX_NAME);
            match place < MAX_BEGINNINGS {
                true => json!({ "name": name, "bytes": bytes, "begins": beginning(value) }),
                false => json!({ "name": name, "bytes": bytes }),
            }
        })
        .collect();
    let mut summary = json!({ "of_bytes": bytes, "fields": names });
    if left_out.len() > MAX_NAMES {
        summary["more_fields"] = json!(left_out.len() - MAX_NAMES);
    }
    Excerpt { shown: whole, left_out: Some(summary) }
}

fn size(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).expect("a JSON value serializes").len()
}

/// The first characters of a text, or of a value's JSON. Secrets are already redacted.
fn beginning(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(MAX_BEGINNING).collect(),
        other => other.to_string().chars().take(MAX_BEGINNING).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: Value) -> Excerpt {
        excerpt(value.as_object().unwrap())
    }

    #[test]
    fn what_is_small_is_shown_whole_and_without_secrets() {
        let small = of(json!({ "project": "shop", "password": "hunter2-hunter2" }));
        assert_eq!(small.shown["project"], "shop");
        assert!(!small.shown["password"].to_string().contains("hunter2"));
        assert!(small.left_out.is_none());
    }

    #[test]
    fn of_what_is_large_the_beginning_and_the_names_are_shown() {
        let text = format!("drop the old tables first {}", "x".repeat(40_000));
        let nested = json!({ "steps": ["y".repeat(30_000)] });
        let large =
            of(json!({ "a_notes": text, "project": "shop", "nested": nested, "zone": "eu" }));
        assert_eq!(large.shown["project"], "shop");
        assert_eq!(large.shown["zone"], "eu");
        let left_out = large.left_out.unwrap();
        let fields = left_out["fields"].as_array().unwrap();
        let names: Vec<&str> = fields.iter().map(|f| f["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["nested", "a_notes"]);
        assert_eq!(fields[1]["bytes"], text.len() + 2);
        assert!(fields[1]["begins"].as_str().unwrap().starts_with("drop the old tables first"));
        assert!(fields[0]["begins"].as_str().unwrap().starts_with("{\"steps\":[\"yyy"));
    }

    #[test]
    fn it_stays_small_whatever_it_is_of() {
        let many: Map<String, Value> =
            (0..3_000).map(|n| (format!("{n}{}", "k".repeat(300)), Value::from(n))).collect();
        let one = json!({ "one": "z".repeat(190_000) }).as_object().unwrap().clone();
        let long_name = json!({ "n".repeat(190_000): 1 }).as_object().unwrap().clone();
        for object in [many, one, long_name] {
            let Excerpt { shown, left_out } = excerpt(&object);
            let bytes = size(&shown) + size(&left_out);
            assert!(bytes < 64 * 1024, "{bytes} bytes");
            let left_out = left_out.unwrap();
            let named = left_out["fields"].as_array().unwrap().len() as u64;
            let more = left_out["more_fields"].as_u64().unwrap_or(0);
            assert_eq!(shown.len() as u64 + named + more, object.len() as u64);
        }
    }
}
