//! Whether any rule can match at all: one walk over the text, before any pattern is tried.
//!
//! Each word of a rule is looked for by its four rarest letters in a row. Two tables say of three
//! letters whether any word has them as its first or as its last ones, so that a byte of text
//! costs two look-ups and no branch that is hard to foretell; where one has, the four are looked
//! up. Where a word stands,
//! its rule looks at what is around it, so that text which only sounds like a secret costs no
//! more. Such a look is at a bounded part of the text.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::rules::{RULES, Where};

/// A bit for each rule.
pub(super) type Mask = u64;
const _: () = assert!(RULES.len() <= Mask::BITS as usize, "each rule has its bit");

struct Filter {
    /// By three letters of five bits each: whether the four of a word begin with them.
    firsts: [bool; THREES],
    /// Whether they end with them.
    lasts: [bool; THREES],
    /// By four letters, or three where the word has no more.
    words: HashMap<u32, Vec<Word>, BuildHasherDefault<Mixed>>,
}

const THREES: usize = 1 << 15;

/// The keys are our own, so that nobody can make them collide.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32((*b).into()));
    }

    fn write_u32(&mut self, key: u32) {
        self.0 = (self.0 ^ u64::from(key)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy)]
struct Word {
    word: &'static [u8],
    /// Where in the word its rarest letters stand.
    at: usize,
    rule: u8,
}

/// Four letters as a number, capitals as small ones.
fn folded(four: &[u8]) -> u32 {
    u32::from_le_bytes([four[0], four[1], four[2], four[3]]) | 0x2020_2020
}

/// The first three of them.
fn three(four: u32) -> u32 {
    four & 0x00ff_ffff
}

/// A place for three letters. What differs in more than five bits shares one.
#[inline(always)]
fn place(four: u32) -> usize {
    (four & 0x1f | four >> 3 & 0x3e0 | four >> 6 & 0x7c00) as usize
}

static FILTER: LazyLock<Filter> = LazyLock::new(|| {
    let mut filter =
        Filter { firsts: [false; THREES], lasts: [false; THREES], words: HashMap::default() };
    for (rule, of_rule) in RULES.iter().enumerate() {
        for (list, then) in [(of_rule.words, &b""[..]), (of_rule.ends, SIGNS)] {
            for word in list.iter().map(|word| word.as_bytes()) {
                let at = (0..word.len().max(4) - 3).min_by_key(|at| commonness(word, *at));
                let at = at.expect("there is a first place at least");
                filter.enter(Word { word, at, rule: rule as u8 }, then);
            }
        }
    }
    filter
});

/// What may follow the end of a name that tells a secret: a sign, a quote, a blank before them,
/// a bracket, an escape, or more of the name.
const SIGNS: &[u8] = b"=: \t\r\n\"'`>\\]).%-_[({,\x1b&;/\xef";
impl Filter {
    fn enter(&mut self, word: Word, then: &[u8]) {
        let letters = &word.word[word.at..word.word.len().min(word.at + 4)];
        let keys = match (letters.len(), then) {
            (4.., _) | (3, []) => vec![letters.to_vec()],
            _ => then.iter().map(|b| [letters, &[*b]].concat()).collect(),
        };
        for mut key in keys {
            let length = key.len();
            key.resize(4, 0);
            let four = folded(&key);
            let key = if length == 4 { four } else { three(four) };
            self.firsts[place(key)] = true;
            match length {
                4 => self.lasts[place(key >> 8)] = true,
                // Anything may follow.
                _ => (0..32).for_each(|next| self.lasts[place(key >> 8 | next << 16)] = true),
            }
            self.words.entry(key).or_default().push(word);
        }
    }
}

/// How often such letters come in texts and in JSON, roughly: a mark between letters is rare.
fn commonness(word: &[u8], at: usize) -> usize {
    const RARE_FIRST: &[u8] = b"zqx_$@j:kvwbygpfmucdlhrsnioate";
    let of = |b: &u8| RARE_FIRST.iter().position(|rare| rare == b).unwrap_or(RARE_FIRST.len());
    word[at..].iter().take(4).map(of).sum()
}

/// The rules that may match in this text, or in one that was escaped into it.
pub(super) fn of(text: &[u8]) -> Mask {
    let mut found = 0;
    walk(text, |word, at| {
        // Of a rule that is known to match, no other word is looked at.
        if found >> word.rule & 1 == 0 && word.stands(text, at) {
            found |= 1 << word.rule;
        }
        false
    });
    found
}

/// Whether any rule may match.
pub(super) fn any(text: &[u8]) -> bool {
    walk(text, |word, at| word.stands(text, at))
}

/// Calls with each word whose rarest letters stand at a place, until that is enough.
fn walk(text: &[u8], mut enough: impl FnMut(&Word, usize) -> bool) -> bool {
    let filter = &*FILTER;
    let Some(begin) = text.first_chunk::<4>() else { return false };
    let mut here = place(folded(begin));
    for (at, four) in text.windows(4).enumerate() {
        let four = folded(four);
        let next = place(four >> 8);
        if filter.firsts[here] & filter.lasts[next] && filter.is_enough(four, at, &mut enough) {
            return true;
        }
        here = next;
    }
    false
}

impl Filter {
    #[cold]
    #[inline(never)]
    fn is_enough(
        &self,
        four: u32,
        at: usize,
        enough: &mut impl FnMut(&Word, usize) -> bool,
    ) -> bool {
        [four, three(four)].into_iter().any(|key| {
            self.words.get(&key).is_some_and(|words| words.iter().any(|word| enough(word, at)))
        })
    }
}

impl Word {
    /// Whether it stands where its rarest letters do, and may count there.
    fn stands(&self, text: &[u8], at: usize) -> bool {
        let Some(from) = at.checked_sub(self.at) else { return false };
        let to = from + self.word.len();
        let Some(there) = text.get(from..to) else { return false };
        there.eq_ignore_ascii_case(self.word)
            && match RULES[usize::from(self.rule)].place {
                Where::Anywhere => true,
                Where::Alone => begins_a_word(&text[..from]),
                Where::If(may) => may(text, from, to),
            }
    }
}

/// Nothing that belongs to the same word stands before; the letter of an escape does not.
pub(super) fn begins_a_word(before: &[u8]) -> bool {
    match before {
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] | [] => true,
        [.., b'\\', b'u', a, b, c, d] if [a, b, c, d].iter().all(|b| b.is_ascii_hexdigit()) => true,
        [.., b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => true,
        [.., last] => !last.is_ascii_alphanumeric(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_wherever_it_stands() {
        for (place, rule) in RULES.iter().enumerate() {
            if matches!(rule.place, Where::If(_)) {
                continue;
            }
            for word in rule.words {
                let shouted = word.to_uppercase();
                for text in [format!("{word}@"), format!("a {word}@."), format!("\\n{shouted}@")] {
                    assert!(of(text.as_bytes()) & 1 << place != 0, "{text}");
                }
            }
        }
    }

    #[test]
    fn a_word_within_another_counts_only_where_it_may() {
        for text in [
            "task_id",
            "disk-full",
            "",
            "a",
            "sk",
            "a harmless text of some length",
            "password reset mail sent",
            "auth failed for user bob",
            "passed=17",
            "bypass = on",
            "the key is lost",
            "https://example.com/a",
            "author: bob",
            "docker pull failed",
        ] {
            assert!(!any(text.as_bytes()), "{text}");
        }
        for text in
            ["sk_x", "a sk-x", "\\u001bsk-x", "my_token=1", "pw: x", "\"auth\": 1", "x://a@"]
        {
            assert!(any(text.as_bytes()), "{text}");
        }
    }
}
