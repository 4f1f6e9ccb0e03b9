//! Texts embedded in a text: JSON among other words, and escaped texts such as `{:?}` and JSON
//! write. Each is decoded and cleaned one level deeper.

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

use super::edit::TextEdit;
use super::json::{self, Cursor};
use super::{MAX_NESTED, hidden};

/// Whether there may be any: without one of these characters there is none.
pub(super) fn may(text: &str, any_rule: bool) -> bool {
    text.contains('\\') || any_rule && text.contains(['{', '['])
}

/// Cleans such parts of a text that is itself embedded in `nested` others.
pub(super) fn apply(text: &str, nested: usize) -> Cow<'_, str> {
    if nested >= MAX_NESTED {
        return Cow::Borrowed(text);
    }
    let mut edit = TextEdit::of(text);
    let mut done = 0;
    for found in documents(text) {
        let Some(clean) = json::whole(&text[found.clone()], nested) else { continue };
        unescaped_parts(&mut edit, text, done..found.start, nested);
        done = found.end;
        if let Cow::Owned(clean) = clean {
            edit.put(found.start, found.end, &clean);
        }
    }
    unescaped_parts(&mut edit, text, done..text.len(), nested);
    edit.finish()
}

/// Cleans the parts within and outside of quotes that contain escapes. Both are treated alike,
/// so an unpaired quote does no harm.
fn unescaped_parts(edit: &mut TextEdit<'_>, text: &str, within: Range<usize>, nested: usize) {
    if !text[within.clone()].contains('\\') {
        return;
    }
    for part in between_quotes(text, within) {
        let written = &text[part.clone()];
        if let Cow::Owned(plain) = unescaped(written)
            && let Cow::Owned(clean) = super::nested(&plain, nested + 1)
        {
            edit.put(part.start, part.end, &escaped(&clean, written.contains("\\u{")));
        }
    }
}

/// The parts between unescaped double quotes.
fn between_quotes(text: &str, within: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let mut next = Some(within.start);
    iter::from_fn(move || {
        let from = next?;
        let mut at = from;
        while at < within.end && bytes[at] != b'"' {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        next = (at < within.end).then_some(at + 1);
        Some(from..at.min(within.end))
    })
}

/// Resolves the escapes of JSON, Rust and Python. Any others stay as they are.
fn unescaped(written: &str) -> Cow<'_, str> {
    let mut plain = String::new();
    let mut rest = written;
    let mut any = false;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let (c, length) = one(rest).unwrap_or(('\\', 1));
        any |= length > 1;
        plain.push(c);
        rest = &rest[length..];
    }
    match any {
        false => Cow::Borrowed(written),
        true => Cow::Owned(plain + rest),
    }
}

/// The character that an escape stands for, and the length of the escape.
fn one(escape: &str) -> Option<(char, usize)> {
    let short = |c| Some((c, 2));
    match *escape.as_bytes().get(1)? {
        b'n' => short('\n'),
        b'r' => short('\r'),
        b't' => short('\t'),
        b'b' => short('\u{8}'),
        b'f' => short('\u{c}'),
        b'0' => short('\0'),
        b'e' => short('\u{1b}'),
        b @ (b'"' | b'\'' | b'\\' | b'/') => short(char::from(b)),
        b'x' => Some((char::from(u8::try_from(hex(escape.get(2..4)?)?).ok()?), 4)),
        b'u' => unicode(escape),
        _ => None,
    }
}

/// `\u{1b}`, `\u001b`, and `\ud83d\ude00`, a surrogate pair for one character.
fn unicode(escape: &str) -> Option<(char, usize)> {
    if let Some(inner) = escape.strip_prefix("\\u{") {
        let end = inner.bytes().take(7).position(|b| b == b'}')?;
        return Some((char::from_u32(hex(&inner[..end])?)?, 4 + end));
    }
    let unit = |from: usize| hex(escape.get(from..from + 4)?);
    let first = unit(2)?;
    if let Some(c) = char::from_u32(first) {
        return Some((c, 6));
    }
    let second = unit(8).filter(|_| escape[6..].starts_with("\\u"))?;
    let pair = [u16::try_from(first).ok()?, u16::try_from(second).ok()?];
    Some((char::decode_utf16(pair).next()?.ok()?, 12))
}

fn hex(digits: &str) -> Option<u32> {
    let all = digits.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| all)
}

/// Escapes a text, in the form of Rust or of JSON.
fn escaped(plain: &str, rust: bool) -> String {
    let mut written = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            '"' | '\\' => written.extend(['\\', c]),
            c if hidden::is_hidden(c) && rust => written.extend(c.escape_unicode()),
            c if hidden::is_hidden(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    written.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => written.push(c),
        }
    }
    written
}

/// The JSON documents in a text: complete lists and objects that contain a text, each as large
/// as possible.
fn documents(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].find(['{', '[']) {
        let mut reading = DocumentReader {
            cursor: Cursor::at(text, at + next),
            open: Vec::new(),
            last: at + next + 1,
        };
        if reading.document(&mut found).is_some() {
            at = reading.cursor.place();
        } else {
            // What was read as a text may be the part between two texts.
            at = reading.last;
        }
    }
    found
}

struct Open {
    from: usize,
    object: bool,
    /// Number of documents found before it began. Later ones are parts of it.
    found: usize,
    texts: bool,
}

/// Reads from a possible start of a document. Every byte is read only a few times, however
/// often reading fails: the next attempt begins within the last text at the earliest.
struct DocumentReader<'a> {
    cursor: Cursor<'a>,
    open: Vec<Open>,
    /// Another document may begin from here on.
    last: usize,
}

impl DocumentReader<'_> {
    /// Reads a document, or its complete parts.
    fn document(&mut self, found: &mut Vec<Range<usize>>) -> Option<()> {
        loop {
            self.value(found)?;
            while let Some(top) = self.open.last() {
                let (object, end) = (top.object, if top.object { b'}' } else { b']' });
                if !self.cursor.more(end)? {
                    self.close(found);
                    continue;
                }
                if object {
                    self.name()?;
                }
                break;
            }
            if self.open.is_empty() {
                return Some(());
            }
        }
    }

    /// Reads a value, or up to the first one in it.
    fn value(&mut self, found: &mut Vec<Range<usize>>) -> Option<()> {
        loop {
            self.cursor.blank();
            self.last = self.last.max(self.cursor.place());
            let object = match self.cursor.byte()? {
                b'"' => return self.text(),
                b'{' => true,
                b'[' => false,
                _ => return self.cursor.bare().map(|_| ()),
            };
            let from = self.cursor.place();
            self.open.push(Open { from, object, found: found.len(), texts: false });
            let (open, end) = if object { (b'{', b'}') } else { (b'[', b']') };
            self.last = from + 1;
            if self.cursor.is_empty(open, end)? {
                self.close(found);
                return Some(());
            }
            if object {
                self.name()?;
            }
        }
    }

    fn name(&mut self) -> Option<()> {
        self.cursor.blank();
        self.text()?;
        self.cursor.eat(b':')
    }

    fn text(&mut self) -> Option<()> {
        self.last = self.last.max(self.cursor.place());
        self.cursor.quoted()?;
        if let Some(open) = self.open.last_mut() {
            open.texts = true;
        }
        Some(())
    }

    fn close(&mut self, found: &mut Vec<Range<usize>>) {
        let Some(closed) = self.open.pop() else { return };
        if !closed.texts {
            return;
        }
        found.truncate(closed.found);
        found.push(closed.from..self.cursor.place());
        if let Some(open) = self.open.last_mut() {
            open.texts = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        documents(text).into_iter().map(|found| &text[found]).collect()
    }

    #[test]
    fn json_is_found_among_other_words() {
        for (text, expected) in [
            ("got {\"a\": [1, {\"b\": \"c\"}]} twice", &["{\"a\": [1, {\"b\": \"c\"}]}"][..]),
            ("{\"a\":1}\n{\"b\":2}\n", &["{\"a\":1}", "{\"b\":2}"]),
            ("[INFO] [12] {} x[0]: {x: 1}", &[]),
            ("[WARN {\"a\": \"b\"}]", &["{\"a\": \"b\"}"]),
            // Incomplete: the complete parts count.
            ("[{\"a\": [\"b\"]}, {\"c\": 1} and", &["{\"a\": [\"b\"]}", "{\"c\": 1}"]),
            ("{\"a\": no, \"b\": {\"c\": 1}", &["{\"c\": 1}"]),
            // An unpaired quote.
            ("[\"a, {\"b\": {\"c\": 1}}", &["{\"b\": {\"c\": 1}}"]),
            ("{\"a\": \"", &[]),
            ("{\"é\": \"ü\"} ö {\"ß", &["{\"é\": \"ü\"}"]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn escapes_are_read_and_written() {
        for (written, plain) in [
            (r#"a\nb\tc\\d\"e"#, "a\nb\tc\\d\"e"),
            (r"\u001b[0m", "\u{1b}[0m"),
            (r"\u200bx\u{200b}", "\u{200b}x\u{200b}"),
            (r"\ud83d\ude00", "😀"),
            (r"\x1b\e\0\/\'", "\u{1b}\u{1b}\0/'"),
            (r"\d \ud83d \u{} \u12 \xé \", r"\d \ud83d \u{} \u12 \xé \"),
        ] {
            assert_eq!(unescaped(written), plain, "{written}");
        }
        let plain = "a\nb\t\"c\" \\ \u{1b}\u{200b} é";
        for rust in [true, false] {
            assert_eq!(unescaped(&escaped(plain, rust)), plain);
        }
        assert_eq!(escaped("\u{1b}", true), "\\u{1b}");
        assert_eq!(escaped("\u{1b}", false), "\\u001b");
    }

    #[test]
    fn what_changes_is_written_as_it_was() {
        for (text, expected) in [
            (
                "INFO given=\"it said\\npassword: |\\n  zebra wood\\nnext\" n=1",
                "INFO given=\"it said\\npassword: |\\n  ***\\nnext\" n=1",
            ),
            (
                "got {\"body\": \"{\\\"token\\\":\\\"a b\\\",\\\"n\\\":1}\", \"n\": 1.50}",
                "got {\"body\": \"{\\\"token\\\":\\\"***\\\",\\\"n\\\":1}\", \"n\": 1.50}",
            ),
            (
                "5\" disk given=\"pass\\u{200b}word=x1y2\"",
                "5\" disk given=\"pass\\u{200b}word=***\"",
            ),
        ] {
            assert_eq!(crate::text(text), expected, "{text}");
        }
    }
}
