//! Names of secrets: `password`, `API_KEY`, `clientSecret`.

use std::sync::LazyLock;

use regex::Regex;

use super::edit::{ceil_boundary, floor_boundary};
use super::{HIDDEN, hidden};

/// What the name of a value implies for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    Plain,
    /// The value is a secret, whatever its form.
    Secret,
    /// The value is a secret unless it is a status or a location: `pass: ok`, `ssh_key:
    /// ~/.ssh/id`.
    Likely,
    /// The value may be a secret: `auth: none` is not, `auth: dXNlcjpw` is.
    Perhaps,
    /// `tokens`: may be a count or a list of secrets.
    Many,
}

/// Finds names in running text; [`SECRET`] says whether a found name tells a secret.
///
/// Each name of a secret contains one of these or ends in one of [`ENDS`]. Most may be anywhere
/// in it.
pub(super) const STEMS: &[&str] = &[
    "passw",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "credential",
    "session",
    "sessid",
    "signature",
    "cookie",
    "authorization",
    "mnemonic",
    "csrf",
    "xsrf",
    "recovery_code",
    "recoverycode",
    "backup_code",
    "backupcode",
    "seed_phrase",
    "seedphrase",
    "client_assertion",
    "clientassertion",
    "code_verifier",
    "codeverifier",
    "credit_card",
    "creditcard",
    "card_number",
    "cardnumber",
    "contrase",
    "key_data",
    "key-data",
    "bearer",
    "pwd",
];

/// Only at the end of a name, so that a sign follows: `api_key=`, `"pw":`.
pub(super) const ENDS: &[&str] = &[
    "key", "keys", "pass", "auth", "pw", "jwt", "otp", "pin", "sid", "salt", "seed", "cvv", "cvc",
];

/// Possible positions of names of secrets.
pub(super) static STEM: LazyLock<Regex> = LazyLock::new(|| {
    let stems: Vec<&str> = STEMS.iter().chain(ENDS).copied().collect();
    Regex::new(&format!("(?i){}", stems.join("|"))).expect("stems are plain letters")
});

/// Which names tell a secret, by their parts, without separators: `x.api-key` is `xapikey`. Text is
/// searched by [`STEMS`] first, so a new name needs an entry in both.
const SECRET: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "accountkey",
    "privatekey",
    "signingkey",
    "credential",
    "sessionid",
    "signature",
    "contrase",
    "mnemonic",
    "seedphrase",
    "recoverycode",
    "backupcode",
    "clientassertion",
    "codeverifier",
    "creditcard",
    "cardnumber",
    "sessid",
    "csrf",
    "xsrf",
];

/// The last word of a name.
const SECRET_LAST: &[&str] = &["pw", "passw", "jwt", "cvv", "cvc"];

/// Words before `key` that make it secret: `ssh_key`, but not `primary_key`.
const KEYS: &[&str] = &[
    "account",
    "admin",
    "aes",
    "api",
    "app",
    "application",
    "auth",
    "cert",
    "cipher",
    "client",
    "crypto",
    "crypt",
    "db",
    "database",
    "decryption",
    "decrypt",
    "deploy",
    "encryption",
    "encrypt",
    "hmac",
    "ingest",
    "insert",
    "integration",
    "jwt",
    "license",
    "licence",
    "master",
    "pgp",
    "gpg",
    "preshared",
    "priv",
    "root",
    "rsa",
    "server",
    "service",
    "shared",
    "sign",
    "ssh",
    "ssl",
    "storage",
    "subscription",
    "tls",
    "validation",
    "webhook",
    "write",
];

/// Words before `pass`, without a separator: `dbpass`, but not `bypass`.
const PASSES: &[&str] = &[
    "admin", "become", "db", "ftp", "key", "login", "mail", "mysql", "proxy", "root", "smtp",
    "ssl", "store", "sudo", "user",
];

const PERHAPS_LAST: &[&str] = &[
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "cookies",
    "otp",
    "pin",
    "salt",
    "seed",
    "session",
    "sid",
    "totp",
];

/// Endings of names that are about a secret but are not one.
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

/// Longest name of a secret. Of a longer name both ends are checked.
const MAX_NAME: usize = 256;

pub(super) fn kind(name: &str) -> NameKind {
    let name = &*hidden::visible(name);
    if !STEM.is_match(name) && !name.contains(SEPARATORS) {
        return NameKind::Plain;
    }
    if name.len() <= MAX_NAME {
        return kind_of(name);
    }
    let head = floor_boundary(name, MAX_NAME);
    let tail = ceil_boundary(name, name.len() - MAX_NAME);
    match kind_of(&name[..head]) {
        NameKind::Plain => kind_of(&name[tail..]),
        kind => kind,
    }
}

fn kind_of(name: &str) -> NameKind {
    let Split { flat, lower, last } = split(name);
    if !SECRET.iter().any(|part| flat.contains(part)) {
        return weaker(&flat, &lower, &last);
    }
    if is_about(&lower) {
        return NameKind::Plain;
    }
    let mut others = SECRET.iter().filter(|part| **part != "token");
    match lower.contains("tokens") && !others.any(|part| flat.contains(part)) {
        true => NameKind::Many,
        false => NameKind::Secret,
    }
}

/// The kind of a name without a word that suffices by itself.
fn weaker(flat: &str, lower: &str, last: &str) -> NameKind {
    let of = |suffix: &str, what: &[&str]| {
        let before =
            flat.strip_suffix(suffix).or_else(|| flat.strip_suffix('s')?.strip_suffix(suffix));
        before.is_some_and(|before| what.iter().any(|what| before.ends_with(what)))
    };
    if SECRET_LAST.contains(&last) {
        return NameKind::Secret;
    }
    let passes = || lower.split('_').any(|word| word == "pass");
    if last == "pass"
        || passes()
        || of("pass", PASSES)
        || of("key", KEYS)
        || flat.ends_with("keydata")
    {
        return NameKind::Likely;
    }
    match PERHAPS_LAST.contains(&last) && !is_about(lower) {
        true => NameKind::Perhaps,
        false => NameKind::Plain,
    }
}

fn is_about(lower: &str) -> bool {
    ABOUT.iter().any(|about| {
        lower.strip_suffix(about).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
    })
}

const SEPARATORS: [char; 5] = ['-', '.', ' ', ':', '_'];

struct Split {
    /// In lower case, without separators.
    flat: String,
    /// In lower case, with `_` for every separator.
    lower: String,
    /// The last word. A capital letter within a word also begins one.
    last: String,
}

fn split(name: &str) -> Split {
    let (mut flat, mut lower) =
        (String::with_capacity(name.len()), String::with_capacity(name.len()));
    let mut last = String::new();
    let mut before = '_';
    for c in name.trim_matches(SEPARATORS).chars() {
        if SEPARATORS.contains(&c) {
            lower.push('_');
            last.clear();
        } else {
            if c.is_ascii_uppercase() && !before.is_ascii_uppercase() {
                last.clear();
            }
            let small = c.to_ascii_lowercase();
            flat.push(small);
            lower.push(small);
            last.push(small);
        }
        before = c;
    }
    Split { flat, lower, last }
}

/// Whether a value under a name of this kind must be hidden.
pub(super) fn hides(kind: NameKind, value: &str) -> bool {
    let bare = value.trim_matches(['"', '\'', '\\', '`']);
    let placeholder = bare.len() <= MAX_PLACE && bare.starts_with('<') && bare.ends_with('>');
    // `-` means absent, or is the list mark of the next line.
    if matches!(bare, "" | "-" | HIDDEN) || placeholder {
        return false;
    }
    match kind {
        NameKind::Plain => false,
        NameKind::Secret => !matches!(bare, "null" | "none" | "None" | "true" | "false"),
        NameKind::Likely => {
            !(is_status(bare) || is_elsewhere(bare) || is_counted(bare) && bare.len() < 6)
        }
        // `pin: 13` of a chip, `session: 5`.
        NameKind::Perhaps => {
            !(is_word(bare) || is_elsewhere(bare) || is_counted(bare) && bare.len() < 4)
        }
        // `tokens: 123`, `tokens: {"input": 5}`: a number of tokens, not the tokens.
        NameKind::Many => {
            let word = bare.len() <= 12 && bare.bytes().all(|b| b.is_ascii_lowercase());
            let list = bare.len() <= MAX_PLACE && bare.starts_with(['{', '[']);
            !is_counted(bare) && !word && !list
        }
    }
}

/// Longest path or placeholder. A longer value is read once and hidden.
const MAX_PLACE: usize = 256;

fn is_counted(bare: &str) -> bool {
    bare.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'/' | b'%'))
}

fn is_status(bare: &str) -> bool {
    const STATUS: &[&str] = &[
        "ok", "yes", "no", "true", "false", "null", "none", "nil", "pass", "passed", "fail",
        "failed", "skip", "skipped", "error", "warn", "warning", "required", "optional", "enabled",
        "disabled", "test", "set", "unset", "missing", "invalid", "valid",
    ];
    STATUS.iter().any(|status| bare.eq_ignore_ascii_case(status))
}

/// A word of plain text or the name of a scheme: `auth: Basic`.
fn is_word(bare: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || matches!(b, b'-' | b'_' | b' ' | b'.');
    bare.len() <= 24
        && (bare.bytes().skip(1).all(inner) && bare.as_bytes()[0].is_ascii_alphabetic()
            || is_status(bare))
}

/// Where the secret is found, or what refers to it: a path, an ARN, a variable.
fn is_elsewhere(bare: &str) -> bool {
    const PLACES: &[&str] = &[
        "/etc/",
        concat!("/ho", "me/"),
        "/opt/",
        concat!("/ro", "ot/"),
        "/run/",
        "/srv/",
        "/tmp/",
        "/usr/",
        "/var/",
        "~/",
        "./",
        "../",
        "arn:",
        "alias/",
        "file:",
        "vault:",
        "ssm:",
        "projects/",
        "${",
        "{{",
        "$(",
    ];
    bare.len() <= MAX_PLACE && PLACES.iter().any(|place| bare.starts_with(place))
}

/// Whether a word looks generated by a machine or a careful person.
pub(super) fn is_generated(word: &str) -> bool {
    let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
    word.len() >= 8
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
        && !is_elsewhere(word)
        && word.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_differ_from_counts_and_names_about_secrets() {
        for name in [
            "password",
            "DB_PASSWORD",
            "apiKey",
            "client-secret",
            "x.auth.token",
            "smtp_pass",
            "pass",
            "pw",
            "ssh_key",
            "encryption_key",
            "masterKey",
            "dbPass",
            "Ocp-Apim-Subscription-Key",
            "set-cookie",
            "authorization",
            "client-key-data",
            "JSESSIONID",
            "auth",
            "APIKeys",
        ] {
            assert!(hides(kind(name), "x1y2z3w4"), "{name}");
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
            ("passenger", "bob1"),
            ("tests_passed", "17"),
            ("bypass", "x1y2z3w4"),
            ("author", "bob1"),
            ("oauth", "x1y2"),
            ("primary_key", "x1y2z3"),
            ("monkey", "x1"),
            ("key", "x1y2z3w4"),
            ("pass", "17"),
            ("auth", "none"),
            ("auth", "Basic"),
            ("ssh_key", "~/.ssh/id_ed25519"),
            ("session", "5"),
        ] {
            assert!(!hides(kind(name), value), "{name}: {value}");
        }
        assert!(hides(kind("tokens"), "abc123def"));
        assert!(hides(kind("password"), "123456"));
    }

    #[test]
    fn both_ends_of_a_long_name_count() {
        let long = "a".repeat(2 * MAX_NAME);
        assert_eq!(kind(&format!("{long}_password")), NameKind::Secret);
        assert_eq!(kind(&format!("password_{long}")), NameKind::Secret);
        assert_eq!(kind(&long), NameKind::Plain);
    }

    #[test]
    fn every_name_of_a_secret_contains_a_stem_or_ends_in_one() {
        let ends = SECRET_LAST.iter().chain(PERHAPS_LAST);
        let keys = KEYS.iter().map(|of| format!("{of}_key"));
        let passes = PASSES.iter().map(|of| format!("{of}pass"));
        let names =
            SECRET.iter().chain(ends).map(|name| (*name).to_owned()).chain(keys).chain(passes);
        for name in names {
            assert_ne!(kind(&name), NameKind::Plain, "{name}");
            let held = STEMS.iter().any(|stem| name.contains(stem));
            let ended = ENDS.iter().any(|end| name.ends_with(end));
            assert!(held || ended, "{name}");
        }
    }
}
