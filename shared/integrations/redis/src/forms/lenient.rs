//! Converts Python's JSON to strict JSON: `NaN`, `Infinity`, lone surrogates and unlimited
//! depth. This is enough to find a task's addressee.

/// Nothing deeper names the addressee, and parsers stop at 128.
const MAX_DEPTH: usize = 100;
const NUMBERS: &[&str] = &["NaN", "-Infinity", "Infinity"];

/// The text with `null` for such numbers and for anything too deep, and U+FFFD for lone
/// surrogates.
pub(super) fn as_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut depth) = (text, 0_usize);
    while let Some(c) = rest.chars().next() {
        let is_shown = depth <= MAX_DEPTH;
        if c == '"' {
            let (string, after) = string(rest);
            if is_shown {
                out.push_str(&string);
            }
            rest = after;
            continue;
        }
        if let Some(number) = NUMBERS.iter().find(|number| rest.starts_with(**number)) {
            if is_shown {
                out.push_str("null");
            }
            rest = &rest[number.len()..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '{' | '[' => {
                depth += 1;
                match depth {
                    _ if depth <= MAX_DEPTH => out.push(c),
                    _ if depth == MAX_DEPTH + 1 => out.push_str("null"),
                    _ => {}
                }
            }
            '}' | ']' => {
                if is_shown {
                    out.push(c);
                }
                depth = depth.saturating_sub(1);
            }
            _ if is_shown => out.push(c),
            _ => {}
        }
    }
    out
}

/// The string at the start of a text, and the rest of the text.
fn string(text: &str) -> (String, &str) {
    let mut out = String::from("\"");
    let mut rest = &text[1..];
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            '"' => {
                out.push('"');
                return (out, after);
            }
            '\\' => match (unit(rest), rest.get(6..).and_then(unit)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => {
                    out.push_str(&rest[..12]);
                    rest = &rest[12..];
                }
                (Some(0xD800..=0xDFFF), _) => {
                    out.push('\u{FFFD}');
                    rest = &rest[6..];
                }
                _ => {
                    out.push(c);
                    let next = after.chars().next();
                    out.extend(next);
                    rest = &after[next.map_or(0, char::len_utf8)..];
                }
            },
            _ => {
                out.push(c);
                rest = after;
            }
        }
    }
    (out, rest)
}

/// The UTF-16 unit of the escape at the start of a text.
fn unit(text: &str) -> Option<u16> {
    let hex = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_json_of_python_becomes_strict_json() {
        let deep = format!("{{\"a\": {}1{}, \"b\": 2}}", "[".repeat(500), "]".repeat(500));
        for (text, wanted) in [
            (r#"{"a": NaN, "b": [-Infinity, Infinity]}"#, json!({"a": null, "b": [null, null]})),
            (r#"{"NaN": "Infinity \" NaN"}"#, json!({"NaN": "Infinity \" NaN"})),
            (
                r#"{"a": "x\ud800y", "b": "\ud83e\udd80"}"#,
                json!({"a": "x\u{FFFD}y", "b": "\u{1F980}"}),
            ),
            (r#"{"a": "\\ud800"}"#, json!({"a": "\\ud800"})),
        ] {
            let read: Value =
                serde_json::from_str(&as_json(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read, wanted, "{text}");
        }
        let read: Value = serde_json::from_str(&as_json(&deep)).expect("the depth is bounded");
        assert_eq!(read["b"], 2);
    }

    #[test]
    fn any_text_is_converted_without_a_panic() {
        for text in ["", "\"", "\"\\", "\\u", "\"\\ud8", "]]]", "{[", "\"\\ud800\\u"] {
            as_json(text);
        }
    }
}
