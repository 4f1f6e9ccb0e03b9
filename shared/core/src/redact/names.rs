//! Names that tell a secret: `password`, `API_KEY`, `clientSecret`.

use super::{HIDDEN, filter};

/// One of these stands in each such name; see [`PARTS`].
pub(super) const WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "_pass",
    "-pass",
    ".pass",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "accountkey",
    "account_key",
    "account-key",
    "privatekey",
    "private_key",
    "private-key",
    "signingkey",
    "signing_key",
    "signing-key",
    "credential",
    "sessionid",
    "session_id",
    "session-id",
    "signature",
];

/// `name=value` in text: the name with its sign, then the value. Quotes may have been escaped,
/// once or more often, and a terminal's colours may stand between.
pub(super) const ASSIGNED: &str = concat!(
    r#"(?i)([A-Za-z0-9_.-]*(?:"#,
    r#"password|passwd|passphrase|pwd|[_.-]pass|secret|token|api[_-]?key|access[_-]?key"#,
    r#"|account[_-]?key|private[_-]?key|signing[_-]?key|credential|session[_-]?id|signature"#,
    r#")[A-Za-z0-9_.-]*(?:\\*["'])?(?:\x1b\[[0-9;]*m)*\s*(?:=>|[:=])\s*(?:\x1b\[[0-9;]*m)*)"#,
    r#"((?:[A-Za-z]{1,16}\()?"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?"#,
    r#"|\\"(?:[^"\\]|\\\\(?:\\["\\]|[^"\\]))*(?:\\")?|\\+["'][^"']*["']?"#,
    r#"|[^\s,;&}\])"']+)"#,
);

const PARTS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "_pass",
    "secret",
    "token",
    "api_key",
    "apikey",
    "access_key",
    "accesskey",
    "account_key",
    "accountkey",
    "private_key",
    "privatekey",
    "signing_key",
    "signingkey",
    "credential",
    "session_id",
    "sessionid",
    "signature",
];

/// What such a name may end in and be about a secret without being one.
const ABOUT: &[&str] = &[
    "name",
    "arn",
    "type",
    "kind",
    "count",
    "length",
    "policy",
    "version",
    "ttl",
    "limit",
    "budget",
    "usage",
    "used",
    "expires_in",
    "expires_at",
    "issued_at",
    "rotated_at",
    "created_at",
    "url",
    "uri",
    "endpoint",
    "seconds",
    "days",
    "algorithm",
];

/// Whether what stands under this name is a secret, whatever it looks like.
pub(super) fn tells(name: &str) -> bool {
    sort(name) == Sort::Secret
}

/// Whether this value under this name is to be hidden.
pub(super) fn hides(name: &str, value: &str) -> bool {
    let bare = value.trim_matches(['"', '\'', '\\', '`']);
    if bare.is_empty() || bare == HIDDEN || bare.starts_with('<') && bare.ends_with('>') {
        return false;
    }
    match sort(name) {
        Sort::Plain => false,
        Sort::Secret => !matches!(bare, "null" | "none" | "None" | "true" | "false"),
        // `tokens: 123`, `tokens: {"input": 5}`: how many, not which.
        Sort::Many => {
            let counted =
                bare.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'/'));
            let word = bare.len() <= 12 && bare.bytes().all(|b| b.is_ascii_lowercase());
            !counted && !word && !bare.starts_with(['{', '['])
        }
    }
}

/// The name in front of a value in text.
pub(super) fn in_text(before: &str) -> &str {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let end = before.find(|c: char| !word(c)).unwrap_or(before.len());
    &before[..end]
}

#[derive(PartialEq, Eq)]
enum Sort {
    Plain,
    Secret,
    /// `tokens`: as often counted as listed.
    Many,
}

fn sort(name: &str) -> Sort {
    if name.len() > 3 && !filter::any(name.as_bytes()) {
        return Sort::Plain;
    }
    // The longest of our own is 32 bytes long; nobody's secret has a name of kilobytes.
    let name: String = name
        .chars()
        .take(256)
        .map(|c| match c {
            '-' | '.' | ' ' => '_',
            c => c.to_ascii_lowercase(),
        })
        .collect();
    if !PARTS.iter().any(|part| name.contains(part)) {
        return Sort::Plain;
    }
    let about = ABOUT.iter().any(|about| {
        name.strip_suffix(about).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    });
    if about {
        return Sort::Plain;
    }
    let others = PARTS.iter().filter(|part| **part != "token");
    match name.contains("tokens") && !others.into_iter().any(|part| name.contains(part)) {
        true => Sort::Many,
        false => Sort::Secret,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_a_secret_or_how_many_or_something_about_it() {
        for name in
            ["password", "DB_PASSWORD", "apiKey", "client-secret", "x.auth.token", "smtp_pass"]
        {
            assert!(tells(name) && hides(name, "x1"), "{name}");
        }
        for (name, value) in [
            ("tokens", "123"),
            ("input_tokens", "5"),
            ("tokens", "used"),
            ("token_type", "bearer"),
            ("secret_arn", "arn:aws:secretsmanager:eu-west-1:1:secret:x"),
            ("plan_hash", "ab12"),
            ("next_cursor", "1.2"),
            ("password", "<password>"),
            ("has_password", "true"),
            ("passenger", "bob"),
        ] {
            assert!(!hides(name, value), "{name}");
        }
        assert!(hides("tokens", "abc123def"));
        assert!(hides("password", "123456"));
    }
}
