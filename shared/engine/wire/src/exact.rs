//! Refuses JSON numbers that would lose precision: a reader that rounds would turn two tasks
//! into one. 64-bit integers are exact, and so are decimals that a double reproduces.

use std::borrow::Cow;

use serde_json::Number;
use watchbill_redact as redact;

/// A double reproduces every decimal of up to this many digits without an exponent (DBL_DIG).
const SAFE_DIGITS: usize = 15;
/// Maximum length, in characters, of a number or a path in an error.
const SHOWN: usize = 64;

/// A number that would lose precision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{path}' is {value}: {wanted}", path = shown_path(.path), wanted = wanted(.value))]
pub struct InexactNumber {
    /// The path from the top of the document, such as `payload.ids[2]`.
    pub path: String,
    /// The number as written, shortened.
    pub value: String,
}

fn shown_path(path: &str) -> &str {
    if path.is_empty() { "the value" } else { path }
}

fn wanted(value: &str) -> &'static str {
    if is_integer(value) {
        "an integer must fit into 64 bits; write a longer one as a string"
    } else {
        "it would lose digits; write fewer, or a string"
    }
}

/// Checks every number of a valid JSON text. The error names the first one that would lose
/// precision.
pub fn check_numbers(json: &[u8]) -> Result<(), InexactNumber> {
    match numbers(json).find(|(_, number)| !is_exact(number)) {
        None => Ok(()),
        Some((at, number)) => Err(InexactNumber {
            path: redact::shortened(&path_to(json, at), SHOWN),
            value: redact::shortened(number, SHOWN),
        }),
    }
}

/// Replaces each number that would lose precision by a string of its digits. For input that
/// can't be refused: an event, or the result of finished work.
pub fn with_exact_numbers(json: &str) -> Cow<'_, str> {
    let mut kept = String::new();
    let mut done = 0;
    for (at, number) in numbers(json.as_bytes()).filter(|(_, number)| !is_exact(number)) {
        kept.push_str(&json[done..at]);
        kept.extend(["\"", number, "\""]);
        done = at + number.len();
    }
    if done == 0 {
        return Cow::Borrowed(json);
    }
    kept.push_str(&json[done..]);
    Cow::Owned(kept)
}

/// The numbers of a JSON text with their byte offsets.
fn numbers(json: &[u8]) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < json.len() {
            match json[at] {
                b'"' => at = after_text(json, at),
                b'-' | b'0'..=b'9' => {
                    let begun = at;
                    at = after_number(json, at);
                    // The slice is pure ASCII.
                    return Some((
                        begun,
                        std::str::from_utf8(&json[begun..at]).unwrap_or_default(),
                    ));
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// The offset after the string that begins at this quote.
fn after_text(json: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < json.len() && json[at] != b'"' {
        at += if json[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn after_number(json: &[u8], begun: usize) -> usize {
    let part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    begun + json[begun..].iter().take_while(|byte| part(byte)).count()
}

fn is_integer(number: &str) -> bool {
    !number.contains(['.', 'e', 'E'])
}

fn is_exact(number: &str) -> bool {
    let has_exponent = number.contains(['e', 'E']);
    if number.len() <= SAFE_DIGITS && !has_exponent {
        return true;
    }
    if is_integer(number) {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    }
    // A double is written as the shortest decimal that identifies it.
    let kept = serde_json::from_str::<Number>(number).map(|kept| kept.to_string());
    kept.is_ok_and(|kept| decimal(&kept) == decimal(number))
}

/// Sign, digits without zeros at either end, and the position of the decimal point: one normal
/// form per value.
fn decimal(number: &str) -> (bool, String, i64) {
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    let leading = (digits.len() - significant.len()) as i64;
    let significant = significant.trim_end_matches('0');
    if significant.is_empty() {
        return (false, String::new(), 0);
    }
    // An exponent beyond 64 bits can't come from a double.
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    (negative, significant.to_owned(), whole.len() as i64 - leading + exponent)
}

/// The JSON path of the value at byte offset `target`.
fn path_to(json: &[u8], target: usize) -> String {
    enum PathSegment {
        Object(String),
        Array(usize),
    }
    let mut levels: Vec<PathSegment> = Vec::new();
    let mut at = 0;
    while at < target {
        match json[at] {
            b'"' => {
                let end = after_text(json, at);
                let is_key = json[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':');
                if let (Some(PathSegment::Object(key)), true) = (levels.last_mut(), is_key) {
                    *key = serde_json::from_slice(&json[at..end]).unwrap_or_default();
                }
                at = end;
                continue;
            }
            b'{' => levels.push(PathSegment::Object(String::new())),
            b'[' => levels.push(PathSegment::Array(0)),
            b'}' | b']' => _ = levels.pop(),
            b',' => {
                if let Some(PathSegment::Array(n)) = levels.last_mut() {
                    *n += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = String::new();
    for level in levels {
        match level {
            PathSegment::Object(key) if path.is_empty() => path.push_str(&key),
            PathSegment::Object(key) => path.extend([".", &key]),
            PathSegment::Array(n) => path.push_str(&format!("[{n}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[rustfmt::skip]
    const KEPT: &[&str] = &[
        "0", "-0", "1", "-1", "1.0", "0.1", "0.10", "-2.50", "100000000000000000",
        "9007199254740993", "9223372036854775807", "-9223372036854775808", "18446744073709551615",
        "0.30000000000000004", "1e5", "1E+5", "1.5e300", "1e22", "1.7976931348623157e308", "5e-324",
        "2.2250738585072014e-308", "0e0", "0.000", "-0.0", "0.00000000000000000001", "123456789012.345",
        "1760000000.123456",
    ];

    #[rustfmt::skip]
    const NOT_KEPT: &[&str] = &[
        "18446744073709551616", "-9223372036854775809", "100000000000000000000",
        "123456789012345678901234567890", "0.10000000000000001", "0.1000000000000000055",
        "9007199254740993.0", "18446744073709551616.0", "1.00000000000000000001", "1e-400", "4.9e-324",
        "3.141592653589793238",
    ];

    #[test]
    fn a_number_is_kept_as_it_is_written_or_named() {
        for number in KEPT {
            let json = format!(r#"{{"n":{number}}}"#);
            assert_eq!(check_numbers(json.as_bytes()), Ok(()), "{number}");
        }
        for number in NOT_KEPT {
            let json = format!(r#"{{"n":{number}}}"#);
            let found = check_numbers(json.as_bytes()).expect_err(number);
            assert_eq!((found.path.as_str(), found.value.as_str()), ("n", *number));
        }
    }

    /// Accepted numbers that differ in value are read as values that differ.
    #[test]
    fn no_two_numbers_that_differ_are_read_as_one() {
        let near = |digits: &str| {
            let last = |n: u8| format!("{digits}{n}");
            [0, 1, 4, 5, 9].map(last)
        };
        let bases =
            ["0.1", "0.3", "9007199254740992.", "1844674407370955161", "3.14159265358979323"];
        let mut taken: Vec<String> = bases.iter().flat_map(|base| near(base)).collect();
        taken.extend(bases.iter().flat_map(|base| near(&format!("{base}000000000000000"))));
        taken.retain(|number| is_exact(number));
        assert!(taken.len() > 10, "{taken:?}");
        for one in &taken {
            for other in &taken {
                let read = |text: &str| serde_json::from_str::<Value>(text).expect("a number");
                let same = decimal(one) == decimal(other);
                assert!(same || read(one) != read(other), "{one} and {other}");
            }
        }
    }

    #[test]
    fn the_first_one_is_named_by_its_path() {
        let big = "18446744073709551616";
        for (json, path) in [
            (format!("{{\"payload\":{{\"a\":[1,{{\"b c\":[2,{big}]}}]}}}}"), "payload.a[1].b c[1]"),
            (format!("{{\"a\":\"{big}\",\"b\":{{}},\"c\":[[],[]],\"d\" : {big}}}"), "d"),
            (format!("{{\"\\\"x\\u0031\\\\\":{big}}}"), "\"x1\\"),
            (format!("[0,\"a,b]\",{big}]"), "[2]"),
            (big.to_owned(), ""),
        ] {
            let found = check_numbers(json.as_bytes()).expect_err(&json);
            assert_eq!(found.path, path, "{json}");
        }
        let said =
            check_numbers(b"{\"n\":18446744073709551616}").expect_err("too long").to_string();
        assert_eq!(
            said,
            "'n' is 18446744073709551616: an integer must fit into 64 bits; write a longer one as \
             a string"
        );
    }

    #[test]
    fn inexact_numbers_become_strings_of_their_digits() {
        let json = r#"{"a":18446744073709551616,"b":[0.1,"-1e-400",-1e-400]}"#;
        let kept = r#"{"a":"18446744073709551616","b":[0.1,"-1e-400","-1e-400"]}"#;
        assert_eq!(with_exact_numbers(json), kept);
        assert!(matches!(with_exact_numbers(kept), Cow::Borrowed(text) if text == kept));
    }

    #[test]
    fn digits_within_texts_are_no_numbers() {
        let json = br#"{"a":"18446744073709551616","99999999999999999999":"x","c":"\"1e-999\\"}"#;
        assert_eq!(check_numbers(json), Ok(()));
    }
}
