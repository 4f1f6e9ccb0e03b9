//! Secrets to plant in tests: forms from other secret scanners (`planted/forms.txt`), with
//! values made at run time, so that no file in the repository looks as if it held a secret.

use std::collections::HashSet;

/// One form, filled with generated secrets.
#[derive(Debug, Clone)]
pub struct Planted {
    /// The scanner list that the form is from.
    pub source: &'static str,
    /// The form as written; names the test case.
    pub form: &'static str,
    pub text: String,
    /// The parts that must stay hidden.
    pub secrets: Vec<String>,
}

/// Parts of all secrets, to search much text at once.
pub struct PlantedParts(HashSet<[u8; PART]>);

/// A part of this length does not occur in other text by chance.
const PART: usize = 10;

impl PlantedParts {
    pub fn of<'a>(planted: impl IntoIterator<Item = &'a Planted>) -> Self {
        let secrets = planted.into_iter().flat_map(|planted| &planted.secrets);
        let parts = secrets.flat_map(|secret| secret.as_bytes().windows(PART));
        Self(parts.filter_map(|part| part.try_into().ok()).collect())
    }

    /// The first secret part in `shown`.
    pub fn find(&self, shown: &str) -> Option<String> {
        let shown = without_hidden(shown);
        let mut parts = shown.as_bytes().windows(PART);
        let part = parts
            .find(|part| <&[u8; PART]>::try_from(*part).is_ok_and(|part| self.0.contains(part)));
        part.map(|part| String::from_utf8_lossy(part).into_owned())
    }
}

/// Forms that look like ordinary text and are hidden only under a name that denotes a secret.
const UNTOLD: &[&str] = &[
    // A letter, a dot and letters: any method call. Vault writes `hvs.` since 1.10.
    "s.<<alnum:12>>7<<alnum:11>>",
    "u+<<alnum:18>>",
    // Letters, dots and letters, like file names and hosts.
    "M<<alnum:23>>.<<alnum:6>>.<<url:27>>",
    "pat<<alnum:14>>.<<hex:64>>",
    "1/<<digits:16>>:<<hex:32>>",
    // Nothing in the name denotes a secret.
    "BUNDLE_GEMS__CONTRIBSYS__COM=<<hex:8>>:<<hex:8>>",
    // Mail addresses and SSH targets with a port look the same.
    "bob:<<pass:12>>@acct.snowflakecomputing.com/db",
];

impl Planted {
    /// Whether the form can be distinguished from ordinary text.
    pub fn is_told(&self) -> bool {
        !UNTOLD.contains(&self.form)
    }
}

const FORMS: &str = include_str!("planted/forms.txt");

/// A visible part of a secret of this length counts as a leak.
const TELLING: usize = 6;

impl Planted {
    /// Returns a part of a secret that `shown` contains, also if invisible characters interrupt
    /// it.
    pub fn leak(&self, shown: &str) -> Option<String> {
        let plain = without_hidden(shown);
        self.secrets.iter().find_map(|secret| {
            let chars: Vec<char> = secret.chars().collect();
            let windows = chars.windows(TELLING.min(chars.len()));
            let mut windows = windows.map(|window| window.iter().collect::<String>());
            windows.find(|window| shown.contains(window) || plain.contains(window))
        })
    }
}

/// Every form of the list, with the same values at each call.
pub fn planted() -> Vec<Planted> {
    let lines = FORMS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.enumerate().map(|(place, line)| filled(place as u64, line)).collect()
}

fn filled(place: u64, line: &'static str) -> Planted {
    let (source, form) = line.split_once(" | ").expect("a line is `source | template`");
    let mut values = Values(place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (mut text, mut secrets) = (String::new(), Vec::new());
    let mut rest = form;
    while let Some(at) = rest.find("<<") {
        text.push_str(&unescaped(&rest[..at]));
        let end = rest[at..].find(">>").expect("a placeholder ends") + at;
        let placeholder = &rest[at + 2..end];
        rest = &rest[end + 2..];
        if placeholder == "-" {
            text.push_str("-----");
            continue;
        }
        let (kind, length) = placeholder.split_once(':').expect("a placeholder is KIND:LENGTH");
        let value = values.of(kind, length.parse().expect("a length is a number"));
        text.push_str(&value);
        // A few digits alone are no secret, and occur by chance.
        if value.len() >= 4 {
            secrets.push(value);
        }
    }
    text.push_str(&unescaped(rest));
    Planted { source, form, text, secrets }
}

fn unescaped(given: &str) -> String {
    let mut plain = String::new();
    let mut rest = given;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let mark = rest[at + 1..].chars().next().expect("a backslash escapes something");
        rest = &rest[at + 1 + mark.len_utf8()..];
        match mark {
            'n' => plain.push('\n'),
            't' => plain.push('\t'),
            'e' => plain.push('\u{1b}'),
            '0' => plain.push('\0'),
            'u' => {
                let end = rest.find('}').expect("\\u{…} ends");
                let code = u32::from_str_radix(&rest[1..end], 16).expect("\\u{…} is hex");
                plain.push(char::from_u32(code).expect("\\u{…} is a character"));
                rest = &rest[end + 1..];
            }
            other => plain.extend(['\\', other].iter().filter(|c| keeps(**c, other))),
        }
    }
    plain + rest
}

/// `\\` becomes one backslash; `\"` is kept as it is.
fn keeps(character: char, escaped: char) -> bool {
    character != '\\' || escaped != '\\'
}

/// Removes terminal sequences, control characters and zero-width characters.
fn without_hidden(shown: &str) -> String {
    let mut plain = String::new();
    let mut chars = shown.chars();
    while let Some(next) = chars.next() {
        match next {
            '\u{1b}' => {
                chars.by_ref().find(|end| end.is_ascii_alphabetic());
            }
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => {}
            '\u{2060}'..='\u{2069}' | '\u{feff}' => {}
            _ if next.is_control() && !matches!(next, '\n' | '\t') => {}
            _ => plain.push(next),
        }
    }
    plain
}

/// Generates values by kind from a seed (SplitMix64).
struct Values(u64);

const WORDS: &[&str] = &[
    "zebrawood",
    "quincunx",
    "oxbow",
    "marzipan",
    "gimbal",
    "fjord",
    "tamarack",
    "yurtish",
    "plinth",
    "kumquat",
    "wombat",
    "jodhpur",
    "vellum",
    "nutmeg",
    "dirigible",
    "saxhorn",
];

impl Values {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize
    }

    fn from(&mut self, alphabet: &str, length: usize) -> String {
        let marks = alphabet.as_bytes();
        (0..length).map(|_| char::from(marks[self.next() % marks.len()])).collect()
    }

    fn of(&mut self, kind: &str, length: usize) -> String {
        const DIGITS: &str = "0123456789";
        const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
        const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        const ALNUM: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        match kind {
            "digits" => self.from(DIGITS, length),
            "lower" => self.from(LOWER, length),
            "upper" => self.from(UPPER, length),
            "alnum" => self.from(ALNUM, length),
            "hex" => self.from("0123456789abcdef", length),
            "b64" => self.from(&format!("{ALNUM}+/"), length),
            "url" => {
                // Both ends are alphanumeric, because rules look for a word boundary there.
                let inner = self.from(&format!("{ALNUM}-_"), length.saturating_sub(2));
                format!("{}{inner}{}", self.from(ALNUM, 1), self.from(ALNUM, 1))
            }
            "pass" => {
                let inner = self.from(&format!("{ALNUM}!+_.~"), length - 4);
                format!(
                    "{}{}{inner}{}",
                    self.from("KLMN", 1),
                    self.from(DIGITS, 2),
                    self.from("xyz", 1)
                )
            }
            "hard" => {
                let third = (length - 3) / 3;
                let part = |values: &mut Self| values.from(ALNUM, third);
                format!("{}/{}@{}#x", part(self), part(self), part(self))
            }
            "words" => {
                let words: Vec<&str> =
                    (0..length).map(|_| WORDS[self.next() % WORDS.len()]).collect();
                words.join(" ")
            }
            other => panic!("planted/forms.txt names the unknown kind {other:?}"),
        }
    }
}
