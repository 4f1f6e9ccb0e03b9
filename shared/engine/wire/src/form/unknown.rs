//! Refuses unknown body fields and suggests the name that may have been meant.

use serde_json::{Map, Value};

use super::{Brief, Field, FieldError};

/// Maximum number of unknown fields that are reported individually. Further ones are counted.
const MAX_NAMED: usize = 8;
/// Longer names than this can't be misspellings of a known field.
const MAX_NAME: usize = 64;

/// Errors of what remains of a body once its known fields are taken out. Response-only fields
/// are among it; they are not read, but obey the bounds of any JSON value.
pub(super) fn errors(fields: &[Field], left: &Map<String, Value>) -> Vec<FieldError> {
    let shown = fields.iter().filter(|field| field.kind.is_shown_only());
    let beyond = shown.filter(|field| left.get(field.name).is_some_and(is_beyond_64_bits));
    let mut errors: Vec<_> = beyond.map(beyond_64_bits).collect();
    errors.extend(unknown(fields, left));
    errors
}

/// Applies the bounds of the schema of any JSON value; see
/// [`json_value_schema`](super::json_value_schema).
fn is_beyond_64_bits(value: &Value) -> bool {
    match value {
        Value::Number(number) if number.is_u64() || number.is_i64() => false,
        Value::Number(number) => {
            number.as_f64().is_none_or(|n| n >= u64::MAX as f64 || n < i64::MIN as f64)
        }
        Value::Array(values) => values.iter().any(is_beyond_64_bits),
        Value::Object(map) => map.values().any(is_beyond_64_bits),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fn beyond_64_bits(field: &Field) -> FieldError {
    let name = field.name;
    let message =
        format!("'{name}' contains a number beyond 64 bits: leave the field out, it is ignored");
    FieldError { field: name.to_owned(), message }
}

fn unknown(fields: &[Field], left: &Map<String, Value>) -> Vec<FieldError> {
    let is_known = |name: &str| fields.iter().any(|field| field.name == name);
    let mut unknown: Vec<_> = left.keys().filter(|name| !is_known(name)).collect();
    // Sorted, so that the result does not depend on the order of the map.
    unknown.sort_unstable();
    let more = unknown.len().saturating_sub(MAX_NAMED);
    unknown.truncate(MAX_NAMED);
    let mut errors: Vec<_> = unknown.into_iter().map(|name| error(fields, name)).collect();
    if let (Some(last), 1..) = (errors.last_mut(), more) {
        last.message.push_str(&format!("; and {more} more fields are unknown"));
    }
    errors
}

fn error(fields: &[Field], name: &str) -> FieldError {
    let shown = Brief(name).to_string();
    let message = match nearest(fields, name) {
        Some(nearest) => format!("'{shown}' is not known here: do you mean '{nearest}'?"),
        None => {
            let sent = fields.iter().filter(|field| !field.kind.is_shown_only());
            let known: Vec<_> = sent.map(|field| field.name).collect();
            format!("'{shown}' is not known here: leave it out, or use one of {}", known.join(", "))
        }
    };
    FieldError { field: shown, message }
}

/// The known name with the fewest edits to `name`, if it is close enough to be meant.
fn nearest(fields: &[Field], name: &str) -> Option<&'static str> {
    if name.len() > MAX_NAME {
        return None;
    }
    let plain = |name: &str| {
        let letters = name.chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect::<Vec<char>>()
    };
    let given = plain(name);
    let sent = fields.iter().filter(|field| !field.kind.is_shown_only());
    let found = sent.map(|field| {
        let known = plain(field.name);
        let near = distance(&given, &known);
        // `task` and `trace` for `task_id` and `trace_id`, `max_retry` for `max_retries`.
        let begins = given.len() >= 4 && known.starts_with(&given);
        (if begins { near.min(1) } else { near }, known.len(), field.name)
    });
    let (near, length, name) = found.min()?;
    (near <= length / 3).then_some(name)
}

/// Levenshtein distance: the number of insertions, deletions and changes.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use crate::{CreateTask, SetLimits};

    use super::*;

    #[test]
    fn distances_are_those_of_letters() {
        let letters = |text: &str| text.chars().collect::<Vec<_>>();
        for (one, other, wanted) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(&letters(one), &letters(other)), wanted, "{one} {other}");
            assert_eq!(distance(&letters(other), &letters(one)), wanted, "{other} {one}");
        }
    }

    #[test]
    fn a_misspelt_name_is_recognised() {
        for (given, wanted) in [
            ("priorty", Some("priority")),
            ("Priority", Some("priority")),
            ("sla-target", Some("sla_target")),
            ("slaDeadline", Some("sla_deadline")),
            ("parent_task", Some("parent_task_id")),
            ("max_retry", Some("max_retries")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(CreateTask::FIELDS, given), wanted, "{given}");
        }
        assert_eq!(nearest(SetLimits::FIELDS, "day_token"), Some("day_tokens"));
        assert_eq!(nearest(SetLimits::FIELDS, "daily_usd"), Some("day_usd"));
    }
}
