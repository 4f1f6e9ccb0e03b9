//! Decides in one pass over the text which rules can match, before any pattern is tried.
//!
//! Each word of a rule is searched for by its four rarest consecutive letters, as four
//! character classes. A table records for three classes whether any word begins or ends with
//! them, so a byte of text costs two look-ups and no unpredictable branch. If both match, the
//! four classes are looked up. Where a word occurs, its rule checks the context, so that text
//! which only resembles a secret costs no more. This check reads a bounded part of the text.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::rules::{RULES, WordContext};

/// One bit for each rule.
pub(super) type Mask = u64;
const _: () = assert!(RULES.len() <= Mask::BITS as usize, "each rule has its bit");

struct Filter {
    /// By three classes: whether the four classes of a word begin or end with them.
    threes: [u8; THREES],
    /// By four classes.
    words: HashMap<u32, Vec<Word>, BuildHasherDefault<Mixed>>,
}

const BEGINS: u8 = 1;
const ENDS: u8 = 2;

/// Bits of a class.
const CLASS: u32 = 5;
const THREES: usize = 1 << (3 * CLASS);
const FOURS: u32 = 1 << (4 * CLASS);

/// Each letter has a class, regardless of case. All digits share one, and so do the characters
/// that occur within names, after them and between words.
static CLASSES: [u8; 256] = {
    let mut classes = [31; 256];
    let mut b = 0;
    while b < 128 {
        classes[b] = match b as u8 {
            letter @ b'a'..=b'z' => letter - b'a',
            letter @ b'A'..=b'Z' => letter - b'A',
            b'0'..=b'9' => 26,
            b'_' => 27,
            b'-' => 28,
            b'=' | b':' => 29,
            b' ' | b'\t' | b'\n' | b'\r' => 30,
            _ => 31,
        };
        b += 1;
    }
    classes
};

fn class(b: u8) -> u32 {
    CLASSES[usize::from(b)].into()
}

/// The keys are our own, so no one can construct collisions.
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
    /// Index of its rarest letters in the word.
    at: usize,
    rule: u8,
    /// Whether one of [`SIGNS`] must follow.
    signed: bool,
}

static FILTER: LazyLock<Box<Filter>> = LazyLock::new(|| {
    let mut filter = Box::new(Filter { threes: [0; THREES], words: HashMap::default() });
    for (rule, of_rule) in RULES.iter().enumerate() {
        for (list, ends) in [(of_rule.words, false), (of_rule.ends, true)] {
            for word in list.iter().map(|word| word.as_bytes()) {
                let at = (0..word.len().max(4) - 3).min_by_key(|at| commonness(word, *at));
                let at = at.expect("there is a first place at least");
                filter.enter(Word { word, at, rule: rule as u8, signed: ends && word.len() < 4 });
            }
        }
    }
    filter
});

/// Characters that may follow the end of a secret's name: a sign, a quote, a space before them,
/// a bracket, an escape, or more of the name.
const SIGNS: &[u8] = b"=: \t\r\n\"'`>\\]).%-_[({,\x1b&;/\xef";

impl Filter {
    fn enter(&mut self, word: Word) {
        let letters = &word.word[word.at..word.word.len().min(word.at + 4)];
        let begin = letters.iter().fold(0, |key, b| key << CLASS | class(*b));
        let mut keys = match (letters.len(), word.signed) {
            (4, _) => vec![begin],
            (3, false) => (0..1 << CLASS).map(|next| begin << CLASS | next).collect(),
            (3, true) => SIGNS.iter().map(|b| begin << CLASS | class(*b)).collect(),
            // Two letters, a sign, and any further character.
            _ => {
                let signed = SIGNS.iter().map(|b| begin << CLASS | class(*b));
                signed
                    .flat_map(|key| (0..1 << CLASS).map(move |next| key << CLASS | next))
                    .collect()
            }
        };
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.threes[(key >> CLASS) as usize] |= BEGINS;
            self.threes[key as usize % THREES] |= ENDS;
            self.words.entry(key).or_default().push(word);
        }
    }
}

/// Rough frequency of these letters in texts and in JSON. Punctuation between letters is rare.
fn commonness(word: &[u8], at: usize) -> usize {
    const RARE_FIRST: &[u8] = b"zqx_$@j:kvwbygpfmucdlhrsnioate";
    let of = |b: &u8| RARE_FIRST.iter().position(|rare| rare == b).unwrap_or(RARE_FIRST.len());
    word[at..].iter().take(4).map(of).sum()
}

/// The rules that may match in this text, or in one that was escaped into it.
pub(super) fn of(text: &[u8]) -> Mask {
    let mut found = 0;
    walk(text, |word, at| {
        // Once a rule is known to match, its other words are skipped.
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

/// Calls `enough` with each word whose rarest letters are at an index, until it returns true.
fn walk(text: &[u8], mut enough: impl FnMut(&Word, usize) -> bool) -> bool {
    let filter = &**FILTER;
    let mut last = text.iter().take(3).fold(0, |key, b| key << CLASS | class(*b));
    let mut before = filter.threes[last as usize];
    for (at, b) in text.iter().skip(3).enumerate() {
        last = last << CLASS | class(*b);
        let three = filter.threes[last as usize % THREES];
        if before & BEGINS != 0 && three & ENDS != 0 && filter.is_enough(last, at, &mut enough) {
            return true;
        }
        before = three;
    }
    false
}

impl Filter {
    #[cold]
    #[inline(never)]
    fn is_enough(
        &self,
        last: u32,
        at: usize,
        enough: &mut impl FnMut(&Word, usize) -> bool,
    ) -> bool {
        let words = self.words.get(&(last % FOURS));
        words.is_some_and(|words| words.iter().any(|word| enough(word, at)))
    }
}

impl Word {
    /// Whether the whole word is here and counts at this position.
    fn stands(&self, text: &[u8], at: usize) -> bool {
        let Some(from) = at.checked_sub(self.at) else { return false };
        let to = from + self.word.len();
        let Some(there) = text.get(from..to) else { return false };
        there.eq_ignore_ascii_case(self.word)
            && (!self.signed || text.get(to).is_some_and(|b| SIGNS.contains(b)))
            && match RULES[usize::from(self.rule)].place {
                WordContext::Anywhere => true,
                WordContext::Alone => begins_a_word(&text[..from]),
                WordContext::If(may) => may(text, from, to),
            }
    }
}

/// Whether no character of the same word precedes. The letter of an escape is not part of it.
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
    fn every_word_is_found_at_any_position() {
        for (place, rule) in RULES.iter().enumerate() {
            if matches!(rule.place, WordContext::If(_)) {
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
