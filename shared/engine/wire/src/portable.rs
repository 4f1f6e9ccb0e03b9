//! Text that every transport accepts unchanged.
//!
//! SQS accepts only the characters of XML 1.0. U+FFFE and U+FFFF, which any id, trace or payload
//! may contain, are refused, or replaced, which changes an id. JSON can escape them, and a
//! parser reads the same text.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether SQS accepts a character in a message (Amazon SQS API reference, `SendMessage`).
pub fn is_portable(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..
    )
}

/// The same JSON, with unportable characters escaped. JSON has such characters only in strings.
pub fn portable_json(json: String) -> String {
    if json.chars().all(is_portable) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_portable(c) {
            out.push(c);
        } else {
            // All of them are in the first plane, so one escape each is enough.
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String can't fail");
        }
    }
    out
}

/// Replaces unportable characters. For plain text, which has no escapes, that only informs
/// people of an origin.
pub(crate) fn portable_text(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_portable) {
        return text.into();
    }
    text.chars().map(|c| if is_portable(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn escapes_are_read_as_what_was_written() {
        for c in ['\0', '\u{b}', '\u{1f}', '\u{fffe}', '\u{ffff}'] {
            assert!(!is_portable(c), "{c:?}");
        }
        for c in ['\t', ' ', '\u{7f}', '\u{85}', '\u{d7ff}', '\u{e000}', '\u{fffd}', '\u{1fffe}'] {
            assert!(is_portable(c), "{c:?}");
        }
        let text = "a\u{fffe}b\u{ffff}\u{0}\u{1f}\u{10ffff}\"\\ü";
        let json = serde_json::json!({ text: [text] });
        let written = portable_json(json.to_string());
        assert!(written.chars().all(is_portable), "{written:?}");
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), json);
        let plain = r#"{"a":"b"}"#.to_owned();
        assert_eq!(portable_json(plain.clone()), plain);
        assert_eq!(portable_text("ci\u{ffff}"), "ci\u{fffd}");
    }
}
