//! Reads fields of a payload or plan. Invalid values are refused with the field's name and
//! value.

use std::time::Duration;

use super::{Timestamp, parse_span};
use serde_json::{Map, Value};

use watchbill_redact as redact;

/// Why a task can't be planned or a plan can't be run. The text is for the person who created
/// it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub message: String,
}

impl Refusal {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    pub fn missing(path: &str, what: &str) -> Self {
        Self::new(format!("{path} is missing: give {what}"))
    }

    pub fn wrong(path: &str, value: &Value, needed: &str) -> Self {
        let mut shown = value.clone();
        redact::value(&mut shown);
        Self::new(format!(
            "{path} is {}, but it must be {needed}",
            redact::shortened(&shown.to_string(), 120)
        ))
    }
}

/// An object and the name that error messages use for it.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub path: &'a str,
}

impl<'a> Fields<'a> {
    pub fn payload(map: &'a Map<String, Value>) -> Self {
        Self { map, path: "payload" }
    }

    pub fn at(self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    pub fn get(self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A non-empty text. An empty one counts as absent.
    pub fn text(self, name: &str) -> Result<Option<&'a str>, Refusal> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
            Some(other) => Err(Refusal::wrong(&self.at(name), other, "a string")),
        }
    }

    /// Like [`text`](Self::text), with at most `most` characters.
    pub fn bounded(self, name: &str, most: usize) -> Result<Option<String>, Refusal> {
        match self.text(name)? {
            Some(text) if text.chars().count() > most => Err(Refusal::new(format!(
                "{} has {} characters; the maximum is {most}",
                self.at(name),
                text.chars().count()
            ))),
            text => Ok(text.map(str::to_owned)),
        }
    }

    /// A text or a list of texts.
    pub fn texts(self, name: &str) -> Result<Vec<String>, Refusal> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.trim().to_owned()]),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| {
                    item.as_str()
                        .map(|text| text.trim().to_owned())
                        .ok_or_else(|| Refusal::wrong(&self.at(name), item, "a list of strings"))
                })
                .collect(),
            Some(other) => {
                Err(Refusal::wrong(&self.at(name), other, "a string or a list of strings"))
            }
        }
    }

    /// A duration: a number of seconds, or `5s`, `500ms`, `2 minutes`.
    pub fn span(self, name: &str) -> Result<Option<Duration>, Refusal> {
        let parsed = match self.get(name) {
            None => return Ok(None),
            Some(Value::String(text)) => parse_span(text).ok(),
            Some(Value::Number(n)) => {
                n.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            }
            Some(_) => None,
        };
        let value = self.map.get(name).unwrap_or(&Value::Null);
        parsed.map(Some).ok_or_else(|| {
            Refusal::wrong(&self.at(name), value, "a duration such as 5, '5s' or '2 minutes'")
        })
    }

    pub fn time(self, name: &str) -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        Timestamp::parse(text)
            .map(Some)
            .map_err(|e| Refusal::new(format!("{}: {e}", self.at(name))))
    }
}
