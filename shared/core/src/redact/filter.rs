//! Whether any rule can match at all: one walk over the text, before any pattern is tried.
//!
//! Each word of a rule is looked for by its four rarest letters in a row. The words stand in
//! 32 groups; four tables say for each letter in which groups it is a first, second, third or
//! fourth one, so that a byte of text costs four look-ups and no branch that is hard to foretell.

use std::sync::LazyLock;

use super::rules::RULES;

/// A bit for each rule.
pub(super) type Mask = u32;
const _: () = assert!(RULES.len() <= Mask::BITS as usize, "each rule has its bit");

const GROUPS: usize = u32::BITS as usize;

struct Filter {
    /// By place and letter: a bit for each group.
    tables: [[u32; 256]; 4],
    groups: [Vec<Word>; GROUPS],
}

struct Word {
    word: &'static [u8],
    /// Where in the word its rarest letters stand.
    at: usize,
    rule: u8,
}

static FILTER: LazyLock<Filter> = LazyLock::new(|| {
    let mut words: Vec<Word> = Vec::new();
    for (rule, of_rule) in RULES.iter().enumerate() {
        for word in of_rule.words.iter().map(|word| word.as_bytes()) {
            let at = (0..word.len().max(4) - 3).min_by_key(|at| commonness(word, *at));
            let at = at.expect("there is a first place at least");
            words.push(Word { word, at, rule: rule as u8 });
        }
    }
    // Neighbours share letters, which makes it rarer that a group's letters come together
    // without being a word's.
    words.sort_by_key(|word| (word.letters().len(), word.letters()));
    let mut filter = Filter { tables: [[0; 256]; 4], groups: [const { Vec::new() }; GROUPS] };
    let each = words.len().div_ceil(GROUPS);
    for (place, word) in words.into_iter().enumerate() {
        let group = place / each;
        for (table, letter) in filter.tables.iter_mut().zip(word.letters()) {
            table[usize::from(letter.to_ascii_lowercase())] |= 1 << group;
            table[usize::from(letter.to_ascii_uppercase())] |= 1 << group;
        }
        if word.letters().len() == 3 {
            filter.tables[3].iter_mut().for_each(|groups| *groups |= 1 << group);
        }
        filter.groups[group].push(word);
    }
    filter
});

impl Word {
    /// Three where the word has no more: something always follows in what a rule matches.
    fn letters(&self) -> &'static [u8] {
        &self.word[self.at..self.word.len().min(self.at + 4)]
    }
}

/// How often such letters come in texts and in JSON, roughly.
fn commonness(word: &[u8], at: usize) -> usize {
    const RARE_FIRST: &[u8] = b"zqxjkvwbygpfmucdlhrsnioate";
    let of = |b: &u8| RARE_FIRST.iter().position(|rare| rare == b).unwrap_or(RARE_FIRST.len());
    word[at..].iter().take(4).map(of).sum()
}

/// The rules that may match in this text, or in one that was escaped into it.
pub(super) fn of(text: &[u8]) -> Mask {
    let mut mask = 0;
    find(text, |rule| {
        mask |= 1 << rule;
        false
    });
    mask
}

/// Whether any rule may match.
pub(super) fn any(text: &[u8]) -> bool {
    find(text, |_| true)
}

/// Calls with each rule that may match until one is enough.
fn find(text: &[u8], mut enough: impl FnMut(u8) -> bool) -> bool {
    let filter = &*FILTER;
    let [first, second, third, fourth] = &filter.tables;
    text.windows(4).enumerate().any(|(at, four)| {
        let groups = first[usize::from(four[0])]
            & second[usize::from(four[1])]
            & third[usize::from(four[2])]
            & fourth[usize::from(four[3])];
        groups != 0 && filter.words_at(text, at, groups, &mut enough)
    })
}

impl Filter {
    #[cold]
    fn words_at(
        &self,
        text: &[u8],
        at: usize,
        mut groups: u32,
        enough: &mut impl FnMut(u8) -> bool,
    ) -> bool {
        while groups != 0 {
            let words = &self.groups[groups.trailing_zeros() as usize];
            if words.iter().any(|word| word.stands(text, at) && enough(word.rule)) {
                return true;
            }
            groups &= groups - 1;
        }
        false
    }
}

impl Word {
    /// Whether it stands where its rarest letters do, and may count there.
    fn stands(&self, text: &[u8], at: usize) -> bool {
        let Some(from) = at.checked_sub(self.at) else { return false };
        let Some(there) = text.get(from..from + self.word.len()) else { return false };
        let rule = &RULES[usize::from(self.rule)];
        there.eq_ignore_ascii_case(self.word)
            && (!rule.starts || begins_a_word(&text[..from]))
            && rule.needs.is_none_or(|byte| text[from..].contains(&byte))
    }
}

/// Nothing that belongs to the same word stands before; the letter of an escape does not.
fn begins_a_word(before: &[u8]) -> bool {
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
        for text in ["task_id", "disk-full", "", "a", "sk", "a harmless text of some length"] {
            assert!(!any(text.as_bytes()), "{text}");
        }
        for text in ["sk_x", "a sk-x", "\\u001bsk-x", "my_token"] {
            assert!(any(text.as_bytes()), "{text}");
        }
    }
}
