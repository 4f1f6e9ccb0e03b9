//! The table of rules for secrets, each with the words without which it can't match. Every rule
//! reads a text a bounded number of times, even a hostile one.

use std::borrow::Cow;
use std::sync::OnceLock;

use regex::{Captures, Regex};

use super::{HIDDEN, assigned, blocks, commands, headers, markup, names, tokens, urls};

/// A kind of secret.
pub(super) struct SecretRule {
    /// A name for people, and for the test that each rule has a hostile text.
    pub name: &'static str,
    /// In lower case. Every match of the rule contains one of them.
    pub words: &'static [&'static str],
    /// Like `words`, but a sign or a space must follow.
    pub ends: &'static [&'static str],
    pub place: WordContext,
    how: How,
}

/// Where a word counts.
pub(super) enum WordContext {
    Anywhere,
    /// Not right after a letter or digit, as `sk_` in `task_id`.
    Alone,
    /// If this check of a bounded context returns true. Arguments: text, start and end of the
    /// word.
    If(fn(&[u8], usize, usize) -> bool),
}

/// How a match is replaced.
enum How {
    /// The match is hidden, except its first group.
    Hidden(&'static str),
    /// Like `Hidden`, unless the second group is harmless.
    Unless(&'static str, fn(&str) -> bool),
    /// The rule reads the text itself, in several steps.
    Scan(&'static [Scan]),
}

type Scan = for<'a> fn(&'a str) -> Cow<'a, str>;

const fn rule(name: &'static str, words: &'static [&'static str], how: How) -> SecretRule {
    SecretRule { name, words, ends: &[], place: WordContext::Anywhere, how }
}

/// Applied in this order. Patterns avoid starting with a word boundary: in escaped text a
/// letter may precede, as in `\nghp_…`.
pub(super) const RULES: &[SecretRule] = &[
    // Private keys in PEM, OpenPGP and SSH2, also if they are cut off.
    rule(
        "private key",
        &["private key-----", "private key block", "private key ----"],
        How::Hidden(
            r"-{4,5} ?BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)? ?-{4,5}[\s\S]*?(?:-{4,5} ?END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)? ?-{4,5}|$)",
        ),
    ),
    rule(
        "private lines",
        &["private-lines:"],
        How::Hidden(
            r"(?i)(private-lines:\s*\d+)(?:(?:\s|\\r|\\n)+[A-Za-z0-9+/]{4,}={0,2})+(?:-mac:\s*[0-9a-f]+)?",
        ),
    ),
    rule(
        "vault file",
        &["$ansible_vault"],
        How::Hidden(r"(?i)(\$ansible_vault[;.a-z0-9_-]*)(?:(?:\s|\\r|\\n)+[0-9a-f]{6,})+"),
    ),
    // Headers that are secret as a whole.
    SecretRule {
        place: WordContext::If(sign_follows),
        ..rule(
            "cookie",
            &["cookie"],
            How::Hidden(r#"(?i)((?:set-)?cookie["']?\s*:\s*["']?)[^\r\n"]+"#),
        )
    },
    SecretRule {
        place: WordContext::If(sign_follows),
        ..rule("authorization", &["authorization"], How::Scan(&[headers::authorization]))
    },
    SecretRule {
        place: WordContext::If(blank_follows),
        ..rule(
            "bearer",
            &["bearer", "basic"],
            How::Unless(r"(?i)((?:bearer|basic)\s+)([a-z0-9._~+/=-]{8,})", is_word),
        )
    },
    // Connection strings and URLs with a user.
    SecretRule {
        place: WordContext::If(urls::may),
        ..rule("url", &["://"], How::Scan(&[urls::apply]))
    },
    rule("driver", &["@tcp(", "@unix(", "@udp(", ":thin:"], How::Scan(&[driver, thin])),
    // Webhooks with a secret path.
    rule(
        "webhook",
        &["hooks.slack.com/", "api/webhooks/", "webhook.office.com/"],
        How::Hidden(
            r#"(?i)(hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/|webhook\.office\.com/)[^\s"'<>\\]+"#,
        ),
    ),
    // Values under the name of a secret.
    SecretRule {
        ends: names::ENDS,
        place: WordContext::If(assigned::may),
        ..rule(
            "assigned",
            names::STEMS,
            How::Scan(&[blocks::apply, markup::elements, markup::pairs, assigned::apply]),
        )
    },
    rule(
        "query",
        &["?sig=", "&sig=", "?key=", "&key=", "?code=", "&code=", "?auth=", "&auth="],
        How::Hidden(r#"(?i)([?&](?:sig|key|code|auth)=)[^\s&#"'<>\\]+"#),
    ),
    // `password is hunter2`, `--password hunter2`
    SecretRule {
        place: WordContext::If(is_follows),
        ..rule(
            "said",
            &["password", "passwd", "secret", "api key"],
            How::Unless(
                r"(?i)((?:password|passwd|secret|api key)\s+(?:is|was):?\s+)(\S+)",
                is_about,
            ),
        )
    },
    SecretRule {
        place: WordContext::If(is_follows),
        ..rule(
            "phrase",
            &["passphrase", "seed phrase", "mnemonic"],
            How::Unless(
                r"(?i)((?:passphrase|seed phrase|mnemonic)\s+(?:is|was):?\s+)([^\s,;]+(?: [a-z]+){0,24})",
                is_about_phrase,
            ),
        )
    },
    SecretRule {
        place: WordContext::If(blank_follows),
        ..rule(
            "flag",
            &["-password", "-passwd", "-secret", "-token", "-api-key"],
            How::Hidden(r"(?i)(--?(?:password|passwd|secret|token|api-key)\s+)[^\s-]\S*"),
        )
    },
    rule(
        "stdin",
        &["password-stdin"],
        How::Hidden(r"((?:echo|printf)\s+(?:-n\s+)?)[^\s|]+(?:[^\S\n]+[^\s|]+){0,8}"),
    ),
    SecretRule {
        place: WordContext::If(commands::may),
        ..rule("command", commands::WORDS, How::Scan(&[commands::apply]))
    },
    // Keys that are recognised by their form.
    SecretRule {
        place: WordContext::If(tokens::may),
        ..rule("token", tokens::WORDS, How::Scan(&[tokens::apply]))
    },
    rule(
        "aws",
        &["akia", "asia", "aroa", "aida", "abia", "acca"],
        How::Hidden(r"(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{16}"),
    ),
    SecretRule {
        place: WordContext::Alone,
        ..rule(
            "sk",
            &["sk-", "sk_", "rk_", "pk_live_", "pk_test_", "whsec_", "gsk_"],
            How::Unless(
                r"((?:^|[^A-Za-z0-9]|\\[nrtbf]|\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2})(?:sk|rk|pk|gsk|whsec)[_-](?:live_|test_|proj-|ant-|svcacct-)?)([A-Za-z0-9_+/=-]{16,})",
                is_word,
            ),
        )
    },
    rule("sendgrid", &["sg."], How::Hidden(r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")),
    // Our own keys, as `service::create_key` creates them.
    rule("own", &["wb_"], How::Hidden(r"wb_[0-9a-fA-F]{64}")),
    // JSON web tokens.
    rule(
        "jwt",
        &["eyj"],
        How::Hidden(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*"),
    ),
    SecretRule {
        place: WordContext::If(has_digits),
        ..rule(
            "digits",
            &[
                "key-",
                "v1.0-",
                "api-",
                ":aa",
                "a3-",
                "-us",
                ".atlasv1.",
                "t1.",
                "0q~",
                "1q~",
                "2q~",
                "3q~",
                "4q~",
                "5q~",
                "6q~",
                "7q~",
                "8q~",
                "9q~",
                "sk0",
                "sk1",
                "sk2",
                "sk3",
                "sk4",
                "sk5",
                "sk6",
                "sk7",
                "sk8",
                "sk9",
                "ska",
                "skb",
                "skc",
                "skd",
                "ske",
                "skf",
            ],
            How::Hidden(concat!(
                r"key-[0-9a-f]{32}|SK[0-9a-fA-F]{32}|v1\.0-[0-9a-f]{24}-[0-9a-f]{40,}",
                r"|API-[A-Z0-9]{25,}|\d{8,10}:AA[A-Za-z0-9_-]{30,}|A3-[A-Z0-9]{6}(?:-[A-Z0-9]{5,11}){4,5}",
                r"|[0-9a-f]{32}-us\d{1,2}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}|t1\.[A-Za-z0-9_-]+={0,2}\.[A-Za-z0-9_-]{86}={0,2}|[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34}",
            )),
        )
    },
    rule(
        "crypt",
        &["$apr1$", "$2a$", "$2b$", "$2y$", "$1$", "$5$", "$6$", "$y$", "$argon2", "$scrypt$"],
        How::Hidden(
            r"(\$(?:apr1|2[aby]|[156y]|argon2(?:id?|d)|scrypt)\$)[./A-Za-z0-9$=,+]{20,256}",
        ),
    ),
    // The private parts of a JSON web key within a text.
    rule("jwk", &["kty"], How::Hidden(r#"("(?:d|k|p|q|dp|dq|qi)\\*"\s*:\s*\\*")[A-Za-z0-9_-]+"#)),
    rule("pgpass", &[":5432:"], How::Hidden(r"(:5432:[^:\s]{1,64}:[^:\s]{1,64}:)[^\s:]+")),
    rule(
        "identified",
        &["identified by"],
        How::Hidden(r#"(?i)(identified\s+by\s+)(?:'[^']*'?|"[^"]*"?|[^\s;'"]+)"#),
    ),
];

/// Each is compiled on first use: most processes need few.
static COMPILED: [OnceLock<Regex>; RULES.len()] = [const { OnceLock::new() }; RULES.len()];

fn compiled(place: usize, pattern: &str) -> &'static Regex {
    let compile = || Regex::new(pattern).expect("a test compiles every pattern");
    COMPILED[place].get_or_init(compile)
}

/// Applies one rule to the text.
pub(super) fn apply(place: usize, text: &str) -> Cow<'_, str> {
    let (pattern, harmless): (_, fn(&str) -> bool) = match RULES[place].how {
        How::Hidden(pattern) => (pattern, |_| false),
        How::Unless(pattern, harmless) => (pattern, harmless),
        How::Scan(steps) => {
            return {
                steps.iter().fold(Cow::Borrowed(text), |text, step| super::then(text, *step))
            };
        }
    };
    compiled(place, pattern).replace_all(text, |found: &Captures<'_>| {
        let group = |n: usize| found.get(n).map_or("", |group| group.as_str());
        match harmless(group(2)) {
            true => found[0].to_owned(),
            false => format!("{}{HIDDEN}", group(1)),
        }
    })
}

/// `app:secret@tcp(db:3306)/x`, as in Go's drivers.
fn driver(text: &str) -> Cow<'_, str> {
    static PATTERN: OnceLock<Regex> = OnceLock::new();
    let pattern = r#"([A-Za-z0-9_.%+-]{1,128}:)[^\s"'<>]+(@(?:tcp|unix|udp)\()"#;
    let found = PATTERN.get_or_init(|| Regex::new(pattern).expect("the pattern is well formed"));
    found.replace_all(text, "${1}***${2}")
}

/// `jdbc:oracle:thin:app/secret@//db`.
fn thin(text: &str) -> Cow<'_, str> {
    static PATTERN: OnceLock<Regex> = OnceLock::new();
    let pattern = r#"(:thin:[A-Za-z0-9_.]{1,128}/)[^\s"'<>@]+(@)"#;
    let found = PATTERN.get_or_init(|| Regex::new(pattern).expect("the pattern is well formed"));
    found.replace_all(text, "${1}***${2}")
}

/// A word of plain text: `basic monitoring`.
fn is_word(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'-' | b'.' | b'_'))
}

/// Words that continue a sentence about a password without containing it: `the API key is not
/// known`. None of them is used as a password.
const ABOUT: &[&str] = &[
    "a",
    "already",
    "an",
    "and",
    "as",
    "asked",
    "at",
    "being",
    "by",
    "encrypted",
    "expected",
    "expired",
    "for",
    "from",
    "given",
    "hashed",
    "in",
    "incorrect",
    "invalid",
    "kept",
    "made",
    "missing",
    "needed",
    "neither",
    "never",
    "no",
    "not",
    "of",
    "on",
    "only",
    "optional",
    "out",
    "read",
    "redacted",
    "refused",
    "rejected",
    "required",
    "revoked",
    "sent",
    "set",
    "shown",
    "stored",
    "taken",
    "that",
    "the",
    "this",
    "to",
    "too",
    "under",
    "unknown",
    "unset",
    "used",
    "what",
    "where",
    "which",
    "wrong",
    "your",
];

/// Like [`ABOUT`] for a phrase, in which any common word may be a part of the secret.
const ABOUT_PHRASE: &[&str] = &[
    "expected",
    "expired",
    "incorrect",
    "invalid",
    "missing",
    "needed",
    "not",
    "refused",
    "required",
];

fn is_one_of(word: &str, words: &[&str]) -> bool {
    let bare = word.trim_matches(['.', ',', ';', ':', '!', '?']);
    words.iter().any(|about| about.eq_ignore_ascii_case(bare))
}

fn is_about(value: &str) -> bool {
    is_one_of(value, ABOUT)
}

/// Words in addition to [`ABOUT`] that may follow if a phrase is not given.
const ABOUT_MORE: &[&str] =
    &["available", "configured", "here", "it", "known", "present", "wallet", "yet"];

/// No secret phrase is as short as three words. After a colon a phrase may still follow.
fn is_about_phrase(value: &str) -> bool {
    let mut words = value.split(' ');
    let first = words.next().unwrap_or_default();
    if !is_one_of(first, ABOUT_PHRASE) || first.ends_with(':') {
        return false;
    }
    words.clone().count() < 3 || words.all(|word| is_about(word) || is_one_of(word, ABOUT_MORE))
}

/// How far a rule looks after a word. No one writes more spaces or quotes before a value.
const MAX_LOOKAHEAD: usize = 64;

fn after(text: &[u8], to: usize) -> &[u8] {
    &text[to..text.len().min(to + MAX_LOOKAHEAD)]
}

fn blank_follows(text: &[u8], _: usize, to: usize) -> bool {
    text.get(to).is_some_and(u8::is_ascii_whitespace)
}

/// A sign follows, after spaces, quotes and backslashes; or there are too many of these to
/// decide.
fn sign_follows(text: &[u8], _: usize, to: usize) -> bool {
    let between = |b: &&u8| b.is_ascii_whitespace() || matches!(**b, b'"' | b'\'' | b'\\');
    let near = after(text, to);
    let sign = near.iter().find(|b| !between(b));
    sign.map_or(near.len() == MAX_LOOKAHEAD, |sign| matches!(sign, b':' | b'='))
}

/// `is` or `was` follows, after spaces.
fn is_follows(text: &[u8], _: usize, to: usize) -> bool {
    let near = after(text, to);
    let word = near.trim_ascii_start();
    let is = |said: &[u8]| word.len() > said.len() && word[..said.len()].eq_ignore_ascii_case(said);
    word.len() < near.len() && (is(b"is") || is(b"was"))
        || near.len() == MAX_LOOKAHEAD && word.is_empty()
}

/// Whether enough letters and digits without a space are next to a short word, on either side.
fn has_digits(text: &[u8], from: usize, to: usize) -> bool {
    const MIN_CHARS: usize = 13;
    let is_key = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'~' | b'.');
    let after = &text[to..text.len().min(to + MIN_CHARS)];
    let before = &text[from.saturating_sub(MIN_CHARS)..from];
    [after, before].iter().any(|near| {
        near.len() == MIN_CHARS && near.iter().all(is_key) && near.iter().any(u8::is_ascii_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_can_be_compiled() {
        for place in 0..RULES.len() {
            apply(place, "a text");
        }
    }

    #[test]
    fn words_are_in_lower_case_and_long_enough_to_be_rare() {
        for rule in RULES {
            for word in rule.words.iter().chain(rule.ends) {
                assert_eq!(*word, word.to_ascii_lowercase());
            }
            assert!(rule.words.iter().all(|word| word.len() >= 3), "{}", rule.name);
            assert!(rule.ends.iter().all(|word| word.len() >= 2), "{}", rule.name);
        }
    }
}
