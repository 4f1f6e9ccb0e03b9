//! What is taken for a secret: one table of patterns, each with the words without which it
//! can't match.

use std::borrow::Cow;
use std::sync::OnceLock;

use regex::{Captures, Regex};

use super::HIDDEN;
use super::names;

/// A kind of secret.
pub(super) struct Rule {
    /// In lower case; one of them stands in whatever the pattern matches.
    pub words: &'static [&'static str],
    /// Whether a word must not stand right after a letter or digit, as `sk_` in `task_id`.
    pub starts: bool,
    /// A byte without which it can't match either.
    pub needs: Option<u8>,
    pattern: &'static str,
    with: With,
}

/// What takes the place of a match.
enum With {
    /// Nothing of it is left but its first group.
    Hidden,
    /// The same, unless the second group is harmless.
    Unless(fn(&str) -> bool),
    /// The first group is `name=`, the second what it is given.
    Named,
}

const fn rule(words: &'static [&'static str], pattern: &'static str, with: With) -> Rule {
    Rule { words, starts: false, needs: None, pattern, with }
}

/// Applied in this order. No pattern begins with a word's border where it can be helped: in
/// text that was escaped a letter may stand before, as in `\nghp_…`.
pub(super) const RULES: &[Rule] = &[
    // Private keys in PEM, also when they were cut off.
    rule(
        &["private key-----"],
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)",
        With::Hidden,
    ),
    // Headers that are secret as a whole.
    rule(&["cookie"], r#"(?i)((?:set-)?cookie["']?\s*:\s*["']?)[^\r\n"]+"#, With::Hidden),
    rule(
        &["authorization"],
        r#"(?i)((?:proxy-)?authorization(?:\\*["'])?\s*[:=]\s*(?:\\*["'])?)((?:(?:bearer|basic|digest|token|apikey|aws4-hmac-sha256)\s+)?[^\s"',;\\]+)"#,
        With::Unless(is_placeholder),
    ),
    rule(
        &["bearer", "basic"],
        r"(?i)((?:bearer|basic)\s+)([a-z0-9._~+/=-]{8,})",
        With::Unless(is_word),
    ),
    // Connection strings and URLs with a user.
    Rule {
        needs: Some(b'@'),
        ..rule(
            &["://"],
            r#"(?i)([a-z][a-z0-9+.-]*://)(?:[^\s/?#@:"'<>\\]*:[^\s/"'<>\\]*|[^\s/?#@:"'<>\\]{16,})(?:@)"#,
            With::Hidden,
        )
    },
    // Webhooks whose path is the secret.
    rule(
        &["hooks.slack.com/", "api/webhooks/", "webhook.office.com/"],
        r#"(?i)(hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/|webhook\.office\.com/)[^\s"'<>\\]+"#,
        With::Hidden,
    ),
    // name=value, name: value and "name": "value" where the name tells a secret.
    rule(names::WORDS, names::ASSIGNED, With::Named),
    rule(
        &["?sig=", "&sig=", "?key=", "&key=", "?code=", "&code=", "?auth=", "&auth="],
        r#"(?i)([?&](?:sig|key|code|auth)=)[^\s&#"'<>\\]+"#,
        With::Hidden,
    ),
    // `password is hunter2`, `--password hunter2`
    rule(
        &["password", "passwd", "passphrase", "secret", "api key"],
        r"(?i)((?:password|passwd|passphrase|secret|api key)\s+(?:is|was)\s+)\S+",
        With::Hidden,
    ),
    rule(
        &["-password", "-passwd", "-secret", "-token", "-api-key"],
        r"(?i)(--?(?:password|passwd|secret|token|api-key)\s+)[^\s-]\S*",
        With::Hidden,
    ),
    // Keys that are known by their looks.
    rule(
        &["akia", "asia", "aroa", "aida", "abia", "acca"],
        r"(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{16}",
        With::Hidden,
    ),
    rule(
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        r"(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
        With::Hidden,
    ),
    rule(
        &["glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glft-", "glsoat-", "glimt-", "glagent-"],
        r"gl(?:pat|dt|rt|ptt|cbt|ft|soat|imt|agent)-[A-Za-z0-9_.-]{16,}",
        With::Hidden,
    ),
    rule(
        &["xoxa-", "xoxb-", "xoxe-", "xoxe.", "xoxo-", "xoxp-", "xoxr-", "xoxs-", "xapp-"],
        r"(?:xox[abeoprs][.-]|xapp-)[A-Za-z0-9.-]{8,}",
        With::Hidden,
    ),
    Rule {
        starts: true,
        ..rule(
            &["sk-", "sk_", "rk_", "pk_live_", "pk_test_", "whsec_", "gsk_"],
            r"((?:^|[^A-Za-z0-9]|\\[nrtbf]|\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2})(?:sk|rk|pk|gsk|whsec)[_-](?:live_|test_|proj-|ant-|svcacct-)?)([A-Za-z0-9_+/=-]{16,})",
            With::Unless(is_word),
        )
    },
    rule(&["aiza", "gocspx-", "ya29."], r"(?:AIza|GOCSPX-|ya29\.)[A-Za-z0-9_-]{20,}", With::Hidden),
    rule(&["npm_", "pypi-", "hf_"], r"(?:npm_|pypi-|hf_)[A-Za-z0-9_-]{30,}", With::Hidden),
    rule(
        &["hvs.", "hvb.", "dckr_pat_", "dop_v1_", "glsa_", "shpat_", "age-secret-key-1"],
        r"(?i)(?:hv[sb]\.|dckr_pat_|dop_v1_|glsa_|shpat_|age-secret-key-1)[A-Za-z0-9_-]{20,}",
        With::Hidden,
    ),
    rule(&["sg."], r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}", With::Hidden),
    // Our own keys, as `service::create_key` makes them.
    rule(&["wb_"], r"wb_[0-9a-fA-F]{64}", With::Hidden),
    // JSON web tokens.
    rule(&["eyj"], r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*", With::Hidden),
];

/// Each compiled when it is first needed: most processes need few.
static COMPILED: [OnceLock<Regex>; RULES.len()] = [const { OnceLock::new() }; RULES.len()];

fn compiled(place: usize) -> &'static Regex {
    let compile = || Regex::new(RULES[place].pattern).expect("a test compiles every pattern");
    COMPILED[place].get_or_init(compile)
}

/// The text after one rule.
pub(super) fn apply(place: usize, text: &str) -> Cow<'_, str> {
    compiled(place).replace_all(text, |found: &Captures<'_>| {
        let group = |n: usize| found.get(n).map_or("", |group| group.as_str());
        let (before, value) = (group(1), group(2));
        let stays = match RULES[place].with {
            With::Hidden => false,
            With::Unless(harmless) => harmless(value),
            With::Named => !names::hides(names::in_text(before), value),
        };
        match (stays, &RULES[place].with) {
            (true, _) => found[0].to_owned(),
            (false, With::Hidden) if RULES[place].needs == Some(b'@') => {
                format!("{before}{HIDDEN}@")
            }
            (false, _) => format!("{before}{HIDDEN}"),
        }
    })
}

/// `<token>` and the like, as a manual writes it; and what was hidden already.
fn is_placeholder(value: &str) -> bool {
    let value = value.trim_matches(['"', '\'', '\\', '`']);
    let inner = value.rsplit(' ').next().and_then(|last| last.strip_prefix('<'));
    value.ends_with(HIDDEN) || inner.is_some_and(|inner| inner.ends_with('>'))
}

/// A word of plain text: `basic monitoring`.
fn is_word(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_can_be_compiled() {
        for place in 0..RULES.len() {
            compiled(place);
        }
    }

    #[test]
    fn words_are_in_lower_case_and_long_enough_to_be_rare() {
        for word in RULES.iter().flat_map(|rule| rule.words) {
            assert!(word.len() >= 3, "{word}");
            assert_eq!(*word, word.to_ascii_lowercase());
        }
    }
}
