//! Takes secrets out of whatever is reported. It errs on the side of hiding too much.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// What stands where a secret stood.
pub const HIDDEN: &str = "***";

/// Pattern and what takes its place, applied in this order.
const RULES: &[(&str, &str)] = &[
    // Private keys in PEM, also when they were cut off.
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", "***"),
    // Headers that are secret as a whole.
    (r"(?i)\b((?:set-)?cookie\s*:\s*)[^\r\n]+", "${1}***"),
    (
        r#"(?i)(\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?)(?:(?:bearer|basic|digest|token|aws4-hmac-sha256)\s+)?[^\s"',;]+"#,
        "${1}***",
    ),
    (r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}", "${1} ***"),
    // Connection strings and URLs with a user.
    (r#"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@:"'<>]*:[^\s/"'<>]*@"#, "${1}***@"),
    (r"(?i)(hooks\.slack\.com/(?:services|workflows)/)[^\s]+", "${1}***"),
    // name=value, name: value and "name": "value" where the name tells a secret.
    (
        r#"(?i)(["']?[\w.-]*(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|account[_-]?key|private[_-]?key|credential|session[_-]?id|signature|x-amz-security-token)[\w.-]*["']?\s*[:=]\s*)("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&}\])]+)"#,
        "${1}***",
    ),
    (r"(?i)([?&](?:sig|key|code|auth)=)[^\s&#]+", "${1}***"),
    // `password is hunter2`, `--password hunter2`
    (r"(?i)(\b(?:password|passwd|passphrase|secret|api key)\s+(?:is|was)\s+)\S+", "${1}***"),
    (r"(?i)(--?(?:password|passwd|secret|token|api-key)\s+)[^\s-]\S*", "${1}***"),
    // Keys that are known by their looks.
    (r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b", "***"),
    (r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,})", "***"),
    (r"\bxox[abeoprs]-[A-Za-z0-9-]{8,}", "***"),
    (r"\b(?:sk|rk|pk|whsec)[_-](?:live_|test_|proj-|ant-)?[A-Za-z0-9_-]{16,}", "***"),
    (r"\bAIza[A-Za-z0-9_-]{30,}", "***"),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?", "***"),
];

static COMPILED: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let compile = |&(pattern, with): &(&str, &'static str)| {
        (Regex::new(pattern).expect("the table's patterns are valid: a test compiles them"), with)
    };
    RULES.iter().map(compile).collect()
});

/// The text without secrets.
pub fn text(text: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(text);
    for (pattern, with) in COMPILED.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(&out, *with) {
            out = Cow::Owned(changed);
        }
    }
    out
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

/// Every text within the value, keys aside, without secrets.
pub fn value(value: &mut Value) {
    match value {
        Value::String(inner) => {
            if let Cow::Owned(changed) = text(inner) {
                *inner = changed;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(self::value),
        Value::Object(fields) => object(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The same for an object; a text under a name that tells a secret goes as a whole.
pub fn object(fields: &mut Map<String, Value>) {
    for (name, inner) in fields.iter_mut() {
        if inner.is_string() && tells_a_secret(name) {
            *inner = Value::String(HIDDEN.to_owned());
        } else {
            value(inner);
        }
    }
}

fn tells_a_secret(name: &str) -> bool {
    text(&format!("{name}=x")).ends_with(HIDDEN)
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
