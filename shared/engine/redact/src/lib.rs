//! Removes secrets from everything that is shown, sent or recorded. When in doubt it hides too
//! much, and it costs little where there is nothing to hide.
//!
//! - `rules`: the table of rules for secrets. By appearance: `tokens`, `urls`, `headers`,
//!   `commands`. By `names`: `assigned`, `blocks` of lines, `markup`.
//! - `filter`: which rules can match at all.
//! - `hidden`: invisible characters. A text is checked with and without them.
//! - `within`: texts that are embedded in a text: JSON among other words, and escaped texts.
//! - `json`: redacts JSON in its written form. `fields`: what neighbouring fields and items
//!   imply. `writer`: redacts a log.
//!
//! The time of every rule is linear in the text, whatever it contains
//! (`tests/redaction/growth.rs`).
//!
//! To add a secret by its name (`activation_phrase`): not a rule, but entries in `names`: in
//! `SECRET` (flattened: `activationphrase`), and in `STEMS` each spelling (`activation_phrase`,
//! `activationphrase`), because texts are searched by stems first. By its appearance: a row in `rules::RULES`, or in the table of its
//! module, and a hostile text in the growth test. Either way a form in testkit's
//! `planted/forms.txt`.

mod assigned;
mod blocks;
mod commands;
mod edit;
mod fields;
mod filter;
mod headers;
mod hidden;
mod json;
mod markup;
mod names;
mod rules;
mod tokens;
mod urls;
mod within;
mod writer;

use std::borrow::Cow;

use serde_json::{Map, Value};

use fields::{Items, Pair};
use names::NameKind;

pub use hidden::without_controls;
pub use json::json;
pub use writer::{RedactingWriter, clean_panics};

/// Replaces a secret.
pub const HIDDEN: &str = "***";

/// The text without secrets. A text without any costs one pass over its bytes.
pub fn text(text: &str) -> Cow<'_, str> {
    nested(text, 0)
}

/// Nesting depth to which an embedded text is decoded. A deeper one is cleaned as it is.
const MAX_NESTED: usize = 4;

/// Like [`text`], for a text that was embedded in `nested` others.
fn nested(text: &str, nested: usize) -> Cow<'_, str> {
    if text.starts_with(['{', '[']) && nested < MAX_NESTED {
        return json::whole(text, nested).unwrap_or_else(|| plain(text, nested));
    }
    plain(text, nested)
}

/// Like [`nested`], for a text that is not JSON as a whole.
fn plain(text: &str, nested: usize) -> Cow<'_, str> {
    let clean = read(text, nested);
    if !hidden::any(&clean) {
        return clean;
    }
    // Characters that are stripped or not shown later must not prevent a rule from matching.
    // Embedded texts are then read twice, so this counts as one level deeper.
    let visible = hidden::visible(&clean);
    match read(&visible, nested + 1) {
        Cow::Owned(again) => Cow::Owned(again),
        Cow::Borrowed(_) => clean,
    }
}

/// Embedded texts come first: a rule may take an escape for a part of a value.
fn read(text: &str, nested: usize) -> Cow<'_, str> {
    let rules = filter::of(text.as_bytes());
    if !within::may(text, rules != 0) {
        return ruled(text, rules);
    }
    match within::apply(text, nested) {
        Cow::Borrowed(text) => ruled(text, rules),
        inner => then(inner, |text| ruled(text, filter::of(text.as_bytes()))),
    }
}

fn ruled(text: &str, mut rules: filter::Mask) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    while rules != 0 {
        let rule = rules.trailing_zeros() as usize;
        out = then(out, |text| rules::apply(rule, text));
        rules &= rules - 1;
    }
    match out {
        Cow::Owned(same) if same == text => Cow::Borrowed(text),
        out => out,
    }
}

/// Applies the next step to the result of the one before.
fn then<'a>(text: Cow<'a, str>, step: impl for<'b> Fn(&'b str) -> Cow<'b, str>) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => step(text),
        Cow::Owned(changed) => Cow::Owned(match step(&changed) {
            Cow::Owned(again) => again,
            Cow::Borrowed(_) => changed,
        }),
    }
}

/// The name of each rule and of each other way in which a text is read, so that a test can
/// check that it covers all of them.
pub fn rules() -> impl Iterator<Item = &'static str> {
    rules::RULES.iter().map(|rule| rule.name).chain(["hidden", "within", "json"])
}

/// Whether a text contains what looks like a secret. Such a text must not be used as a name.
pub fn holds_secret(given: &str) -> bool {
    matches!(text(given), Cow::Owned(_))
}

/// Removes secrets from a text in place.
pub fn string(given: &mut String) {
    if let Cow::Owned(clean) = text(given) {
        *given = clean;
    }
}

/// The text without secrets and control characters, cut to `most` characters.
pub fn shortened(long: &str, most: usize) -> String {
    // The whole text is cleaned first: an earlier cut could halve a secret, and hiding one
    // moves later text forward.
    let clean = text(long);
    let mut out = String::with_capacity(clean.len().min(most * 4));
    for (n, c) in clean.chars().enumerate() {
        if n + 1 >= most && clean.chars().nth(most).is_some() {
            out.push('…');
            break;
        }
        out.push(if c.is_control() && c != '\n' { ' ' } else { c });
    }
    out
}

/// Removes secrets from every text within the value, names included.
pub fn value(value: &mut Value) {
    under(NameKind::Plain, value);
}

/// Like [`value`], for an object. A value under a secret's name is hidden as a whole.
pub fn object(fields: &mut Map<String, Value>) {
    let mut pair = Pair::default();
    for (name, inner) in fields.iter() {
        pair.has(name);
        if let Value::String(said) = inner
            && fields::is_name(name)
        {
            pair.named(said);
        }
    }
    for (name, inner) in fields.iter_mut() {
        under(pair.kind_of(name), inner);
    }
    if fields.keys().any(|name| matches!(nested(name, 1), Cow::Owned(_))) {
        let named = std::mem::take(fields).into_iter();
        *fields = named.map(|(name, inner)| (nested(&name, 1).into_owned(), inner)).collect();
    }
}

fn under(kind: NameKind, inner: &mut Value) {
    match inner {
        Value::String(said) if names::hides(kind, said) => *inner = Value::from(HIDDEN),
        Value::String(said) => {
            if let Cow::Owned(clean) = nested(said, 1) {
                *said = clean;
            }
        }
        Value::Number(number) => {
            if kind != NameKind::Plain && names::hides(kind, &number.to_string()) {
                *inner = Value::from(HIDDEN);
            }
        }
        Value::Array(items) => list(kind, items),
        Value::Object(fields) if kind == NameKind::Secret => fields.values_mut().for_each(hide),
        Value::Object(fields) => object(fields),
        Value::Null | Value::Bool(_) => {}
    }
}

fn list(kind: NameKind, items: &mut [Value]) {
    let mut texts = Items::new(0);
    for item in items {
        if let Value::String(said) = item {
            if let Cow::Owned(clean) = texts.clean(said, kind) {
                *said = clean;
            }
        } else {
            texts.pass();
            under(kind, item);
        }
    }
}

fn hide(inner: &mut Value) {
    match inner {
        Value::String(said) if said.is_empty() => {}
        Value::String(_) | Value::Number(_) => *inner = Value::from(HIDDEN),
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => fields.values_mut().for_each(hide),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_go_and_what_explains_them_stays() {
        for (line, expected) in [
            ("login failed password=hunter2 for bob", "login failed password=*** for bob"),
            (r#"{"api_key": "abc def", "n": 1}"#, r#"{"api_key": "***", "n": 1}"#),
            (r#"got {"api_key": "abc def", "n": 1}"#, r#"got {"api_key": "***", "n": 1}"#),
            ("Authorization: Bearer abc.def.ghi", "Authorization: ***"),
            ("sent bearer abcdefgh12345 to it", "sent bearer *** to it"),
            ("postgres://app:s3cr3t@db:5432/x refused", "postgres://***@db:5432/x refused"),
            ("amqp://u:p@ss@mq/ down", "amqp://***@mq/ down"),
            ("Cookie: a=b; c=d", "Cookie: ***"),
            ("key AKIAIOSFODNN7EXAMPLE denied", "key *** denied"),
            ("ghp_abcdefghijklmnopqrstuvwxyz0123456789 bad", "*** bad"),
            ("GET /cb?code=xyz&state=1", "GET /cb?code=***&state=1"),
            ("AWS_SECRET_ACCESS_KEY='x y'", "AWS_SECRET_ACCESS_KEY=***"),
            ("mysql --password hunter2 -h db", "mysql --password *** -h db"),
            ("the password is hunter2", "the password is ***"),
            ("the password is nothing", "the password is ***"),
            ("the api key was: Not4You", "the api key was: ***"),
            ("the passphrase is no more apples", "the passphrase is ***"),
            ("the passphrase is invalid: correct horse battery staple", "the passphrase is ***"),
            ("the seed phrase was refused abandon ability able about", "the seed phrase was ***"),
            (
                "the mnemonic is not set for this wallet yet",
                "the mnemonic is not set for this wallet yet",
            ),
            ("AccountKey=abc==;Endpoint=x", "AccountKey=***;Endpoint=x"),
            ("Object {\"password\": String(\"a b\")}", "Object {\"password\": ***)}"),
            (
                "said \"{\\\"token\\\":\\\"a b\\\"}\" once",
                "said \"{\\\"token\\\":\\\"***\\\"}\" once",
            ),
            ("tokens: 123 of 4000 used", "tokens: 123 of 4000 used"),
            (
                "send X-API-Key: <key> or Authorization: Bearer <token>",
                "send X-API-Key: <key> or Authorization: Bearer <token>",
            ),
            (
                "clone https://x0123456789abcdef@host/r and git@host:r",
                "clone https://***@host/r and git@host:r",
            ),
            (
                "basic monitoring and bearer authentication",
                "basic monitoring and bearer authentication",
            ),
            ("wb_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "***"),
            ("wb_01234567 is a prefix", "wb_01234567 is a prefix"),
            (
                "GET /o?X-Amz-Credential=AKIA/x&X-Amz-Signature=ab12&n=1",
                "GET /o?X-Amz-Credential=***&X-Amz-Signature=***&n=1",
            ),
            (
                "plan_hash=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "plan_hash=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            ),
            (
                "disk-usage-of-the-machine and task_id=019a00c8-9480-7000",
                "disk-usage-of-the-machine and task_id=019a00c8-9480-7000",
            ),
            ("t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln end", "t=*** end"),
        ] {
            assert_eq!(text(line), expected, "{line}");
        }
    }

    #[test]
    fn plain_lines_stay_as_they_are() {
        for line in [
            "connection refused to db:5432 after 3 tries",
            "https://example.com/a/b?page=2 gave 500",
            "user bob@example.com could not be found",
            "",
        ] {
            assert!(matches!(text(line), Cow::Borrowed(_)), "{line}");
        }
    }

    #[test]
    fn a_whole_private_key_goes_also_when_cut_off() {
        let pem = "x -----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY----- y";
        assert_eq!(text(pem), "x *** y");
        assert_eq!(text("x -----BEGIN PRIVATE KEY-----\nMIIE"), "x ***");
    }

    #[test]
    fn values_are_cleaned_by_name_and_by_content() {
        let mut given = json!({"token": "abc", "list": ["password=x", 1], "in": {"note": "ok"}});
        value(&mut given);
        assert_eq!(
            given,
            json!({"token": "***", "list": ["password=***", 1], "in": {"note": "ok"}})
        );
    }

    #[test]
    fn a_cut_never_shows_half_a_secret() {
        // Secrets that are known by name, by form and length, and by an end far away; and one
        // that comes closer to the cut because a value before it is hidden.
        let key = format!("ghp_{}", "abc1".repeat(9));
        for secret in [
            "password=abcdefghijklmnop".to_owned(),
            key.clone(),
            format!("https://bob:{}@example.com", "abc1".repeat(20)),
            format!(
                "-----BEGIN PRIVATE KEY-----\nabc1{}\n-----END PRIVATE KEY-----",
                "x".repeat(500)
            ),
            format!("password={} {key}", "abc1".repeat(100)),
        ] {
            let long = format!("{} {secret} end", "x".repeat(20));
            for most in 1..100 {
                let short = shortened(&long, most);
                assert!(!short.contains("abc"), "{most}: {short}");
                assert!(short.chars().count() <= most, "{most}: {short}");
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_leaks_a_marked_secret(before in ".{0,40}", secret in "[a-zA-Z0-9]{6,20}") {
            let line = format!("{before}\npassword={secret}\nnext");
            let clean = text(&line);
            let leaked = format!("password={secret}");
            prop_assert!(!clean.contains(&leaked));
            shortened(&line, 30);
        }
    }
}
