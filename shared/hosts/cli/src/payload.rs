//! Reads payloads from JSON, a file, standard input, or single fields.

use std::io::Read;

use anyhow::Context as _;
use serde_json::{Map, Value};
use watchbill_wire::check_numbers;

use super::args::PayloadArgs;
use super::failure::Failure;

impl PayloadArgs {
    /// `--payload` first, then each `--set` on top of it.
    pub fn object(&self, stdin: &mut dyn Read) -> Result<Map<String, Value>, Failure> {
        let mut payload = match &self.payload {
            Some(text) => object("--payload", text, stdin)?,
            None => Map::new(),
        };
        for field in &self.set {
            set(&mut payload, field)?;
        }
        Ok(payload)
    }
}

/// Parses a JSON object: written out, from `@file`, or from standard input for `-`.
pub fn object(
    option: &str,
    text: &str,
    stdin: &mut dyn Read,
) -> Result<Map<String, Value>, Failure> {
    let (from, json) = match (text, text.strip_prefix('@')) {
        ("-", _) => {
            let mut json = String::new();
            stdin
                .read_to_string(&mut json)
                .with_context(|| format!("{option}: could not read standard input"))
                .map_err(Failure::Local)?;
            ("standard input", json)
        }
        (_, Some(path)) => {
            let json = std::fs::read_to_string(path)
                .with_context(|| format!("{option}: could not read '{path}'"))
                .map_err(Failure::Local)?;
            (path, json)
        }
        _ => ("the argument", text.to_owned()),
    };
    match serde_json::from_str(&json) {
        Ok(Value::Object(object)) => {
            check_numbers(json.as_bytes())
                .map_err(|inexact| Failure::Usage(format!("{option}: {from}: {inexact}")))?;
            Ok(object)
        }
        Ok(other) => Err(Failure::Usage(format!(
            "{option}: {from} is {}, not a JSON object such as {{\"description\": \"…\"}}",
            kind(&other)
        ))),
        Err(e) => Err(Failure::Usage(format!("{option}: {from} is not JSON: {e}"))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Sets `key=text` or `key:=JSON`. Texts stay texts: a version `1.10` must not become 1.1.
fn set(payload: &mut Map<String, Value>, field: &str) -> Result<(), Failure> {
    let wrong =
        |why: &str| Failure::Usage(format!("--set '{field}': {why}; write key=text or key:=JSON"));
    let (key, text) = field.split_once('=').ok_or_else(|| wrong("there is no '='"))?;
    let (key, value) = match key.strip_suffix(':') {
        Some(key) => {
            let value = serde_json::from_str(text)
                .map_err(|e| wrong(&format!("the value after ':=' is not JSON ({e})")))?;
            check_numbers(text.as_bytes()).map_err(|inexact| wrong(&inexact.to_string()))?;
            (key, value)
        }
        None => (key, Value::String(text.to_owned())),
    };
    let path: Vec<&str> = key.split('.').collect();
    if path.iter().any(|part| part.trim().is_empty()) {
        return Err(wrong("a part of the key is empty"));
    }
    let (last, above) = path.split_last().expect("a split text has at least one part");
    let mut object = payload;
    for part in above {
        let next = object.entry(*part).or_insert_with(|| Value::Object(Map::new()));
        object =
            next.as_object_mut().ok_or_else(|| wrong(&format!("'{part}' is not an object")))?;
    }
    object.insert((*last).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(payload: Option<&str>, set: &[&str], stdin: &str) -> Result<Value, String> {
        let args = PayloadArgs {
            payload: payload.map(str::to_owned),
            set: set.iter().map(|s| (*s).to_owned()).collect(),
        };
        args.object(&mut stdin.as_bytes()).map(Value::Object).map_err(|e| e.to_string())
    }

    #[test]
    fn texts_stay_texts_and_json_is_json() {
        let payload = made(
            Some(r#"{"project":"web","target":{"host":"a"}}"#),
            &["version=1.10", "replicas:=3", "target.port:=[80,443]", "q=a=b", "project=api"],
            "",
        );
        assert_eq!(
            payload,
            Ok(json!({"project":"api", "version":"1.10", "replicas":3, "q":"a=b",
                "target":{"host":"a","port":[80,443]}}))
        );
    }

    #[test]
    fn from_standard_input_and_files() {
        assert_eq!(made(Some("-"), &[], r#"{"a":1}"#), Ok(json!({"a":1})));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("payload.json");
        std::fs::write(&file, r#"{"b":2}"#).unwrap();
        assert_eq!(made(Some(&format!("@{}", file.display())), &[], ""), Ok(json!({"b":2})));
    }

    #[test]
    fn invalid_payloads_are_explained() {
        for (payload, set, says) in [
            (Some("[1]"), None, "is an array, not a JSON object"),
            (Some("{oops"), None, "is not JSON"),
            (Some("@/no/such/file"), None, "could not read '/no/such/file'"),
            (None, Some("novalue"), "there is no '='"),
            (None, Some("n:=1x"), "is not JSON"),
            (None, Some("a..b=1"), "a part of the key is empty"),
            (Some(r#"{"a":1}"#), Some("a.b=1"), "'a' is not an object"),
            (
                Some(r#"{"a":[18446744073709551616]}"#),
                None,
                "'a[0]' is 18446744073709551616: an integer",
            ),
            (
                None,
                Some("a:=0.10000000000000001"),
                "'the value' is 0.10000000000000001: it would lose digits",
            ),
        ] {
            let error = made(payload, set.as_slice(), "").unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
