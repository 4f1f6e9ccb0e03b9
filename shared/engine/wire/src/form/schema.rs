//! The field tables as JSON Schema (2020-12, as in OpenAPI 3.1) and as text for error messages.

use serde_json::{Value, json};
use watchbill_domain::reserved_pattern;

use super::{Field, FieldType};

/// No control characters (category Cc).
const NO_CONTROL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

const SPAN: &str = "^([1-9][0-9]{0,6}|[1-9][0-9]{0,4} ?(s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days)|[1-9][0-9]{0,4}h ?[1-9][0-9]{0,4}m)$";
/// Name of the schema component for any JSON value; see [`json_value_schema`].
pub const JSON_VALUE: &str = "JsonValue";

/// About 115 days.
pub(super) const MAX_SECONDS: f64 = 9_999_999.0;

/// Whether the schema describes a parameter (no null, a single text) or a body field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    Parameter,
    BodyField,
}

impl FieldType {
    /// What to send, for error messages.
    pub(super) fn wanted(self) -> String {
        match self {
            FieldType::Text { most, lines: false } => {
                format!("send a string of 1 to {most} characters without control characters")
            }
            FieldType::Text { most, lines: true } => {
                format!("send a string of at most {most} characters")
            }
            FieldType::Word { like, .. } => format!("send {like}"),
            FieldType::Choice(names) => format!("use one of {}", names.join(", ")),
            FieldType::Object { .. } => "send a JSON object".into(),
            FieldType::Int { least, most } => format!("send a whole number from {least} to {most}"),
            FieldType::Dollars { most } => {
                format!("send US dollars from 0 to {most}, such as 2.50")
            }
            FieldType::Time => "send an RFC 3339 time such as 2026-01-31T08:00:00Z".into(),
            FieldType::Span => {
                "send seconds (1 to 9999999) or a string such as '45s', '15m', '8h', \
                           '1h 30m' or '2d'"
                    .into()
            }
            FieldType::Form(_) => "send a JSON object".into(),
            FieldType::ResponseOnly => "leave it out".into(),
        }
    }

    /// Whether the field only appears in responses, so that no client needs to send it.
    pub(super) fn is_shown_only(self) -> bool {
        matches!(self, FieldType::ResponseOnly)
    }

    pub(super) fn fits_text(self, text: &str) -> bool {
        match self {
            FieldType::Text { most, lines: true } => text.chars().count() <= most,
            FieldType::Text { most, lines: false } => {
                (1..=most).contains(&text.chars().count()) && !text.contains(char::is_control)
            }
            FieldType::Word { most, fits, .. } => text.chars().count() <= most && fits(text),
            FieldType::Choice(names) => names.contains(&text),
            FieldType::Object { .. }
            | FieldType::Int { .. }
            | FieldType::Dollars { .. }
            | FieldType::Time
            | FieldType::Span
            | FieldType::Form(_)
            | FieldType::ResponseOnly => false,
        }
    }
}

/// `15m`, `8 hours`, `1h 30m`, or seconds. Must agree with [`SPAN`].
pub(super) fn is_span(text: &str) -> bool {
    const UNITS: &[&str] = &[
        "s", "sec", "secs", "second", "seconds", "m", "min", "mins", "minute", "minutes", "h",
        "hr", "hrs", "hour", "hours", "d", "day", "days",
    ];
    let number = |n: &str, most: usize| {
        (1..=most).contains(&n.len())
            && n.bytes().all(|b| b.is_ascii_digit())
            && !n.starts_with('0')
    };
    if number(text, 7) {
        return true;
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, rest) = text.split_at(digits);
    let minutes = |rest: &str| {
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        rest.strip_suffix('m').is_some_and(|n| number(n, 5))
    };
    number(count, 5)
        && (UNITS.contains(&rest.strip_prefix(' ').unwrap_or(rest))
            || rest.strip_prefix('h').is_some_and(minutes))
}

pub fn field_schema(field: &Field, plain: Plain) -> Value {
    let mut schema = match field.kind {
        FieldType::Text { most, lines: true } => json!({ "type": "string", "maxLength": most }),
        FieldType::Text { most, lines: false } => json!({
            "type": "string", "minLength": 1, "maxLength": most, "pattern": NO_CONTROL
        }),
        FieldType::Word { pattern, most, .. } => {
            json!({ "type": "string", "minLength": 1, "maxLength": most, "pattern": pattern })
        }
        FieldType::Choice(names) => json!({ "type": "string", "enum": names }),
        FieldType::Object { .. } => {
            json!({ "type": "object", "additionalProperties": any_value() })
        }
        FieldType::Int { least, most } => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        FieldType::Dollars { most } => json!({ "type": "number", "minimum": 0, "maximum": most }),
        FieldType::Time => json!({ "type": "string", "format": "date-time" }),
        FieldType::Span => json!({ "anyOf": [
            { "type": "string", "pattern": SPAN },
            { "type": "number", "minimum": 1, "maximum": MAX_SECONDS }
        ] }),
        FieldType::Form(fields) => object_schema(fields),
        FieldType::ResponseOnly => any_value(),
    };
    if field.unreserved {
        schema["not"] = json!({ "type": "string", "pattern": reserved_pattern() });
    }
    if plain == Plain::BodyField && !field.required {
        if let Some(Value::Array(names)) = schema.get_mut("enum") {
            names.push(Value::Null);
        }
        if let Some(Value::Array(kinds)) = schema.get_mut("anyOf") {
            kinds.push(json!({ "type": "null" }));
        }
        if let Some(kind) = schema.get_mut("type") {
            *kind = json!([kind.take(), "null"]);
        }
    }
    schema["description"] = field.doc.into();
    schema
}

fn any_value() -> Value {
    json!({ "$ref": format!("#/components/schemas/{JSON_VALUE}") })
}

/// Any JSON value whose numbers are exact. The reader also accepts some numbers beyond 64 bits
/// with an exponent (`1e300`); JSON Schema can't tell the spellings of a number apart.
pub fn json_value_schema() -> Value {
    json!({
        "description": "Any JSON value. Integers must fit into 64 bits, and fractions into a \
                        double; write longer numbers as strings.",
        "type": ["null", "boolean", "number", "string", "array", "object"],
        "minimum": i64::MIN,
        "maximum": u64::MAX,
        "items": any_value(),
        "additionalProperties": any_value(),
    })
}

/// A body with these fields and no others.
pub fn object_schema(fields: &[Field]) -> Value {
    let properties: serde_json::Map<String, Value> = fields
        .iter()
        .map(|field| (field.name.to_owned(), field_schema(field, Plain::BodyField)))
        .collect();
    let required: Vec<_> = fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    let mut schema = json!({
        "type": "object", "properties": properties, "additionalProperties": false
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}
