//! Redacts JSON in its written form. Everything that is not hidden stays the same byte for
//! byte, including numbers, order and escapes.

use std::borrow::Cow;

use super::fields::{self, Items, Pair};
use super::names::{self, NameKind};
use super::{HIDDEN, filter, hidden, plain};

/// JSON without secrets. A text that is not JSON is cleaned as text.
pub fn json(written: &str) -> Cow<'_, str> {
    whole(written, 0).unwrap_or_else(|| plain(written, 0))
}

/// JSON without secrets; `None` if it is not JSON. `nested`: number of texts that enclose it.
pub(super) fn whole(written: &str, nested: usize) -> Option<Cow<'_, str>> {
    if !filter::any(written.as_bytes()) && !veils(written) && !hidden::any(written) {
        return Some(Cow::Borrowed(written));
    }
    let pairs = pairs(written)?;
    let mut scan = Scan {
        cursor: Cursor::at(written, 0),
        nested,
        copied: 0,
        out: String::new(),
        pairs: pairs.into_iter(),
    };
    scan.value(&Under::Nothing)?;
    Some(match scan.copied {
        0 => Cow::Borrowed(written),
        copied => {
            scan.out.push_str(&written[copied..]);
            Cow::Owned(scan.out)
        }
    })
}

/// Whether an escape may hide a word from the filter: any except those for line ends, tabs,
/// quotes and backslashes.
fn veils(written: &str) -> bool {
    let plain = |b: &u8| matches!(b, b'n' | b'r' | b't' | b'"' | b'\\');
    let bytes = written.as_bytes();
    written.match_indices('\\').any(|(at, _)| !bytes.get(at + 1).is_some_and(plain))
}

/// What the names above a value imply for it.
enum Under {
    Nothing,
    /// Within a list or object under a secret's name.
    Secret,
    /// Directly under a name of this kind, or in a list under it.
    Name(NameKind),
}

/// serde_json reads no deeper, so JSON that we write is no deeper.
const DEPTH: usize = 256;

pub(super) struct Cursor<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn at(json: &'a str, at: usize) -> Self {
        Self { json, at }
    }

    pub fn place(&self) -> usize {
        self.at
    }

    pub fn byte(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    pub fn blank(&mut self) {
        while self.byte().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    pub fn eat(&mut self, wanted: u8) -> Option<()> {
        self.blank();
        (self.byte()? == wanted).then(|| self.at += 1)
    }

    /// Whether another item follows in a list or object.
    pub fn more(&mut self, end: u8) -> Option<bool> {
        self.blank();
        if self.byte()? == end {
            self.at += 1;
            return Some(false);
        }
        self.eat(b',').map(|()| true)
    }

    pub fn is_empty(&mut self, open: u8, end: u8) -> Option<bool> {
        self.eat(open)?;
        self.blank();
        Some(self.byte()? == end && self.eat(end).is_some())
    }

    /// Where a string begins, and whether it contains escapes.
    pub fn quoted(&mut self) -> Option<(usize, bool)> {
        let from = self.at;
        if self.byte()? != b'"' {
            return None;
        }
        let mut escaped = false;
        loop {
            self.at += 1;
            match self.byte()? {
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                    self.is_escape().then_some(())?;
                }
                b'"' => break,
                _ => {}
            }
        }
        self.at += 1;
        Some((from, escaped))
    }

    /// Whether this is a JSON escape and not one of another language, such as `\0`.
    fn is_escape(&self) -> bool {
        match self.byte() {
            Some(b'u') => self.json.as_bytes().get(self.at + 1).is_some_and(u8::is_ascii_hexdigit),
            Some(b) => matches!(b, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't'),
            None => false,
        }
    }

    /// Where a string begins, and its content.
    fn string(&mut self) -> Option<(usize, Cow<'a, str>)> {
        let (from, escaped) = self.quoted()?;
        let quoted = self.json.get(from..self.at)?;
        let said = match escaped {
            false => Cow::Borrowed(&quoted[1..quoted.len() - 1]),
            true => Cow::Owned(serde_json::from_str(quoted).ok()?),
        };
        Some((from, said))
    }

    /// A number or literal, and whether it is a number. Reads no further than its end.
    pub fn bare(&mut self) -> Option<(&'a str, bool)> {
        let rest = &self.json[self.at..];
        let number = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let (said, is_number) = match rest.as_bytes().first()? {
            b'0'..=b'9' | b'-' => (&rest[..rest.bytes().take_while(number).count()], true),
            _ => (*["true", "false", "null"].iter().find(|word| rest.starts_with(**word))?, false),
        };
        self.at += said.len();
        Some((said, is_number))
    }
}

/// What the fields of each object imply for one another, in the order in which the objects
/// begin. `None` if this is not JSON.
fn pairs(written: &str) -> Option<Vec<Pair>> {
    let mut cursor = Cursor::at(written, 0);
    let mut pairs = Vec::new();
    pairs_in(&mut cursor, &mut pairs, 0)?;
    cursor.blank();
    (cursor.at == written.len()).then_some(pairs)
}

fn pairs_in(cursor: &mut Cursor<'_>, pairs: &mut Vec<Pair>, depth: usize) -> Option<()> {
    cursor.blank();
    match cursor.byte()? {
        _ if depth > DEPTH => None,
        b'{' => {
            let own = pairs.len();
            pairs.push(Pair::default());
            if cursor.is_empty(b'{', b'}')? {
                return Some(());
            }
            loop {
                cursor.blank();
                let (_, name) = cursor.string()?;
                cursor.eat(b':')?;
                cursor.blank();
                if cursor.byte()? == b'"' && fields::is_name(&name) {
                    let (_, said) = cursor.string()?;
                    pairs[own].named(&said);
                } else {
                    pairs_in(cursor, pairs, depth + 1)?;
                }
                pairs[own].has(&name);
                if !cursor.more(b'}')? {
                    return Some(());
                }
            }
        }
        b'[' => {
            if cursor.is_empty(b'[', b']')? {
                return Some(());
            }
            loop {
                pairs_in(cursor, pairs, depth + 1)?;
                if !cursor.more(b']')? {
                    return Some(());
                }
            }
        }
        b'"' => cursor.quoted().map(|_| ()),
        _ => cursor.bare().map(|_| ()),
    }
}

/// Reads text that [`pairs`] has found to be JSON.
struct Scan<'a> {
    cursor: Cursor<'a>,
    nested: usize,
    /// `out` contains the text up to here; 0 while nothing was hidden.
    copied: usize,
    out: String,
    pairs: std::vec::IntoIter<Pair>,
}

impl Scan<'_> {
    fn put(&mut self, from: usize, instead: &str) {
        self.out.push_str(&self.cursor.json[self.copied..from]);
        self.out.push_str(instead);
        self.copied = self.cursor.at;
    }

    /// Reads one value; `None` if there is none.
    fn value(&mut self, under: &Under) -> Option<()> {
        self.cursor.blank();
        match self.cursor.byte()? {
            b'{' => self.object(under),
            b'[' => self.list(under),
            b'"' => {
                let (from, said) = self.cursor.string()?;
                let hides = match under {
                    Under::Nothing => false,
                    Under::Secret => !said.is_empty() && said != HIDDEN,
                    Under::Name(kind) => names::hides(*kind, &said),
                };
                if hides {
                    self.put(from, "\"***\"");
                } else if let Cow::Owned(clean) = super::nested(&said, self.nested + 1) {
                    self.put(from, &quoted(&clean));
                }
                Some(())
            }
            _ => {
                let from = self.cursor.at;
                let (said, number) = self.cursor.bare()?;
                let hides = match under {
                    Under::Nothing => false,
                    Under::Secret => number,
                    Under::Name(kind) => number && names::hides(*kind, said),
                };
                if hides {
                    self.put(from, "\"***\"");
                }
                Some(())
            }
        }
    }

    fn object(&mut self, under: &Under) -> Option<()> {
        let pair = self.pairs.next()?;
        let secret = matches!(under, Under::Secret | Under::Name(NameKind::Secret));
        if self.cursor.is_empty(b'{', b'}')? {
            return Some(());
        }
        loop {
            self.cursor.blank();
            let (from, name) = self.cursor.string()?;
            if let Cow::Owned(clean) = super::nested(&name, self.nested + 1) {
                self.put(from, &quoted(&clean));
            }
            self.cursor.eat(b':')?;
            let below = if secret { Under::Secret } else { Under::Name(pair.kind_of(&name)) };
            self.value(&below)?;
            if !self.cursor.more(b'}')? {
                return Some(());
            }
        }
    }

    fn list(&mut self, under: &Under) -> Option<()> {
        if self.cursor.is_empty(b'[', b']')? {
            return Some(());
        }
        let mut items = Items::new(self.nested);
        let kind = match under {
            Under::Secret => None,
            Under::Nothing => Some(NameKind::Plain),
            Under::Name(kind) => Some(*kind),
        };
        loop {
            self.cursor.blank();
            match (self.cursor.byte()?, kind) {
                (b'"', Some(kind)) => {
                    let (from, said) = self.cursor.string()?;
                    if let Cow::Owned(clean) = items.clean(&said, kind) {
                        self.put(from, &quoted(&clean));
                    }
                }
                _ => {
                    items.pass();
                    self.value(under)?;
                }
            }
            if !self.cursor.more(b']')? {
                return Some(());
            }
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string serializes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json as value};

    use super::*;

    #[test]
    fn what_is_not_hidden_stays_byte_for_byte() {
        let given = "{\"z\": 1.50, \"a\":-0.0, \"password\":\"hunter2\",\n\"t\":\"\\u00e9\\n\", \
                     \"tokens\":123, \"n\":1e3}";
        let expected = given.replace("hunter2", HIDDEN);
        assert_eq!(json(given), expected);
        for plain in
            ["{\"z\": 1.50, \"secret_name\": \"\\u00e9\"}", "[]", "{}", "\"tokens: 12\"", "12"]
        {
            assert!(matches!(json(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn names_above_values_count() {
        for (given, expected) in [
            (
                value!({"password": ["a1", "b2"], "n": 1}),
                value!({"password": ["***", "***"], "n": 1}),
            ),
            (
                value!({"credentials": {"user": "bob", "deep": [{"x": "y1"}], "port": 5}}),
                value!({"credentials": {"user": "***", "deep": [{"x": "***"}], "port": "***"}}),
            ),
            (
                value!({"tokens": {"period": "day", "used": 5}}),
                value!({"tokens": {"period": "day", "used": 5}}),
            ),
            (
                value!({"pin_password": 1234, "token": null}),
                value!({"pin_password": "***", "token": null}),
            ),
        ] {
            assert_eq!(json(&given.to_string()), expected.to_string());
        }
    }

    #[test]
    fn a_key_right_after_an_escape_is_found() {
        let given =
            value!({"log": "first\nghp_abcdefghijklmnopqrstuvwxyz0123\tsk-abcdefghijklmnop1234"});
        assert_eq!(json(&given.to_string()), value!({"log": "first\n***\tsk-***"}).to_string());
        let name = value!({"ghp_abcdefghijklmnopqrstuvwxyz0123": 1});
        assert_eq!(json(&name.to_string()), value!({"***": 1}).to_string());
    }

    #[test]
    fn what_is_no_json_is_cleaned_as_text() {
        assert_eq!(json("{\"a\": password=x1"), "{\"a\": password=***");
        assert_eq!(json("plain secret=x1"), "plain secret=***");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}|password=[a-z]{3}|[\\n\\t\"\\\\]{1,4}ghp_[a-z0-9]{24}"
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-z]{1,6}|token|my_secret", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_result_is_json_and_equals_the_cleaned_value(given in any_json()) {
            let written = given.to_string();
            let clean: Value = serde_json::from_str(&json(&written)).unwrap();
            let mut expected = given;
            crate::value(&mut expected);
            prop_assert_eq!(clean, expected);
        }
    }
}
