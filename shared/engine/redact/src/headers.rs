//! `Authorization` in headers, commands and logs.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::HIDDEN;
use super::edit::TextEdit;

static NAME: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r#"(?i)authorization(?:\\*["'])?\s*(?:=>|[:=])\s*(?:\\*["'])?"#;
    Regex::new(pattern).expect("the pattern is well formed")
});

/// Schemes with parameters, which extend to the end of the line.
const LISTED: &[&str] = &["digest", "aws4-hmac-sha256", "oauth", "hawk", "signature", "mac"];
const SINGLE: &[&str] =
    &["bearer", "basic", "token", "apikey", "splunk", "geniekey", "negotiate", "ntlm", "key"];

/// Hides the value of such headers, including its scheme.
pub(super) fn authorization(text: &str) -> Cow<'_, str> {
    let mut edit = TextEdit::of(text);
    let mut at = 0;
    while let Some(name) = NAME.find_at(text, at) {
        let from = name.end();
        let length = given(&text[from..]);
        if !is_placeholder(&text[from..from + length]) {
            edit.hide(from, from + length);
        }
        at = from + length;
    }
    edit.finish()
}

fn word(text: &str) -> usize {
    let ends = |b: u8| b.is_ascii_whitespace() || matches!(b, b'"' | b'\'' | b',' | b';' | b'\\');
    text.bytes().position(ends).unwrap_or(text.len())
}

/// Length of the scheme and its value.
fn given(text: &str) -> usize {
    let scheme = word(text);
    let blank = text[scheme..].bytes().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let next = scheme + blank;
    let is = |known: &[&str]| known.iter().any(|known| known.eq_ignore_ascii_case(&text[..scheme]));
    if blank > 0 && is(LISTED) {
        return text.find(['\r', '\n']).unwrap_or(text.len());
    }
    let second = word(&text[next..]);
    let value = &text[next..next + second];
    match blank > 0 && second > 0 && (is(SINGLE) || super::names::is_generated(value)) {
        true => next + second,
        false => scheme,
    }
}

/// `<token>` and the like, as in a manual, or a value that is hidden already: alone or after
/// the scheme. At the end of a longer value it is not a placeholder.
fn is_placeholder(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'', '\\', '`']);
    let given = value.split_once(' ').map_or(value, |(_, given)| given.trim_start());
    let manual = given.starts_with('<') && given.ends_with('>') && !given.contains(' ');
    value.is_empty() || given == HIDDEN || manual
}
