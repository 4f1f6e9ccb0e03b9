//! Reads request bodies and queries strictly. Errors name the field, the value and what is
//! allowed, and all of them are reported at once. Unknown fields of a body are refused; unknown
//! fields of a query or a bus message are ignored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::{Timestamp, UnknownName, is_reserved_name};
use watchbill_redact as redact;

use crate::exact::check_numbers;

mod schema;
mod unknown;

pub use schema::{JSON_VALUE, Plain, field_schema, json_value_schema, object_schema};

/// Maximum nesting depth of payloads and metadata. The JSON reader stops at 128, and stored
/// items add a few levels.
pub const MAX_DEPTH: usize = 64;

/// One field of a body, or one parameter of a query.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldType,
    pub required: bool,
    /// Whether names are refused under which Watchbill itself acts.
    pub unreserved: bool,
    pub doc: &'static str,
}

impl Field {
    pub const fn required(name: &'static str, kind: FieldType, doc: &'static str) -> Self {
        Self { name, kind, required: true, unreserved: false, doc }
    }

    pub const fn optional(name: &'static str, kind: FieldType, doc: &'static str) -> Self {
        Self { name, kind, required: false, unreserved: false, doc }
    }

    /// Makes the field refuse reserved names. For names of callers.
    pub const fn unreserved(self) -> Self {
        Self { unreserved: true, ..self }
    }
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub enum FieldType {
    /// 1 to `most` characters without control characters. With `lines`, 0 to `most` characters
    /// of any kind; control characters other than line ends and tabs are removed.
    Text {
        most: usize,
        lines: bool,
    },
    /// A text of this form. `fits` and `pattern` (ECMA 262) must agree.
    Word {
        pattern: &'static str,
        most: usize,
        fits: fn(&str) -> bool,
        like: &'static str,
    },
    /// One of these spellings.
    Choice(&'static [&'static str]),
    /// A JSON object of at most this many bytes.
    Object {
        most: usize,
    },
    Int {
        least: u64,
        most: u64,
    },
    /// US dollars, not negative.
    Dollars {
        most: u32,
    },
    /// RFC 3339.
    Time,
    /// A number of seconds, or a text such as `15m`.
    Span,
    /// An object with these fields.
    Form(&'static [Field]),
    /// A response-only field of any type. Requests may contain it, so that a response can be
    /// sent back; its value is ignored.
    ResponseOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

/// Why a form was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadForm {
    #[error("{0}")]
    Syntax(String),
    #[error("{}", joined(.0))]
    Fields(Vec<FieldError>),
    #[error("{what} has {bytes} bytes; the maximum is {most}")]
    TooLarge { what: &'static str, bytes: usize, most: usize },
}

fn joined(errors: &[FieldError]) -> String {
    errors.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// A body or query while it is read into a typed request.
pub struct Form {
    fields: &'static [Field],
    map: Map<String, Value>,
    /// Whether fields that are not in the table are errors.
    strict: bool,
    /// Size of the body in bytes, 0 if unknown. Objects in a small body need no size check.
    size: usize,
    errors: Vec<FieldError>,
    too_large: Option<BadForm>,
}

impl Form {
    pub fn from_json(fields: &'static [Field], body: &[u8]) -> Result<Self, BadForm> {
        if let Some(coding) = not_plain(body) {
            return Err(BadForm::Syntax(format!("the body {coding}: send plain JSON in UTF-8")));
        }
        let start = body.iter().find(|b| !b.is_ascii_whitespace());
        match start {
            None => return Err(BadForm::Syntax("the body is empty: send a JSON object".into())),
            Some(b'{') => {}
            Some(_) => serde_json::from_slice::<serde::de::IgnoredAny>(body)
                .map_err(|e| BadForm::Syntax(format!("the body is not JSON: {e}")))
                .and(Err(BadForm::Syntax("the body must be a JSON object".into())))?,
        }
        let map = serde_json::from_slice(body)
            .map_err(|e| BadForm::Syntax(format!("the body is not JSON: {e}")))?;
        check_numbers(body).map_err(|inexact| {
            let message = inexact.to_string();
            BadForm::Fields(vec![FieldError { field: inexact.path, message }])
        })?;
        Ok(Self { strict: true, size: body.len(), ..Self::from_object(fields, map) })
    }

    pub fn from_object(fields: &'static [Field], map: Map<String, Value>) -> Self {
        Self { fields, map, strict: false, size: 0, errors: Vec::new(), too_large: None }
    }

    /// Reads the decoded pairs of a query string. Numbers arrive as text there.
    pub fn from_query(
        fields: &'static [Field],
        pairs: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let mut form = Self::from_object(fields, Map::new());
        for (name, value) in pairs {
            let Some(field) = fields.iter().find(|field| field.name == name) else { continue };
            let value = match (field.kind, value.parse::<u64>()) {
                (FieldType::Int { .. }, Ok(n)) if plain_number(&value) => Value::from(n),
                _ => Value::from(value),
            };
            if form.map.insert(name, value).is_some() {
                form.fault(field.name, format!("'{}' is given more than once", field.name));
            }
        }
        form
    }

    /// Sets a value that came from elsewhere in the request.
    pub fn set(&mut self, name: &'static str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Records an error of a field.
    pub fn fault(&mut self, field: &str, message: String) {
        self.errors.push(FieldError { field: field.to_owned(), message });
    }

    fn field(&self, name: &str) -> &'static Field {
        let fields = self.fields;
        fields.iter().find(|f| f.name == name).expect("a form reads only fields of its table")
    }

    fn take(&mut self, name: &'static str) -> Option<(&'static Field, Value)> {
        let field = self.field(name);
        match self.map.remove(name) {
            None | Some(Value::Null) => {
                if field.required {
                    self.fault(name, format!("'{name}' is missing: {}", field.kind.wanted()));
                }
                None
            }
            Some(value) => Some((field, value)),
        }
    }

    fn wrong(&mut self, field: &Field, value: &Value) {
        let (name, wanted) = (field.name, field.kind.wanted());
        self.fault(name, format!("'{name}' is {}: {wanted}", shown(value)));
    }

    /// Reads a field of kind `Text`, `Word` or `Choice`.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        let (field, value) = self.take(name)?;
        match value {
            Value::String(text) if field.unreserved && is_reserved_name(&text) => {
                let reserved = "is a name reserved for Watchbill: choose another";
                self.fault(name, format!("'{name}' {reserved}"));
                None
            }
            Value::String(text) if field.kind.fits_text(&text) => {
                // Only multi-line texts can contain control characters, such as a worker's
                // coloured output. Whole sequences are removed: a remainder could hide a secret
                // from redaction.
                Some(redact::without_controls(&text).into_owned())
            }
            other => {
                self.wrong(field, &other);
                None
            }
        }
    }

    /// Reads a text that a domain type parses.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|error| self.fault(name, error.to_string())).ok()
    }

    /// Reads a name out of a set. The error lists the set.
    pub fn choice<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, UnknownName>,
    ) -> Option<T> {
        let (field, value) = self.take(name)?;
        let Value::String(text) = &value else {
            self.wrong(field, &value);
            return None;
        };
        match parse(text) {
            Ok(parsed) if field.kind.fits_text(text) => Some(parsed),
            Ok(_) => {
                self.wrong(field, &value);
                None
            }
            Err(error) => {
                self.fault(name, error.to_string());
                None
            }
        }
    }

    pub fn object(&mut self, name: &'static str) -> Option<Map<String, Value>> {
        let (field, value) = self.take(name)?;
        let Value::Object(map) = value else {
            self.wrong(field, &value);
            return None;
        };
        if map.values().any(|value| too_deep(value, MAX_DEPTH - 1)) {
            self.fault(name, format!("'{name}' nests deeper than {MAX_DEPTH} levels"));
            return None;
        }
        if let FieldType::Object { most } = field.kind {
            // Serialised again, JSON grows at most sixfold (1e15 becomes sixteen digits and a
            // fraction), so a small body needs no second measurement.
            if self.size == 0 || self.size > most / 6 {
                let bytes = written_size(&map);
                if bytes > most {
                    self.too_large.get_or_insert(BadForm::TooLarge { what: name, bytes, most });
                    return None;
                }
            }
        }
        Some(map)
    }

    pub fn int(&mut self, name: &'static str) -> Option<u64> {
        let (field, value) = self.take(name)?;
        let FieldType::Int { least, most } = field.kind else { return None };
        // 5.0 is an integer in JSON Schema.
        let float = || value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=1e15).contains(f));
        match value.as_u64().or_else(|| float().map(|f| f as u64)) {
            Some(n) if (least..=most).contains(&n) => Some(n),
            _ => {
                self.wrong(field, &value);
                None
            }
        }
    }

    /// Reads dollars as micro-dollars, rounded.
    pub fn micro_dollars(&mut self, name: &'static str) -> Option<u64> {
        let (field, value) = self.take(name)?;
        let FieldType::Dollars { most } = field.kind else { return None };
        match value.as_f64().filter(|usd| (0.0..=f64::from(most)).contains(usd)) {
            Some(usd) => Some((usd * 1e6).round() as u64),
            None => {
                self.wrong(field, &value);
                None
            }
        }
    }

    pub fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let (field, value) = self.take(name)?;
        let parsed = value.as_str().filter(|t| t.len() <= 64).map(Timestamp::parse);
        match parsed {
            Some(Ok(time)) => Some(time),
            _ => {
                self.wrong(field, &value);
                None
            }
        }
    }

    /// Reads a duration as the caller wrote it. Seconds are returned as the text of their
    /// number.
    pub fn span(&mut self, name: &'static str) -> Option<String> {
        let (field, value) = self.take(name)?;
        match &value {
            Value::String(text) if schema::is_span(text) => Some(text.clone()),
            Value::Number(n)
                if n.as_f64().is_some_and(|s| (1.0..=schema::MAX_SECONDS).contains(&s)) =>
            {
                Some(n.to_string())
            }
            _ => {
                self.wrong(field, &value);
                None
            }
        }
    }

    /// Reads a nested object with `read`.
    pub fn nested<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Form) -> T,
    ) -> Option<T> {
        let (field, value) = self.take(name)?;
        let FieldType::Form(fields) = field.kind else { return None };
        let Value::Object(map) = value else {
            self.wrong(field, &value);
            return None;
        };
        let mut inner =
            Form { strict: self.strict, size: self.size, ..Self::from_object(fields, map) };
        let read = read(&mut inner);
        inner.refuse_unknown();
        self.errors.extend(inner.errors.into_iter().map(|error| FieldError {
            field: format!("{name}.{}", error.field),
            message: format!("in '{name}': {}", error.message),
        }));
        if self.too_large.is_none() {
            self.too_large = inner.too_large;
        }
        Some(read)
    }

    fn refuse_unknown(&mut self) {
        if self.strict {
            self.errors.extend(unknown::errors(self.fields, &self.map));
        }
    }

    /// Ends the reading. Returns every error found.
    pub fn done(mut self) -> Result<(), BadForm> {
        self.refuse_unknown();
        match self.too_large {
            _ if !self.errors.is_empty() => Err(BadForm::Fields(self.errors)),
            Some(too_large) => Err(too_large),
            None => Ok(()),
        }
    }
}

/// Describes a body whose first bytes show that it is not plain JSON text.
fn not_plain(body: &[u8]) -> Option<&'static str> {
    Some(match body {
        [0xef, 0xbb, 0xbf, ..] => "begins with a byte order mark (BOM)",
        [0xfe, 0xff, ..] | [0xff, 0xfe, ..] | [0, b'{', ..] | [b'{', 0, ..] => {
            "is in UTF-16 or UTF-32"
        }
        [0x1f, 0x8b, ..] => "is compressed with gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "is compressed with zstd",
        _ => return None,
    })
}

/// Digits only: `+5` and `05` are not numbers in JSON Schema either.
fn plain_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}

fn too_deep(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|v| too_deep(v, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|v| too_deep(v, levels - 1)),
        _ => false,
    }
}

fn written_size(map: &Map<String, Value>) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, map).expect("a JSON object serializes");
    count.0
}

/// A value for an error message: enough to recognise it, never a whole body.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", Brief(text)),
        Value::Number(n) => format!("the number {n}"),
        Value::Bool(b) => format!("{b}"),
        Value::Null => "null".into(),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// The first 64 characters, with control characters escaped.
struct Brief<'a>(&'a str);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Redact before cutting, so that no half of a secret remains.
        let clean = redact::text(self.0);
        for c in clean.chars().take(64) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        if clean.chars().nth(64).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
