//! JSON as it was written: what is not hidden stays byte for byte as it was, numbers, order
//! and escapes included.

use std::borrow::Cow;

use super::{HIDDEN, filter, names, text};

/// JSON without secrets. What is no JSON is cleaned as text.
pub fn json(written: &str) -> Cow<'_, str> {
    if !filter::any(written.as_bytes()) {
        return Cow::Borrowed(written);
    }
    let mut scan = Scan { json: written, at: 0, copied: 0, out: String::new() };
    let whole = scan.value(&Under::Nothing, 0).is_some() && {
        scan.blank();
        scan.at == written.len()
    };
    match (whole, scan.copied) {
        (false, _) => text(written),
        (true, 0) => Cow::Borrowed(written),
        (true, copied) => {
            scan.out.push_str(&written[copied..]);
            Cow::Owned(scan.out)
        }
    }
}

/// What the names above a value say of it.
enum Under<'a> {
    Nothing,
    /// Within a list or object whose name tells a secret.
    Secret,
    /// Right under this name, or in a list under it.
    Name(&'a str),
}

struct Scan<'a> {
    json: &'a str,
    at: usize,
    /// Up to here `out` holds what was written; 0 while nothing was hidden.
    copied: usize,
    out: String,
}

/// serde_json reads no deeper, so nothing that we write is.
const DEPTH: usize = 256;

impl<'a> Scan<'a> {
    fn byte(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.byte().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: u8) -> Option<()> {
        self.blank();
        (self.byte()? == wanted).then(|| self.at += 1)
    }

    fn put(&mut self, from: usize, instead: &str) {
        self.out.push_str(&self.json[self.copied..from]);
        self.out.push_str(instead);
        self.copied = self.at;
    }

    /// Reads over one value; nothing if it is none.
    fn value(&mut self, under: &Under<'_>, depth: usize) -> Option<()> {
        self.blank();
        match self.byte()? {
            _ if depth > DEPTH => None,
            b'{' => self.object(under, depth),
            b'[' => self.list(under, depth),
            b'"' => {
                let (from, said) = self.string()?;
                let hides = match under {
                    Under::Nothing => false,
                    Under::Secret => !said.is_empty() && said != HIDDEN,
                    Under::Name(name) => names::hides(name, &said),
                };
                if hides {
                    self.put(from, "\"***\"");
                } else if let Cow::Owned(clean) = text(&said) {
                    self.put(from, &quoted(&clean));
                }
                Some(())
            }
            _ => {
                let from = self.at;
                while self
                    .byte()
                    .is_some_and(|b| !matches!(b, b',' | b'}' | b']') && !b.is_ascii_whitespace())
                {
                    self.at += 1;
                }
                let said = &self.json[from..self.at];
                let number = said.starts_with(|c: char| c == '-' || c.is_ascii_digit());
                let hides = number
                    && match under {
                        Under::Nothing => false,
                        Under::Secret => true,
                        Under::Name(name) => names::hides(name, said),
                    };
                if hides {
                    self.put(from, "\"***\"");
                }
                (number || matches!(said, "true" | "false" | "null")).then_some(())
            }
        }
    }

    fn object(&mut self, under: &Under<'_>, depth: usize) -> Option<()> {
        self.eat(b'{')?;
        let secret = match under {
            Under::Nothing => false,
            Under::Secret => true,
            Under::Name(name) => names::tells(name),
        };
        self.blank();
        if self.byte()? == b'}' {
            return self.eat(b'}');
        }
        loop {
            self.blank();
            let (from, name) = self.string()?;
            if let Cow::Owned(clean) = text(&name) {
                self.put(from, &quoted(&clean));
            }
            self.eat(b':')?;
            let below = if secret { Under::Secret } else { Under::Name(&name) };
            self.value(&below, depth + 1)?;
            self.blank();
            if self.byte()? == b'}' {
                return self.eat(b'}');
            }
            self.eat(b',')?;
        }
    }

    fn list(&mut self, under: &Under<'_>, depth: usize) -> Option<()> {
        self.eat(b'[')?;
        self.blank();
        if self.byte()? == b']' {
            return self.eat(b']');
        }
        loop {
            self.value(under, depth + 1)?;
            self.blank();
            if self.byte()? == b']' {
                return self.eat(b']');
            }
            self.eat(b',')?;
        }
    }

    /// Where a string begins, and what it says.
    fn string(&mut self) -> Option<(usize, Cow<'a, str>)> {
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
                }
                b'"' => break,
                _ => {}
            }
        }
        self.at += 1;
        let quoted = &self.json[from..self.at];
        let said = match escaped {
            false => Cow::Borrowed(&quoted[1..quoted.len() - 1]),
            true => Cow::Owned(serde_json::from_str(quoted).ok()?),
        };
        Some((from, said))
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written")
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
        fn it_stays_json_and_says_what_the_value_cleaned_says(given in any_json()) {
            let written = given.to_string();
            let clean: Value = serde_json::from_str(&json(&written)).unwrap();
            let mut expected = given;
            crate::redact::value(&mut expected);
            prop_assert_eq!(clean, expected);
        }
    }
}
