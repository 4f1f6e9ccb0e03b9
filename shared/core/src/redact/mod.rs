//! Takes secrets out of whatever is shown, sent or recorded. It errs on the side of hiding
//! too much, and costs little where there is nothing to hide.
//!
//! - `rules`: what is taken for a secret by its looks; `names`: by the name it stands under.
//! - `filter`: whether any rule can match at all.
//! - `json`: the same over JSON as it was written; `writer`: over a log.
//!
//! How to add a kind of secret: a row in `rules::RULES`, a line in the table of the tests.

mod filter;
mod json;
mod names;
mod rules;
mod writer;

use std::borrow::Cow;

use serde_json::{Map, Value};

pub use json::json;
pub use writer::{CleanWriter, clean_panics};

/// What stands where a secret stood.
pub const HIDDEN: &str = "***";

/// The text without secrets. One without any costs a walk over its bytes.
pub fn text(text: &str) -> Cow<'_, str> {
    let mut rules = filter::of(text.as_bytes());
    let mut out = Cow::Borrowed(text);
    while rules != 0 {
        if let Cow::Owned(changed) = rules::apply(rules.trailing_zeros() as usize, &out)
            && changed != *out
        {
            out = Cow::Owned(changed);
        }
        rules &= rules - 1;
    }
    out
}

/// Whether a text holds what looks like a secret: such a one is no name for anything.
pub fn holds_secret(given: &str) -> bool {
    matches!(text(given), Cow::Owned(_))
}

/// The text without secrets, where it can be changed in place.
pub fn string(given: &mut String) {
    if let Cow::Owned(clean) = text(given) {
        *given = clean;
    }
}

/// The text without secrets, control characters and what is beyond `most` characters.
pub fn shortened(long: &str, most: usize) -> String {
    // Redact some way beyond the cut, so that it can't halve a secret out of recognition.
    let window: String = long.chars().take(most.saturating_mul(2).saturating_add(200)).collect();
    let clean = text(&window);
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

/// Every text within the value, names included, without secrets.
pub fn value(value: &mut Value) {
    match value {
        Value::String(inner) => string(inner),
        Value::Array(items) => items.iter_mut().for_each(self::value),
        Value::Object(fields) => object(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The same for an object; what stands under a name that tells a secret goes as a whole.
pub fn object(fields: &mut Map<String, Value>) {
    for (name, inner) in fields.iter_mut() {
        under(name, inner);
    }
    if fields.keys().any(|name| holds_secret(name)) {
        let named = std::mem::take(fields).into_iter();
        *fields = named.map(|(name, inner)| (text(&name).into_owned(), inner)).collect();
    }
}

fn under(name: &str, inner: &mut Value) {
    let hides = match &*inner {
        Value::String(said) => names::hides(name, said),
        Value::Number(number) => names::hides(name, &number.to_string()),
        Value::Array(_) | Value::Object(_) | Value::Null | Value::Bool(_) => false,
    };
    match inner {
        _ if hides => *inner = Value::from(HIDDEN),
        Value::Array(items) => items.iter_mut().for_each(|item| under(name, item)),
        Value::Object(fields) if names::tells(name) => fields.values_mut().for_each(hide),
        inner => value(inner),
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
            (r#"{"api_key": "abc def", "n": 1}"#, r#"{"api_key": ***, "n": 1}"#),
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
            ("AccountKey=abc==;Endpoint=x", "AccountKey=***;Endpoint=x"),
            ("Object {\"password\": String(\"a b\")}", "Object {\"password\": ***)}"),
            ("said \"{\\\"token\\\":\\\"a b\\\"}\" once", "said \"{\\\"token\\\":***}\" once"),
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
        let long = format!("{} password=abcdefghijklmnop", "x".repeat(20));
        for most in 1..60 {
            let short = shortened(&long, most);
            assert!(!short.contains("abc"), "{most}: {short}");
            assert!(short.chars().count() <= most, "{most}: {short}");
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
