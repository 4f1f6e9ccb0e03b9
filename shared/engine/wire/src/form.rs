//! Reading what clients send, strictly and with good words: a wrong type or an unknown value
//! names the field, the value and what is known; all fields are read before the answer, so a
//! client learns of every fault at once. A body's fields that its table has not are refused; of a
//! query, and of what comes over a bus, they are passed over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watchbill_domain::{Timestamp, UnknownName, is_reserved_name};
use watchbill_redact as redact;

use crate::exact::check_numbers;

mod schema;
mod unknown;

pub use schema::{JSON_VALUE, Plain, field_schema, json_value_schema, object_schema};

/// How deep payloads and metadata may nest. The JSON reader stops at 128; what is stored
/// wraps them in a few levels more and must stay readable.
pub const MAX_DEPTH: usize = 64;

/// One field of a body, or one parameter of a query.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// A name that Watchbill itself acts under is refused.
    pub unreserved: bool,
    pub doc: &'static str,
}

impl Field {
    pub const fn needed(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: true, unreserved: false, doc }
    }

    pub const fn maybe(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: false, unreserved: false, doc }
    }

    /// The same for the name of a caller.
    pub const fn unreserved(self) -> Self {
        Self { unreserved: true, ..self }
    }
}

/// What a field must be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// 1 to `most` characters without control characters; with `lines` 0 to `most` of any
    /// kind, of which control characters other than line ends and tabs are left out.
    Text {
        most: usize,
        lines: bool,
    },
    /// A text of this form. `fits` and `pattern` (ECMA 262) say the same.
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
    /// An object of these fields.
    Form(&'static [Field]),
    /// A part of the form in which the thing is shown, of any kind: taken so that what was read
    /// can be sent back, and passed over.
    Shown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    pub field: String,
    pub message: String,
}

/// Why a form was not taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadForm {
    #[error("{0}")]
    Syntax(String),
    #[error("{}", joined(.0))]
    Fields(Vec<FieldError>),
    #[error("{what} has {bytes} bytes, {most} are the most")]
    TooLarge { what: &'static str, bytes: usize, most: usize },
}

fn joined(errors: &[FieldError]) -> String {
    errors.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// A body or query on its way to a typed request.
pub struct Form {
    fields: &'static [Field],
    map: Map<String, Value>,
    /// Whether fields that are not in the table are a fault.
    strict: bool,
    /// Bytes of the whole, zero if not known: what is smaller as a whole needs no measuring.
    size: usize,
    errors: Vec<FieldError>,
    too_large: Option<BadForm>,
}

impl Form {
    pub fn from_json(fields: &'static [Field], body: &[u8]) -> Result<Self, BadForm> {
        if let Some(coding) = not_plain(body) {
            return Err(BadForm::Syntax(format!("the body {coding}: send JSON in UTF-8 as it is")));
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

    /// A query string's pairs, decoded. Numbers come as text there.
    pub fn from_query(
        fields: &'static [Field],
        pairs: impl Iterator<Item = (String, String)>,
    ) -> Self {
        let mut form = Self::from_object(fields, Map::new());
        for (name, value) in pairs {
            let Some(field) = fields.iter().find(|field| field.name == name) else { continue };
            let value = match (field.kind, value.parse::<u64>()) {
                (Kind::Int { .. }, Ok(n)) if plain_number(&value) => Value::from(n),
                _ => Value::from(value),
            };
            if form.map.insert(name, value).is_some() {
                form.fault(field.name, format!("'{}' is given more than once", field.name));
            }
        }
        form
    }

    /// Puts a value that came another way.
    pub fn set(&mut self, name: &'static str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// Notes that a field is wrong.
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

    /// A field of kind `Text`, `Word` or `Choice`.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        let (field, value) = self.take(name)?;
        match value {
            Value::String(text) if field.unreserved && is_reserved_name(&text) => {
                let said = "is a name under which Watchbill itself acts: choose another";
                self.fault(name, format!("'{name}' {said}"));
                None
            }
            Value::String(text) if field.kind.fits_text(&text) => {
                // Only texts of several lines can hold any: a worker's output, say, with colours.
                // They go as a whole: what is left of a sequence would keep a secret from being
                // recognised.
                Some(redact::without_controls(&text).into_owned())
            }
            other => {
                self.wrong(field, &other);
                None
            }
        }
    }

    /// A text that a domain type parses.
    pub fn parsed<T, E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|error| self.fault(name, error.to_string())).ok()
    }

    /// A name out of a set; the message lists the set.
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
        if let Kind::Object { most } = field.kind {
            // Written out again, JSON grows at most sixfold (1e15 becomes sixteen digits and
            // a fraction), so a small body needs no second look.
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
        let Kind::Int { least, most } = field.kind else { return None };
        // 5.0 is an integer to JSON Schema.
        let float = || value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=1e15).contains(f));
        match value.as_u64().or_else(|| float().map(|f| f as u64)) {
            Some(n) if (least..=most).contains(&n) => Some(n),
            _ => {
                self.wrong(field, &value);
                None
            }
        }
    }

    /// Dollars as millionths of one, rounded.
    pub fn micro_dollars(&mut self, name: &'static str) -> Option<u64> {
        let (field, value) = self.take(name)?;
        let Kind::Dollars { most } = field.kind else { return None };
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

    /// A span as the caller wrote it; seconds come as their number.
    pub fn span(&mut self, name: &'static str) -> Option<String> {
        let (field, value) = self.take(name)?;
        match &value {
            Value::String(text) if schema::is_span(text) => Some(text.clone()),
            Value::Number(n)
                if n.as_f64().is_some_and(|s| (1.0..=schema::MOST_SECONDS).contains(&s)) =>
            {
                Some(n.to_string())
            }
            _ => {
                self.wrong(field, &value);
                None
            }
        }
    }

    /// What `read` makes of an object within the body.
    pub fn nested<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Form) -> T,
    ) -> Option<T> {
        let (field, value) = self.take(name)?;
        let Kind::Form(fields) = field.kind else { return None };
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

    /// Ends the reading: every fault found, or nothing.
    pub fn done(mut self) -> Result<(), BadForm> {
        self.refuse_unknown();
        match self.too_large {
            _ if !self.errors.is_empty() => Err(BadForm::Fields(self.errors)),
            Some(too_large) => Err(too_large),
            None => Ok(()),
        }
    }
}

/// What a body is that no JSON begins so, as far as its first bytes tell.
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

/// Digits only: `+5` and `05` are not numbers to JSON Schema either.
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
    serde_json::to_writer(&mut count, map).expect("a map with text keys can be written");
    count.0
}

/// A value in an error message: enough to recognise it, never a whole body.
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
        // Cut only after, so that no half of a secret is left.
        let clean = redact::text(self.0);
        for c in clean.chars().take(64) {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        if clean.chars().nth(64).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
