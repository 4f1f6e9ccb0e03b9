//! `name=value`, `name: value`, `"name": "value"` and similar forms in text, with the name of a
//! secret. Names are found by their stems. Each name and each value is read once.

use std::borrow::Cow;

use super::edit::{TextEdit, ceil_boundary, floor_boundary};
use super::names::{self, NameKind};

/// Hides the values.
pub(super) fn apply(text: &str) -> Cow<'_, str> {
    let mut edit = TextEdit::of(text);
    let mut at = 0;
    while let Some(stem) = names::STEM.find_at(text, at) {
        let name = Name::around(text, edit.done().max(at), stem.start(), stem.end());
        at = name.end;
        let kind = names::kind(name.text);
        if kind == NameKind::Plain {
            continue;
        }
        let Some(value) = name.value(text, kind) else { continue };
        if value.sure || names::hides(kind, &text[value.from..value.to]) {
            edit.hide(value.from, value.to);
            at = value.to;
        } else {
            at = value.from;
        }
    }
    edit.finish()
}

/// How far around a stem the filter looks. Names, and the characters between them and their
/// values, are shorter. If not, the rule itself decides.
const MAX_CONTEXT: usize = 128;

/// How far a value without a sign is read to decide whether it is one.
const MAX_UNSIGNED: usize = 512;

/// Whether the stem may be part of a name with a value. Reads a bounded context.
pub(super) fn may(text: &[u8], from: usize, to: usize) -> bool {
    let right = text[to..].iter().take(MAX_CONTEXT).take_while(|b| is_name(**b)).count();
    let left = text[..from].iter().rev().take(MAX_CONTEXT).take_while(|b| is_name(**b)).count();
    if left == MAX_CONTEXT || right == MAX_CONTEXT {
        return true;
    }
    let (start, end) = (from - left + escape(&text[..from], left), to + right);
    let Ok(name) = std::str::from_utf8(&text[start..end]) else { return true };
    let after = &text[end..text.len().min(end + MAX_CONTEXT)];
    let tag = is_tag(&text[..start]) && after.contains(&b'>');
    (tag || is_followed(name, after) || is_named(&text[..start]))
        && names::kind(name) != NameKind::Plain
}

/// 1 if a name that extends `left` bytes before a stem begins with the letter of an escape:
/// `\npass`.
fn escape(before: &[u8], left: usize) -> usize {
    let (text, name) = before.split_at(before.len() - left);
    let escaped =
        text.ends_with(b"\\") && matches!(name.first(), Some(b'n' | b'r' | b't' | b'b' | b'f'));
    usize::from(escaped)
}

fn is_followed(name: &str, after: &[u8]) -> bool {
    let closed = skip(after, 0, is_closing);
    let blank = skip_blank(after, closed);
    if blank == after.len() {
        return after.len() == MAX_CONTEXT;
    }
    // `["authorization", "x"]`
    if closed > 0 && after[blank] == b',' {
        return true;
    }
    let arrow = name.ends_with('-') && after[blank] == b'>';
    if arrow || after[blank] == 0x1b || sign(after, blank).is_some() {
        return true;
    }
    let word = &after[blank..blank + skip(&after[blank..], 0, |b| !b.is_ascii_whitespace())];
    blank > 0
        && (matches!(word[0], b'"' | b'\'' | b'\\')
            || name.starts_with('-')
            || word.len() + blank == after.len()
            || std::str::from_utf8(word).is_ok_and(names::is_generated))
}

/// Whether a tag begins right before the name, with or without a prefix: `<`, `<ns:`.
fn is_tag(before: &[u8]) -> bool {
    let Some((last, before)) = before.split_last() else { return false };
    let prefix = before.iter().rev().take(MAX_CONTEXT).find(|b| !is_name(**b));
    *last == b'<' || *last == b':' && prefix == Some(&b'<')
}

/// Whether the text before announces a name: `"name": "DB_PASSWORD"`.
fn is_named(before: &[u8]) -> bool {
    let mark =
        |b: &&u8| b.is_ascii_whitespace() || matches!(**b, b'"' | b'\'' | b'\\' | b':' | b'=');
    let marks = before.iter().rev().take(MAX_CONTEXT).take_while(mark).count();
    let said = &before[..before.len() - marks];
    let said = &said[said.len().saturating_sub(4)..];
    marks > 0
        && ["name", "key", "ader", "ield", "able"].iter().any(|word| {
            said.len() >= word.len()
                && said[said.len() - word.len()..].eq_ignore_ascii_case(word.as_bytes())
        })
}

/// Bytes of a name in text, including non-ASCII letters.
fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.') || b >= 0x80
}

/// Closes a quoted name, or one in brackets.
fn is_closing(b: u8) -> bool {
    matches!(b, b'\\' | b'"' | b'\'' | b'`' | b']' | b'[')
}

fn skip(text: &[u8], from: usize, over: impl Fn(u8) -> bool) -> usize {
    text[from..].iter().position(|b| !over(*b)).map_or(text.len(), |length| from + length)
}

/// Skips spaces and terminal colours.
fn skip_blank(text: &[u8], from: usize) -> usize {
    let mut at = from;
    loop {
        at = skip(text, at, |b| b.is_ascii_whitespace());
        if !text[at..].starts_with(b"\x1b[") {
            return at;
        }
        let end = skip(text, at + 2, |b| b.is_ascii_digit() || b == b';');
        if text.get(end) != Some(&b'm') {
            return at;
        }
        at = end + 1;
    }
}

/// Longest first.
const SIGNS: &[&[u8]] = &[
    b"===", b"!==", b"<=>", b"==", b"!=", b":=", b"=>", b"->", b"?=", b"||=", b"::", b"=", b":",
    b"%3D", b"%3d", b"%3A", b"%3a",
];

/// End of the sign at `at`, if there is one.
fn sign(text: &[u8], at: usize) -> Option<usize> {
    // `%22password%22%3A`, `&quot;password&quot;:`
    let closed = [&b"%22"[..], b"&quot;", b"&#34;", b"&#39;"];
    let at = closed.iter().find(|c| text[at..].starts_with(c)).map_or(at, |c| at + c.len());
    // `Password("x")`
    if text[at..].first() == Some(&b'(') {
        let quote = skip(text, at + 1, |b| b == b'\\');
        return matches!(text.get(quote), Some(b'"' | b'\'')).then_some(at + 1);
    }
    SIGNS.iter().find(|sign| text[at..].starts_with(sign)).map(|sign| at + sign.len())
}

struct Name<'a> {
    text: &'a str,
    end: usize,
}

/// The position of a value.
struct ValueSpan {
    from: usize,
    to: usize,
    /// Whether it must be hidden whatever its form.
    sure: bool,
}

impl<'a> Name<'a> {
    fn around(text: &'a str, floor: usize, from: usize, to: usize) -> Self {
        let bytes = text.as_bytes();
        let left = bytes[floor..from].iter().rev().take_while(|b| is_name(**b)).count();
        let mut end = skip(bytes, to, is_name);
        if bytes[end - 1] == b'-' && bytes.get(end) == Some(&b'>') {
            end -= 1;
        }
        let start = ceil_boundary(text, from - left + escape(&bytes[..from], left));
        Self { text: &text[start..end.max(to)], end: end.max(to) }
    }

    fn value(&self, text: &str, kind: NameKind) -> Option<ValueSpan> {
        let bytes = text.as_bytes();
        let closed = skip(bytes, self.end, is_closing);
        let blank = skip_blank(bytes, closed);
        let Some(signed) = sign(bytes, blank) else { return self.after_blank(text, closed, kind) };
        // The name of a test result, not of a secret: `PASS: TestLogin`.
        if self.text == "PASS" && bytes.get(signed - 1) == Some(&b':') {
            return None;
        }
        let from = skip_blank(bytes, signed);
        let to = value(text, from, kind)?;
        let to = if self.has_words() { more_words(bytes, to) } else { to };
        Some(ValueSpan { from, to, sure: false })
    }

    /// `--token x`, `PASSWORD 'x'`, `API_TOKEN x1y2z3w4`: a space instead of a sign.
    fn after_blank(&self, text: &str, closed: usize, kind: NameKind) -> Option<ValueSpan> {
        let bytes = text.as_bytes();
        let from = skip(bytes, self.end, |b| matches!(b, b' ' | b'\t'));
        let flag = self.text.starts_with('-');
        if kind == NameKind::Many || !matches!(closed - self.end, 0) && !flag {
            return None;
        }
        // `["--password", "x"]`
        let from = match flag && closed > self.end {
            true => skip(bytes, closed, |b| matches!(b, b',' | b' ')),
            false => from,
        };
        let next = *bytes.get(from)?;
        if from == self.end || next.is_ascii_whitespace() {
            return None;
        }
        // Bounded, so that a value which is not a secret isn't read repeatedly to a distant
        // end.
        let near = &text[..floor_boundary(text, from + MAX_UNSIGNED)];
        let to = value(near, from, kind)?;
        let said = text[from..to].trim_matches(['"', '\'', '\\']);
        let quoted = matches!(next, b'"' | b'\'' | b'\\');
        let hides = match (flag, kind) {
            (true, NameKind::Secret | NameKind::Likely) => !said.starts_with('-'),
            (_, NameKind::Secret | NameKind::Likely) => quoted || names::is_generated(said),
            _ => flag && names::is_generated(said),
        };
        let hides = hides && names::hides(kind, said);
        hides.then(|| value(text, from, kind).map(|to| ValueSpan { from, to, sure: true }))?
    }

    /// A passphrase consists of words.
    fn has_words(&self) -> bool {
        let has = |part: &str| {
            self.text.len() >= part.len()
                && self
                    .text
                    .as_bytes()
                    .windows(part.len())
                    .any(|w| w.eq_ignore_ascii_case(part.as_bytes()))
        };
        has("phrase") || has("mnemonic")
    }
}

/// Skips the words that follow on the same line.
fn more_words(text: &[u8], from: usize) -> usize {
    let mut end = from;
    loop {
        let word = skip(text, end, |b| b == b' ');
        let to = skip(text, word, |b| b.is_ascii_alphanumeric() || b == b'-');
        if word == end || to == word || text[end - 1] == b'"' || text[end - 1] == b'\'' {
            return end;
        }
        end = to;
    }
}

/// End of the value that begins here: quoted, in brackets, or a word.
pub(super) fn value(text: &str, from: usize, kind: NameKind) -> Option<usize> {
    let bytes = text.as_bytes();
    let rest = &bytes[from..];
    for (open, close) in [("&quot;", "&"), ("&#34;", "&"), ("&#39;", "&"), ("%22", "%22")] {
        if rest.starts_with(open.as_bytes()) {
            let inner = from + open.len();
            return Some(text[inner..].find(close).map_or(text.len(), |end| inner + end));
        }
    }
    let inner = from + wrapping(rest);
    match bytes.get(inner) {
        Some(b'"' | b'\'' | b'`' | b'\\') => {
            if let Some(end) = quoted(bytes, inner) {
                return Some(end);
            }
        }
        Some(b'[' | b'{') if kind == NameKind::Many => return None,
        Some(b'[') => return Some(bracketed(bytes, inner)),
        _ => {}
    }
    match rest {
        [] => None,
        [b'{', next, ..]
            if next.is_ascii_whitespace() || matches!(next, b'"' | b'\'' | b'\\' | b'}') =>
        {
            None
        }
        [b'|' | b'>', after @ ..] if opens_block(after) => None,
        _ => {
            let ends = |b: u8| {
                b.is_ascii_whitespace()
                    || matches!(b, b',' | b';' | b'&' | b'}' | b']' | b')' | b'"' | b'\'')
            };
            // In escaped text the next line may follow: `token=x\npassword = y`. This is
            // checked on the way, so that nothing after the value is read for it.
            let breaks = |at: usize| bytes[at] == b'\\' && names_more(&bytes[at + 1..]);
            let end = (from..bytes.len()).find(|at| ends(bytes[*at]) || breaks(*at));
            let end = end.unwrap_or(bytes.len());
            (end > from).then_some(end)
        }
    }
}

/// Whether an escaped line break is followed by a name with a sign.
fn names_more(text: &[u8]) -> bool {
    let [b'n' | b'r' | b't', rest @ ..] = text else { return false };
    let near = &rest[..rest.len().min(MAX_CONTEXT)];
    let end = skip(near, 0, is_name);
    end > 0 && sign(near, skip_blank(near, skip(near, end, is_closing))).is_some()
}

/// `|`, `>-` and the like of YAML, with nothing after it on the line.
fn opens_block(after: &[u8]) -> bool {
    let end = skip(after, 0, |b| matches!(b, b'+' | b'-' | b' ' | b'0'..=b'9'));
    matches!(after.get(end), Some(b'\n' | b'\r')) || after[end..].starts_with(b"\\n")
}

/// Length of what may precede a quoted value: `String(`, `Some(`, `@`, `N`.
fn wrapping(rest: &[u8]) -> usize {
    const MAX_WRAPPING: usize = 32;
    let rest = &rest[..rest.len().min(MAX_WRAPPING)];
    let end = skip(rest, 0, |b| b.is_ascii_alphabetic() || matches!(b, b'(' | b'@' | b'$' | b':'));
    let quote = matches!(rest.get(end), Some(b'"' | b'\'' | b'\\'));
    let before = &rest[..end];
    let marks = before.len() <= 2 && before.iter().all(|b| !matches!(b, b'(' | b':'));
    match quote && (before.ends_with(b"(") || marks) {
        true => end,
        false => 0,
    }
}

/// End of a quoted text. In escaped text its closing quote has as many backslashes as the
/// opening one. A text that is cut off ends with the whole text.
fn quoted(text: &[u8], from: usize) -> Option<usize> {
    let open = skip(text, from, |b| b == b'\\');
    let quote = *text.get(open).filter(|b| matches!(b, b'"' | b'\'' | b'`'))?;
    let depth = open - from;
    if depth == 0 && text[open..].starts_with(&[quote; 3]) {
        let inner = &text[open + 3..];
        let end = inner.windows(3).position(|three| three == [quote; 3]);
        return Some(end.map_or(text.len(), |end| open + 6 + end));
    }
    let mut slashes = 0;
    for (place, b) in text.iter().enumerate().skip(open + 1) {
        match *b {
            b'\\' => slashes += 1,
            b if b == quote && ends(depth, slashes) => return Some(place + 1),
            _ => slashes = 0,
        }
    }
    Some(text.len())
}

/// Whether a quote after `slashes` backslashes ends a text whose opening quote has `depth` of
/// them. In unescaped text two backslashes are a literal one.
fn ends(depth: usize, slashes: usize) -> bool {
    match depth {
        0 => slashes.is_multiple_of(2),
        _ => slashes <= depth || slashes % (2 * depth + 2) == depth,
    }
}

/// End of a list. An unclosed list ends with its line.
fn bracketed(text: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    loop {
        at = skip(text, at, |b| !matches!(b, b']' | b'"' | b'\'' | b'\\' | b'\n'));
        at = match text.get(at) {
            None | Some(b'\n') => return at,
            Some(b']') => return at + 1,
            _ => quoted(text, at).unwrap_or(at + 1),
        };
    }
}
